"""The Procfile's own commands, as a platform starts them; and what else a platform reads."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from app.demo.valkey import free_port, valkey
from app.settings.environment import read_environment
from jobs.worker import worker_settings
from tests.support.harness import (
    ROOT,
    Harness,
    Server,
    http_client,
    sign_standard,
    standard_body,
    status_of,
    wait_until,
)

PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
DEPLOY = ROOT / "deploy"
#: A visit whose contact is known: one call to make it.
VISIT = {"contact": {"id": "cont_KYdl3lftgZXGRbxqoj"}, "time_scheduled": "2026-03-14T16:00:00Z"}


def on_path(env: dict[str, str]) -> dict[str, str]:
    return {**env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def start(harness: Harness, name: str, port: int, ready: str, **env: str) -> Server:
    return Server(
        ["sh", "-c", f"exec {PROCFILE[name]}"], port, ready, on_path({**harness.env, "PORT": str(port), **env})
    )


# -- what each platform reads --


@dataclass(frozen=True)
class Platform:
    """What a platform was told: start commands by process, the path it asks, and who gets how long to stop.

    grace_s: by process; empty where the platform's own default, which no file can set, is long enough.
    """

    commands: dict[str, str]
    ready: str
    signal: str = "SIGTERM"
    grace_s: dict[str, float] | None = None


def heroku_and_dokku() -> Platform:
    """Both read the Procfile itself, and send SIGTERM 30 s before SIGKILL."""
    [check] = json.loads((ROOT / "app.json").read_text())["healthchecks"]["web"]
    return Platform(PROCFILE, check["path"])


def render() -> Platform:
    services = {
        service["type"]: service for service in yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    }
    web, worker = services["web"], services["worker"]
    commands = {"web": web["startCommand"], "worker": worker["startCommand"], "release": web["preDeployCommand"]}
    grace_s = {"web": web["maxShutdownDelaySeconds"], "worker": worker["maxShutdownDelaySeconds"]}
    return Platform(commands, web["healthCheckPath"], grace_s=grace_s)


def railway() -> Platform:
    web, worker = (tomllib.loads((DEPLOY / f"railway.{name}.toml").read_text())["deploy"] for name in ("web", "worker"))
    [release] = web["preDeployCommand"]
    commands = {"web": web["startCommand"], "worker": worker["startCommand"], "release": release}
    grace_s = {"web": web["drainingSeconds"], "worker": worker["drainingSeconds"]}
    return Platform(commands, web["healthcheckPath"], grace_s=grace_s)


def fly() -> Platform:
    told = tomllib.loads((DEPLOY / "fly.toml").read_text())
    [check] = told["http_service"]["checks"]
    commands = {"web": told["processes"]["web"], "worker": told["processes"]["worker"]}
    commands["web"] = in_its_place(shlex.split(commands["web"]))  # no shell of Fly's own reads it
    commands["release"] = told["deploy"]["release_command"]
    return Platform(
        commands, check["path"], told["kill_signal"], dict.fromkeys(told["processes"], told["kill_timeout"])
    )


def docker() -> Platform:
    image, services = dockerfile(), yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    commands = {"web": in_its_place(json.loads(image["CMD"])), "worker": shlex.join(services["worker"]["command"])}
    grace_s = {name: float(services[name]["stop_grace_period"].removesuffix("s")) for name in ("web", "worker")}
    [ready] = re.findall(r"'(/\w+)'\)", image["HEALTHCHECK"])
    return Platform(commands, ready, image["STOPSIGNAL"], grace_s)


def dockerfile() -> dict[str, str]:
    """The last of each instruction."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    return dict(line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))


def in_its_place(arguments: list[str]) -> str:
    """The command that a shell, there to read PORT, gives its place to."""
    assert ["sh", "-c"] == arguments[:2]
    command = arguments[2].removeprefix("exec ")
    assert command != arguments[2]
    return command


PLATFORMS: list[Callable[[], Platform]] = [heroku_and_dokku, render, railway, fly, docker]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_platform_starts_what_the_procfile_says_and_asks_whether_it_is_ready(
    platform: Callable[[], Platform],
) -> None:
    told = platform()

    assert {"web", "worker"} <= told.commands.keys() <= PROCFILE.keys()
    assert {name: PROCFILE[name] for name in told.commands} == told.commands
    assert "/readyz" == told.ready


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_platform_gives_both_processes_longer_to_stop_than_they_take(platform: Callable[[], Platform]) -> None:
    told = platform()
    settings = read_environment({"REDIS_URL": "redis://127.0.0.1:6379/0", "VISITS_API_TOKEN": "t"})
    [web_s] = re.findall(r"--timeout-graceful-shutdown (\d+)", PROCFILE["web"])
    grace_s = told.grace_s or {"web": 30, "worker": 30}

    assert "SIGTERM" == told.signal
    assert 25 <= grace_s["web"] > int(web_s)
    assert 25 <= grace_s["worker"] > worker_settings(settings)["job_completion_wait"]


def test_what_makes_a_redis_makes_one_that_throws_nothing_away() -> None:
    services = yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["redis"]["command"]

    assert ["noeviction"] == [service["maxmemoryPolicy"] for service in services if service["type"] == "keyvalue"]
    assert "--maxmemory-policy noeviction" in " ".join(composed)
    assert "--appendonly yes" in " ".join(composed)


def test_the_image_has_the_python_of_the_other_platforms_runs_as_nobody_and_installs_what_is_pinned() -> None:
    image = dockerfile()

    assert f"python:{(ROOT / '.python-version').read_text().strip()}-slim" == image["FROM"]
    assert int(image["USER"]) > 0
    assert "pip install --no-cache-dir --require-hashes -r requirements.txt" == image["RUN"]


def test_what_the_image_copies_is_enough_to_start_and_to_stop(harness: Harness, tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in copied:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    port = free_port()
    env = on_path({**harness.env, "PORT": str(port), "PYTHONPATH": ""})
    process = subprocess.Popen(json.loads(dockerfile()["CMD"]), cwd=tmp_path, env=env)
    try:
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/readyz") == 200)
        process.send_signal(signal.SIGTERM)

        assert sorted(let_in) == sorted(copied)
        assert process.wait(25) in (0, -signal.SIGTERM)
    finally:
        process.kill()


# -- the Procfile's own commands --


def test_the_procfile_names_the_three_processes() -> None:
    assert ["web", "worker", "release"] == list(PROCFILE)


def test_a_delivery_goes_through_the_procfiles_own_commands(harness: Harness) -> None:
    port = free_port()
    with (
        start(harness, "web", port, "/readyz") as harness.web_server,
        start(harness, "worker", free_port(), "") as worker,
    ):
        answer = harness.send(
            "visit.created", "A-1042", contact={"email": "ada@example.com"}, time_scheduled="2026-03-14T16:00:00Z"
        )

        assert (202, 1) == (answer.status_code, answer.json()["changes"])
        visit = wait_until(lambda: harness.visit("standard-A-1042"))
        assert "2026-03-14T16:00:00Z" == visit["time_scheduled"]
        assert 0 == worker.kill(signal.SIGTERM)
        assert 0 == harness.web_server.kill(signal.SIGTERM) or -signal.SIGTERM == harness.web_server.process.returncode


#: It is to take less than ten; a crowded machine gets some more. One that waits for the API takes sixty.
RELEASE_S = 30


def test_the_release_command_fails_on_wrong_settings_and_without_redis_and_on_nothing_else(harness: Harness) -> None:
    def release(**env: str) -> "subprocess.CompletedProcess[str]":
        env = on_path({**harness.env, **env})
        command = ["sh", "-c", PROCFILE["release"]]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=RELEASE_S)

    assert 0 == release().returncode
    harness.inject_faults(down=True)
    assert 0 == release().returncode
    harness.inject_faults(down=False, slow_share=1, slow_s=60)
    assert 0 == release(HOOKS__CALENDLY__VISITS_API_TOKEN="another").returncode
    harness.clear_faults()
    assert 0 == release(VISITS_API_URL="http://127.0.0.1:1").returncode
    gone = release(REDIS_URL="redis://127.0.0.1:1/0")
    assert 4 == gone.returncode
    assert "127.0.0.1:1 cannot be reached" in gone.stdout
    assert 3 == release(VISITS_API_TOKEN="").returncode
    wrong = release(RETRY_CAP_S="soon")
    assert 3 == wrong.returncode
    assert "RETRY_CAP_S" in wrong.stdout
    assert "soon" not in wrong.stdout + wrong.stderr


# -- stopping, and two of a kind --


class Sender(threading.Thread):
    """A tool that keeps one connection and rings on it, one delivery after the other, until it is asked to close."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(name=name)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.answers: list[int] = []
        self.trouble = ""

    def run(self) -> None:
        try:
            while not self.ring():
                pass
        except (OSError, http.client.HTTPException) as error:
            self.trouble = repr(error)
        finally:
            self.connection.close()

    def ring(self) -> bool:
        """Whether it was asked to close."""
        raw = standard_body("visit.created", f"{self.name}-{len(self.answers)}", **VISIT)
        self.connection.request("POST", "/hooks/standard", raw, sign_standard(raw))
        answer = self.connection.getresponse()
        answer.read()
        self.answers.append(answer.status)
        return answer.will_close


@contextmanager
def serving(harness: Harness, processes: int) -> Iterator[Server]:
    """The Procfile's web; SIGKILL would leave its children behind."""
    with start(harness, "web", free_port(), "/readyz", WEB_CONCURRENCY=str(processes)) as door:
        try:
            yield door
        finally:
            door.kill(signal.SIGTERM)


@pytest.mark.parametrize("processes", [1, 2])
def test_web_that_is_asked_to_go_answers_every_request_that_was_sent_and_loses_none(
    harness: Harness, processes: int
) -> None:
    with serving(harness, processes) as door:
        senders = [Sender(door.port, f"sender-{number}") for number in range(8)]
        for sender in senders:
            sender.start()
        wait_until(lambda: sum(len(sender.answers) for sender in senders) > 200, 30)

        door.kill(signal.SIGTERM)
        for sender in senders:
            sender.join(30)

    answers = [status for sender in senders for status in sender.answers]
    assert [""] * 8 == [sender.trouble for sender in senders]
    assert {202} == set(answers)
    with start(harness, "worker", free_port(), ""):
        wait_until(lambda: harness.get_from_api("/visits")["pagination"]["total"] >= len(answers), 60)
    assert len(answers) == harness.get_from_api("/visits")["pagination"]["total"]


class Listener(threading.Thread):
    """Somebody who looks at the console, and reads the event stream to its end."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request("GET", "/console/stream", headers={"x-user": "ada", "x-doorbell-proxy-secret": PROXYS})
        self.answer = self.connection.getresponse()
        self.trouble = ""

    def run(self) -> None:
        try:
            self.answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.trouble = repr(error)
        finally:
            self.connection.close()


PROXYS = "a secret of the proxy"


@pytest.mark.parametrize("processes", [1, 2])
def test_event_streams_keep_web_neither_from_going_nor_from_answering(harness: Harness, processes: int) -> None:
    harness.env |= {
        "SECRET_KEY": "a-key-of-the-tests",
        "CONSOLE_PROXY_HEADER": "X-User",
        "CONSOLE_PROXY_SECRET": PROXYS,
    }
    with serving(harness, processes) as door:
        listeners = [Listener(door.port) for _ in range(6)]
        senders = [Sender(door.port, f"sender-{number}") for number in range(4)]
        for thread in (*listeners, *senders):
            thread.start()
        wait_until(lambda: sum(len(sender.answers) for sender in senders) > 100, 30)

        door.process.send_signal(signal.SIGTERM)
        for thread in (*listeners, *senders):
            thread.join(60)
        status = door.process.wait(60)
        said = door.log.read_text()

    answers = [code for sender in senders for code in sender.answers]
    assert {200} == {listener.answer.status for listener in listeners}
    assert [""] * 10 == [one.trouble for one in (*listeners, *senders)]
    assert {202} == set(answers)
    assert status in (0, -signal.SIGTERM)
    assert "exceeded" not in said  # the grace
    with start(harness, "worker", free_port(), ""):
        wait_until(lambda: harness.get_from_api("/visits")["pagination"]["total"] >= len(answers), 60)
    assert len(answers) == harness.get_from_api("/visits")["pagination"]["total"]


def test_a_request_that_was_on_its_way_when_web_was_asked_to_go_is_answered(harness: Harness) -> None:
    with serving(harness, 1) as door:
        sender = Sender(door.port, "sender")
        first_closes = sender.ring()
        door.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status_of(f"{door.url}/healthz") == 0)

        second_closes = sender.ring()

        assert [202, 202] == sender.answers
        assert [False, True] == [first_closes, second_closes]
        assert door.process.wait(20) in (0, -signal.SIGTERM)


def test_two_web_processes_share_the_work_and_double_none_of_it(harness: Harness) -> None:
    with serving(harness, 2) as harness.web_server:
        pids = wait_until(lambda: len(found := children(harness.web_server.process.pid)) == 2 and found)
        alone = []
        for absent in pids:
            os.kill(absent, signal.SIGSTOP)
            alone.append(post(harness, *signed(f"without-{absent}")))
            os.kill(absent, signal.SIGCONT)
        deliveries = [signed(str(number)) for number in range(100)] * 2

        with ThreadPoolExecutor(20) as crowd:
            answers = list(crowd.map(lambda delivery: post(harness, *delivery), deliveries))

    assert [202, 202] == alone
    assert {202: 100, 200: 100} == Counter(answers)
    assert [{200, 202}] * 100 == [{first, second} for first, second in zip(answers[:100], answers[100:], strict=True)]


def signed(visit: str) -> tuple[bytes, dict[str, str]]:
    raw = standard_body("visit.created", visit, **VISIT)
    return raw, sign_standard(raw)


def post(harness: Harness, raw: bytes, headers: dict[str, str]) -> int:
    """On a connection of its own: whichever process is there takes it."""
    with http_client() as client:
        return client.post(f"{harness.web_server.url}/hooks/standard", content=raw, headers=headers).status_code


def children(pid: int) -> list[int]:
    """Those that serve; multiprocessing has another one that keeps the books."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


# -- Heroku's smallest Redis: 20 connections --


def test_two_generations_and_a_release_fit_into_twenty_connections(sandbox: Server) -> None:
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        harness.redis_command("CONFIG", "SET", "maxclients", "20")
        for _ in ("the old", "the new"):
            harness.web_server = stack.enter_context(serving(harness, 1))
            stack.enter_context(start(harness, "worker", free_port(), ""))
            for number in range(50):
                harness.send("visit.created", f"{harness.web_server.port}-{number}", **VISIT)

        released = subprocess.run(
            shlex.split(PROCFILE["release"]), cwd=ROOT, env=on_path(harness.env), capture_output=True
        )
        wait_until(lambda: harness.get_from_api("/visits")["pagination"]["total"] == 100, 60)

        assert 0 == released.returncode
        assert b"rejected_connections:0" in harness.redis_command("INFO", "stats").split()


# -- what else a platform looks for --


def test_heroku_finds_one_list_of_requirements_and_a_python_that_it_has() -> None:
    lists = [name for name in ("requirements.txt", "Pipfile.lock", "poetry.lock", "uv.lock") if (ROOT / name).exists()]

    assert ["requirements.txt"] == lists
    assert (ROOT / ".python-version").read_text().strip() in ("3.11", "3.12", "3.13", "3.14")


def test_app_json_sets_what_heroku_needs() -> None:
    described = json.loads((ROOT / "app.json").read_text())

    assert "none" == described["env"]["REDIS_TLS_VERIFY"]["value"]
    assert {"web", "worker"} == set(described["formation"])


@pytest.mark.parametrize("option", ["--timeout-keep-alive 95", "--timeout-graceful-shutdown 20", "--no-access-log"])
def test_the_web_command_has_the_options_that_are_no_defaults(option: str) -> None:
    assert option in PROCFILE["web"]


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ({"3.13": "3.13.1", "3.11": "3.11.10"}, "3.13"),
        ({"3.12": "3.12.5", "3.11": "3.11.10"}, "3.11"),
        ({"3.12": "3.12.6", "3.11": "3.11.10"}, "3.12"),
        ({"3.12": "3.12.5", "3.11": "3.11.7"}, "3.12"),
        ({"3.11": "3.11.7"}, "3.11"),
    ],
)
def test_make_prefers_a_python_with_security_fixes(tmp_path: Path, installed: dict[str, str], chosen: str) -> None:
    for name in ("3.14", "3.13", "3.12", "3.11", "3", ""):
        version = installed.get(name, "3.10.0")
        told = f"import sys; sys.version_info = ({version.replace('.', ', ')}); sys.executable = '{name}'; exec(sys.argv[1])"
        stub = tmp_path / f"python{name}"
        stub.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{told}" "$2"\n')
        stub.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    told = subprocess.run(["make", "-p", "-n", "help"], cwd=ROOT, env=env, capture_output=True, text=True).stdout

    assert f"PYTHON := {chosen}" in told.splitlines()
