"""The commands of the Procfile, as a platform runs them, and the other files that platforms read."""

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
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli import COMMANDS
from app.cli.run import WEB_OPTIONS
from app.demo.valkey import free_port, valkey
from app.settings.environment import read_environment
from jobs.worker import worker_settings
from tests.support.cases import each
from tests.support.harness import Harness, Server, http_client, sign_standard, standard_body, status_of, wait_until
from tests.support.processes import ROOT, run_process

PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
DEPLOY, TESTS = ROOT / "deploy", ROOT / "tests"
#: A visit with a contact id, which needs a single POST.
VISIT = {"contact": {"id": "cont_KYdl3lftgZXGRbxqoj"}, "time_scheduled": "2026-03-14T16:00:00Z"}


def on_path(env: dict[str, str]) -> dict[str, str]:
    return {**env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def start(harness: Harness, name: str, port: int, ready: str, **env: str) -> Server:
    return Server(
        ["sh", "-c", f"exec {PROCFILE[name]}"], port, ready, on_path({**harness.env, "PORT": str(port), **env})
    )


def arguments_of(name: str, port: int = 8000) -> list[str]:
    """Return the command of the Procfile for a process that is forked, which needs no time for imports."""
    program, *arguments = shlex.split(PROCFILE[name].replace("${PORT:-8000}", str(port)))
    return [sys.executable, *(() if program == "python" else ("-m", program)), *arguments]


# Configuration of the platforms


@dataclass(frozen=True)
class Platform:
    """The configuration of a platform: start commands by process, the paths of its health checks, and the stop signal.

    start: the path that must answer once after a start; None if the release command checks Redis instead. routing: the path
    that decides later whether the process gets requests; None if nothing does. grace_s: the time to stop, by process; None
    if only the platform's default applies, which is long enough.
    """

    commands: dict[str, str]
    start: str | None
    routing: str | None
    signal: str = "SIGTERM"
    grace_s: dict[str, float] | None = None


def heroku_and_dokku() -> Platform:
    """Return what both read from the Procfile; they send SIGTERM 30 s before SIGKILL."""
    [check] = json.loads((ROOT / "app.json").read_text())["healthchecks"]["web"]
    return Platform(PROCFILE, check["path"], None)


def render() -> Platform:
    services = {
        service["type"]: service for service in yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    }
    web, worker = services["web"], services["worker"]
    commands = {"web": web["startCommand"], "worker": worker["startCommand"], "release": web["preDeployCommand"]}
    grace_s = {"web": web["maxShutdownDelaySeconds"], "worker": worker["maxShutdownDelaySeconds"]}
    return Platform(commands, None, web["healthCheckPath"], grace_s=grace_s)


def railway() -> Platform:
    web, worker = (tomllib.loads((DEPLOY / f"railway.{name}.toml").read_text())["deploy"] for name in ("web", "worker"))
    [release] = web["preDeployCommand"]
    commands = {"web": web["startCommand"], "worker": worker["startCommand"], "release": release}
    grace_s = {"web": web["drainingSeconds"], "worker": worker["drainingSeconds"]}
    return Platform(commands, web["healthcheckPath"], None, grace_s=grace_s)


def fly() -> Platform:
    config = tomllib.loads((DEPLOY / "fly.toml").read_text())
    [check] = config["http_service"]["checks"]
    commands = {"web": config["processes"]["web"], "worker": config["processes"]["worker"]}
    commands["release"] = config["deploy"]["release_command"]
    grace_s = dict.fromkeys(config["processes"], config["kill_timeout"])
    return Platform(commands, None, check["path"], config["kill_signal"], grace_s)


def docker() -> Platform:
    image, services = dockerfile(), compose_services()
    commands = {"web": shlex.join(json.loads(image["CMD"])), "worker": shlex.join(services["worker"]["command"])}
    grace_s = {name: float(services[name]["stop_grace_period"].removesuffix("s")) for name in ("web", "worker")}
    [ready] = re.findall(r"'(/\w+)'\)", image["HEALTHCHECK"])
    return Platform(commands, ready, None, image["STOPSIGNAL"], grace_s)


def kubernetes() -> Platform:
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    pods = {o["metadata"]["labels"]["app.kubernetes.io/component"]: o for o in objects if o["kind"] == "Deployment"}
    specs = {name: deployment["spec"]["template"]["spec"] for name, deployment in pods.items()}
    containers = {name: spec["containers"][0] for name, spec in specs.items()}
    # The time before SIGTERM is part of the grace period.
    before_signal_s = float(containers["web"]["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = {name: float(spec["terminationGracePeriodSeconds"]) for name, spec in specs.items()}
    grace_s["web"] -= before_signal_s
    commands = {name: shlex.join(container["command"]) for name, container in containers.items()}
    start, routing = (containers["web"][probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe"))
    return Platform(commands, start, routing, grace_s=grace_s)


def compose_services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def dockerfile() -> dict[str, str]:
    """Return the last of each instruction, by name."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    return dict(line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))


PLATFORMS: list[Callable[[], Platform]] = [heroku_and_dokku, render, railway, fly, docker, kubernetes]


@each("platform", PLATFORMS)
def test_a_platform_runs_the_commands_of_the_procfile(platform: Callable[[], Platform]) -> None:
    config = platform()
    # `doorbell web` reads PORT itself, so it needs no shell.
    commands = {**PROCFILE, "web": config.commands["web"]}

    assert {"web", "worker"} <= config.commands.keys() <= PROCFILE.keys()
    assert {name: commands[name] for name in config.commands} == config.commands
    assert config.commands["web"] in (PROCFILE["web"], "python -m app web --host 0.0.0.0")


@each("platform", PLATFORMS)
def test_a_platform_checks_redis_before_a_start_and_routes_without_it(platform: Callable[[], Platform]) -> None:
    """Without Redis web answers with the status after which each tool retries: for some, the 503 of a router is none."""
    config = platform()

    assert "/readyz" == config.start or config.commands["release"] == PROCFILE["release"]
    assert config.routing in (None, "/healthz")


def test_the_procfile_and_doorbell_web_start_uvicorn_with_the_same_options() -> None:
    options = " ".join(WEB_OPTIONS).replace("=", " ")

    assert f"uvicorn app.main:app --host 0.0.0.0 --port ${{PORT:-8000}} {options}" == PROCFILE["web"]


@each("platform", PLATFORMS)
def test_a_platform_gives_both_processes_enough_time_to_stop(platform: Callable[[], Platform]) -> None:
    config = platform()
    settings = read_environment({"REDIS_URL": "redis://127.0.0.1:6379/0", "VISITS_API_TOKEN": "t"})
    [web_s] = re.findall(r"--timeout-graceful-shutdown (\d+)", PROCFILE["web"])
    grace_s = config.grace_s or {"web": 30, "worker": 30}

    assert "SIGTERM" == config.signal
    assert 25 <= grace_s["web"] > int(web_s)
    assert 25 <= grace_s["worker"] > worker_settings(settings)["job_completion_wait"]


def test_a_configured_redis_evicts_nothing_and_has_an_append_only_file() -> None:
    services = yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    composed = compose_services()["redis"]["command"]

    assert ["noeviction"] == [service["maxmemoryPolicy"] for service in services if service["type"] == "keyvalue"]
    assert "--maxmemory-policy noeviction" in " ".join(composed)
    assert "--appendonly yes" in " ".join(composed)


def test_render_gives_the_worker_the_url_of_web() -> None:
    """Render sets RENDER_EXTERNAL_URL for web only, and the worker compares the subscriptions at the tools with its URL."""
    services = {
        service["type"]: service for service in yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    }
    variables = {each["key"]: each for each in services["worker"]["envVars"] if "key" in each}

    source = {"type": "web", "name": services["web"]["name"], "envVarKey": "RENDER_EXTERNAL_URL"}
    assert source == variables["PUBLIC_URL"]["fromService"]


def test_the_probes_of_kubernetes_restart_no_pod_because_redis_is_away() -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    web, worker = (o["spec"]["template"]["spec"]["containers"][0] for o in objects if o["kind"] == "Deployment")

    assert "/healthz" == web["livenessProbe"]["httpGet"]["path"]
    assert ["doorbell", "worker", "--check"] == worker["livenessProbe"]["exec"]["command"]


def test_the_objects_of_kubernetes_refer_to_each_other() -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    web, worker, service, ingress = objects
    [port] = web["spec"]["template"]["spec"]["containers"][0]["ports"]
    [path] = ingress["spec"]["rules"][0]["http"]["paths"]

    assert ["Deployment", "Deployment", "Service", "Ingress"] == [o["kind"] for o in objects]
    assert service["spec"]["selector"].items() <= web["spec"]["template"]["metadata"]["labels"].items()
    assert port["name"] == service["spec"]["ports"][0]["targetPort"]
    assert service["metadata"]["name"] == path["backend"]["service"]["name"]
    for deployment in (web, worker):
        spec = deployment["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


UNIT = DEPLOY / "doorbell@.service"


def test_the_systemd_unit_starts_both_processes_and_gives_them_time_to_stop() -> None:
    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")

    assert "/opt/doorbell/.venv/bin/doorbell %i" == unit["ExecStart"]
    assert {"web", "worker"} <= set(COMMANDS["Run"])
    assert ("SIGTERM", "30") == (unit["KillSignal"], unit["TimeoutStopSec"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("process", ["web", "worker"])
def test_systemd_accepts_the_unit(tmp_path: Path, process: str) -> None:
    """The paths are those of this clone: systemd-analyze checks that the command exists."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/doorbell").symlink_to(DEPLOY / "bin" / "doorbell")
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/doorbell", str(tmp_path)))
    unit = tmp_path / f"doorbell@{process}.service"

    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)

    # A machine may have other units with faults.
    assert (0, []) == (result.returncode, [line for line in result.stderr.splitlines() if "doorbell@" in line])


def test_compose_waits_for_redis_and_checks_the_worker() -> None:
    services = compose_services()

    assert (
        {"redis": {"condition": "service_healthy"}} == services["web"]["depends_on"] == services["worker"]["depends_on"]
    )
    assert "healthcheck" in services["redis"]
    assert ["CMD", "doorbell", "worker", "--check"] == services["worker"]["healthcheck"]["test"]


def test_compose_publishes_only_web_and_only_on_this_machine_whatever_env_says() -> None:
    """The port in the container is fixed, also if `PORT` is in .env."""
    web = compose_services()["web"]

    assert {"web": ["127.0.0.1:8000:8000"]} == {
        name: service["ports"] for name, service in compose_services().items() if "ports" in service
    }
    assert ("../.env", 8000) == (web["env_file"], web["environment"]["PORT"])


def test_compose_builds_one_image_for_both_processes_with_every_up() -> None:
    """Two services that build the same image would build it twice; a pull would ask a registry for our image."""
    web, worker = (compose_services()[name] for name in ("web", "worker"))

    assert web["image"] == worker["image"]
    assert ("build", "never") == (web["pull_policy"], worker["pull_policy"])
    assert ("build" in web, "build" in worker) == (True, False)


@pytest.mark.parametrize("process", ["web", "worker"])
def test_compose_and_kubernetes_give_a_container_the_same_rights(process: str) -> None:
    """No capability, no way to others, a file system that cannot be written to, and no user or group of the system."""
    composed = compose_services()[process]
    [pod] = [
        o["spec"]["template"]["spec"]
        for o in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
        if o["kind"] == "Deployment" and o["metadata"]["name"] == f"doorbell-{process}"
    ]
    [container] = pod["containers"]

    assert (True, ["ALL"]) == (composed["read_only"], composed["cap_drop"])
    assert ["no-new-privileges:true"] == composed["security_opt"]
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container["securityContext"]
    user, group = (pod["securityContext"][name] for name in ("runAsUser", "runAsGroup"))
    assert f"{user}:{group}" == dockerfile()["USER"]
    assert min(user, group) >= 1000


def test_the_image_has_the_pinned_python_and_packages() -> None:
    """The digest fixes the image; the tag says for people and Dependabot which Python it is."""
    version = (ROOT / ".python-version").read_text().strip()

    assert re.fullmatch(rf"python:{version}\.\d+-slim-trixie@sha256:[0-9a-f]{{64}}", dockerfile()["FROM"])
    assert (
        "RUN pip install --no-cache-dir --require-hashes -r requirements.txt\n" in (DEPLOY / "Dockerfile").read_text()
    )


def test_the_valkey_of_compose_is_pinned() -> None:
    assert re.fullmatch(r"valkey/valkey:\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", compose_services()["redis"]["image"])


def test_the_files_of_the_image_are_sufficient_to_start_and_stop(harness: Harness, tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    included = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in copied:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    port = free_port()
    env = on_path({**harness.env, "PORT": str(port), "PYTHONPATH": ""})
    process = subprocess.Popen(json.loads(dockerfile()["CMD"]), cwd=tmp_path, env=env)
    try:
        wait_until(lambda: status_of(f"http://127.0.0.1:{port}/readyz") == 200)
        process.send_signal(signal.SIGTERM)

        assert sorted(included) == sorted(copied)
        assert process.wait(25) in (0, -signal.SIGTERM)
    finally:
        process.kill()


# The commands of the Procfile


def test_the_procfile_has_three_processes() -> None:
    assert ["web", "worker", "release"] == list(PROCFILE)


def test_a_delivery_is_applied_by_the_commands_of_the_procfile(harness: Harness) -> None:
    port = free_port()
    with (
        start(harness, "web", port, "/readyz") as harness.web_server,
        start(harness, "worker", free_port(), "") as worker,
    ):
        response = harness.send(
            "visit.created", "A-1042", contact={"email": "ada@example.com"}, time_scheduled="2026-03-14T16:00:00Z"
        )

        assert (202, 1) == (response.status_code, response.json()["changes"])
        visit = wait_until(lambda: harness.visit("standard-A-1042"))
        assert "2026-03-14T16:00:00Z" == visit["time_scheduled"]
        assert (0, "") == check_worker(harness)
        assert (3, "no worker on this machine had a heartbeat in the last 30 s\n") == check_worker(
            harness, DYNO="web.1"
        )
        assert 0 == worker.kill(signal.SIGTERM)
        assert 0 == harness.web_server.kill(signal.SIGTERM) or -signal.SIGTERM == harness.web_server.process.returncode
        for process, server in (("web", harness.web_server), ("worker", worker)):
            events = [json.loads(line)["event"] for line in server.log.read_text().splitlines()]
            assert (f"{process}_started", f"{process}_stopped") == (events[0], events[-1])


def check_worker(harness: Harness, **env: str) -> tuple[int, str]:
    """Run the probe of a worker. DYNO is the name of another machine on Heroku."""
    result = run_command("worker", "--check", **harness.env, **env)
    return result.returncode, result.stderr


def run_command(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run the `doorbell` of images and slugs, from another folder."""
    command = [str(DEPLOY / "bin" / "doorbell"), *arguments]
    return subprocess.run(command, cwd="/", env=on_path(env), capture_output=True, text=True, timeout=60)


def test_a_probe_of_a_worker_does_not_fail_while_redis_is_away() -> None:
    result = run_command("worker", "--check", REDIS_URL="redis://127.0.0.1:1/0")

    assert (0, "127.0.0.1:1 cannot be reached" in result.stderr) == (result.returncode, True)


def test_heroku_and_dokku_find_the_command_doorbell() -> None:
    """Both source the scripts in .profile.d, with HOME set to the folder of the slug."""
    script = f". {ROOT}/.profile.d/doorbell.sh && command -v doorbell"

    path = subprocess.check_output(["sh", "-c", script], env={"HOME": str(ROOT), "PATH": "/usr/bin:/bin"}, text=True)

    assert f"{DEPLOY}/bin/doorbell\n" == path


#: The release command takes less than 10 s, longer on a busy machine, and 60 s if it waits for the API.
RELEASE_S = 30


def test_the_release_command_fails_only_on_invalid_settings_and_without_redis(harness: Harness) -> None:
    def release(**env: str) -> "subprocess.CompletedProcess[str]":
        return run_process(arguments_of("release"), {**harness.env, **env}, RELEASE_S)

    valid = release()
    assert 0 == valid.returncode
    assert "Next steps:\n  1. " in valid.stderr
    harness.inject_faults(down=True)
    assert 0 == release().returncode
    harness.inject_faults(down=False, slow_share=1, slow_s=60)
    assert 0 == release(HOOKS__CALENDLY__VISITS_API_TOKEN="another").returncode
    harness.clear_faults()
    assert 0 == release(VISITS_API_URL="http://127.0.0.1:1").returncode
    without_redis = release(REDIS_URL="redis://127.0.0.1:1/0")
    assert 4 == without_redis.returncode
    assert "127.0.0.1:1 cannot be reached" in without_redis.stdout
    assert 3 == release(VISITS_API_TOKEN="").returncode
    invalid = release(RETRY_CAP_S="soon")
    assert 3 == invalid.returncode
    assert "RETRY_CAP_S" in invalid.stdout
    assert "Next steps" not in invalid.stderr
    assert "soon" not in invalid.stdout + invalid.stderr


def test_honcho_start_runs_the_procfile_as_it_is(harness: Harness) -> None:
    pytest.importorskip("honcho")
    port = free_port()
    command = [sys.executable, "-m", "honcho", "--env", os.devnull, "start", "--port", str(port)]
    with Server(command, port, "/readyz", on_path(harness.env)) as harness.web_server:
        response = harness.send("visit.created", "A-1042", **VISIT)
        wait_until(lambda: harness.visit("standard-A-1042"))
        log = wait_until(lambda: "redis.persistence" in (log := harness.web_server.log.read_text()) and log)
        harness.web_server.kill(signal.SIGTERM)

    assert 202 == response.status_code
    assert "release.1 stopped" not in log


def test_honcho_stops_with_the_release_command_if_a_setting_is_invalid(harness: Harness) -> None:
    pytest.importorskip("honcho")
    env = on_path({**harness.env, "RETRY_CAP_S": "soon"})
    command = [sys.executable, "-m", "honcho", "--env", os.devnull, "start", "--port", str(free_port())]

    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=RELEASE_S)

    assert 0 != ended.returncode
    assert "RETRY_CAP_S" in ended.stdout


# Shutdown, and two processes


class Sender(threading.Thread):
    """A tool that sends deliveries on one connection, one after another, until the server closes it."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(name=name)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.statuses: list[int] = []
        self.error = ""

    def run(self) -> None:
        try:
            while not self.send():
                time.sleep(0.01)  # without a pause, thousands of visits would have to be applied
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        finally:
            self.connection.close()

    def send(self) -> bool:
        """Send one delivery. Return whether the server closes the connection."""
        raw = standard_body("visit.created", f"{self.name}-{len(self.statuses)}", **VISIT)
        self.connection.request("POST", "/hooks/standard", raw, sign_standard(raw))
        response = self.connection.getresponse()
        response.read()
        self.statuses.append(response.status)
        return response.will_close


@contextmanager
def start_web(harness: Harness, processes: int) -> Iterator[Server]:
    """Start the web command of the Procfile, and end it with SIGTERM: after SIGKILL its child processes would remain."""
    port = free_port()
    if processes == 1:
        server = Server(arguments_of("web", port), port, "/readyz", harness.env)
    else:  # uvicorn cannot start its processes from a fork
        server = start(harness, "web", port, "/readyz", WEB_CONCURRENCY=str(processes))
    with server as web:
        try:
            yield web
        finally:
            web.kill(signal.SIGTERM)


class EventStreamReader(threading.Thread):
    """A browser with an open console, which reads the event stream to its end."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request(
            "GET", "/console/stream", headers={"x-user": "ada", "x-doorbell-proxy-secret": PROXY_SECRET}
        )
        self.response = self.connection.getresponse()
        self.error = ""

    def run(self) -> None:
        try:
            self.response.read()
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        finally:
            self.connection.close()


PROXY_SECRET = "a secret of the proxy"


@pytest.mark.parametrize("processes", [1, 2])
def test_every_request_before_sigterm_is_answered_and_applied_while_event_streams_are_open(
    harness: Harness, processes: int
) -> None:
    harness.env |= {
        "SECRET_KEY": "a-key-of-the-tests",
        "CONSOLE_PROXY_HEADER": "X-User",
        "CONSOLE_PROXY_SECRET": PROXY_SECRET,
    }
    with start_web(harness, processes) as web:
        readers = [EventStreamReader(web.port) for _ in range(6)]
        senders = [Sender(web.port, f"sender-{number}") for number in range(8)]
        for thread in (*readers, *senders):
            thread.start()
        wait_until(lambda: sum(len(sender.statuses) for sender in senders) > 200, 30)

        web.process.send_signal(signal.SIGTERM)
        for thread in (*readers, *senders):
            thread.join(60)
        exit_status = web.process.wait(60)
        log = web.log.read_text()

    statuses = [status for sender in senders for status in sender.statuses]
    assert {200} == {reader.response.status for reader in readers}
    assert [""] * 14 == [thread.error for thread in (*readers, *senders)]
    assert {202} == set(statuses)
    assert exit_status in (0, -signal.SIGTERM)
    assert "exceeded" not in log  # uvicorn's message after --timeout-graceful-shutdown
    harness.start_worker()
    wait_until(lambda: harness.get_from_api("/visits")["pagination"]["total"] >= len(statuses), 60)
    assert len(statuses) == harness.get_from_api("/visits")["pagination"]["total"]


def test_a_request_on_an_open_connection_is_answered_after_sigterm(harness: Harness) -> None:
    with start_web(harness, 1) as web:
        sender = Sender(web.port, "sender")
        first_closes = sender.send()
        web.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status_of(f"{web.url}/healthz") == 0)

        second_closes = sender.send()

        assert [202, 202] == sender.statuses
        assert [False, True] == [first_closes, second_closes]
        assert web.process.wait(20) in (0, -signal.SIGTERM)


def test_two_web_processes_share_the_requests_and_detect_repeats(harness: Harness) -> None:
    with start_web(harness, 2) as harness.web_server:
        pids = wait_until(lambda: len(pids := children(harness.web_server.process.pid)) == 2 and pids)
        single_process = []
        for stopped in pids:
            os.kill(stopped, signal.SIGSTOP)
            single_process.append(post(harness, *signed(f"without-{stopped}")))
            os.kill(stopped, signal.SIGCONT)
        deliveries = [signed(str(number)) for number in range(100)] * 2

        with ThreadPoolExecutor(20) as executor:
            statuses = list(executor.map(lambda delivery: post(harness, *delivery), deliveries))

    assert [202, 202] == single_process
    assert {202: 100, 200: 100} == Counter(statuses)
    pairs = zip(statuses[:100], statuses[100:], strict=True)
    assert [{200, 202}] * 100 == [{first, second} for first, second in pairs]


def signed(visit: str) -> tuple[bytes, dict[str, str]]:
    raw = standard_body("visit.created", visit, **VISIT)
    return raw, sign_standard(raw)


def post(harness: Harness, raw: bytes, headers: dict[str, str]) -> int:
    """Send a delivery on a new connection, which any running process may accept."""
    with http_client() as client:
        return client.post(f"{harness.web_server.url}/hooks/standard", content=raw, headers=headers).status_code


def children(pid: int) -> list[int]:
    """Return the pids of the serving processes, without the resource tracker of multiprocessing."""
    pids = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in pids if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


# Heroku's smallest Redis: 20 connections


def test_two_generations_and_a_release_fit_into_twenty_connections(sandbox: Server) -> None:
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        harness.redis_command("CONFIG", "SET", "maxclients", "20")
        for _ in ("the old", "the new"):
            harness.web_server = stack.enter_context(start_web(harness, 1))
            harness.start_worker()
            for number in range(50):
                harness.send("visit.created", f"{harness.web_server.port}-{number}", **VISIT)

        released = run_process(arguments_of("release"), harness.env)
        wait_until(lambda: harness.get_from_api("/visits")["pagination"]["total"] == 100, 60)

        assert 0 == released.returncode
        assert b"rejected_connections:0" in harness.redis_command("INFO", "stats").split()


# Other files


def test_every_action_of_ci_is_pinned_by_its_commit_and_named_with_its_version() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()

    assert text.count("uses:") == len(re.findall(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\n", text)) > 0


def test_dependabot_renews_everything_that_is_pinned() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    folders = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    pinned = {
        ("pip", f"/{path.parent.relative_to(ROOT)}".rstrip("."))
        for path in (ROOT / "requirements.txt", *DEPLOY.glob("*requirements.txt"), *TESTS.rglob("requirements.txt"))
    }

    assert {("docker", "/deploy"), ("docker-compose", "/deploy"), ("github-actions", "/")} | pinned == folders


def test_heroku_has_one_list_of_requirements_and_a_supported_python() -> None:
    lists = [name for name in ("requirements.txt", "Pipfile.lock", "poetry.lock", "uv.lock") if (ROOT / name).exists()]

    assert ["requirements.txt"] == lists
    assert (ROOT / ".python-version").read_text().strip() in ("3.11", "3.12", "3.13", "3.14")


def test_the_packages_for_traces_and_errors_can_be_installed_beside_the_others() -> None:
    """`-r deploy/telemetry-requirements.txt` in requirements.txt: pip refuses two versions of one package."""
    files = (ROOT / "requirements.txt", DEPLOY / "telemetry-requirements.txt")
    own, telemetry = (dict(re.findall(r"^([\w-]+)==(\S+)", file.read_text(), re.MULTILINE)) for file in files)
    shared = own.keys() & telemetry.keys()

    assert {"sentry-sdk", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= telemetry.keys()
    assert {name: own[name] for name in shared} == {name: telemetry[name] for name in shared}
    assert files[1].relative_to(ROOT).as_posix() in (DEPLOY / "Dockerfile").read_text()


def test_app_json_has_the_settings_for_heroku() -> None:
    config = json.loads((ROOT / "app.json").read_text())

    assert "none" == config["env"]["REDIS_TLS_VERIFY"]["value"]
    assert {"web", "worker"} == set(config["formation"])


@each("option", ["--timeout-keep-alive 95", "--timeout-graceful-shutdown 20", "--no-access-log"])
def test_the_web_command_has_the_required_options(option: str) -> None:
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
        code = f"import sys; sys.version_info = ({version.replace('.', ', ')}); sys.executable = '{name}'; exec(sys.argv[1])"
        stub = tmp_path / f"python{name}"
        stub.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$2"\n')
        stub.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    output = subprocess.run(["make", "-p", "-n", "help"], cwd=ROOT, env=env, capture_output=True, text=True).stdout

    assert f"PYTHON := {chosen}" in output.splitlines()
