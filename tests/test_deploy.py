"""The Procfile's own commands, as a platform starts them; and what else a platform reads."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rig import ROOT, Rig, Server, wait_until

from app.embedded import free_port

PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def start(rig: Rig, name: str, port: int, ready: str) -> Server:
    env = {**rig.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PORT": str(port)}
    return Server(["sh", "-c", f"exec {PROCFILE[name]}"], port, ready, env)


def test_the_procfile_names_the_three_processes() -> None:
    assert ["web", "worker", "release"] == list(PROCFILE)


def test_a_delivery_goes_through_the_procfiles_own_commands(rig: Rig) -> None:
    port = free_port()
    with start(rig, "web", port, "/readyz") as rig.door, start(rig, "worker", free_port(), "") as worker:
        answer = rig.ring(
            "visit.created", "A-1042", contact={"email": "ada@example.com"}, time_scheduled="2026-03-14T16:00:00Z"
        )

        assert (202, 1) == (answer.status_code, answer.json()["changes"])
        visit = wait_until(lambda: rig.visit("standard-A-1042"))
        assert "2026-03-14T16:00:00Z" == visit["time_scheduled"]
        assert 0 == worker.kill(signal.SIGTERM)
        assert 0 == rig.door.kill(signal.SIGTERM) or -signal.SIGTERM == rig.door.process.returncode


def test_the_release_command_passes_without_a_worker_and_fails_on_a_wrong_setting(rig: Rig) -> None:
    def release(**env: str) -> "subprocess.CompletedProcess[str]":
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**rig.env, "PATH": path, **env}
        return subprocess.run(["sh", "-c", PROCFILE["release"]], cwd=ROOT, env=env, capture_output=True, text=True)

    assert 0 == release().returncode
    wrong = release(RETRY_CAP_S="soon")
    assert 3 == wrong.returncode
    assert "RETRY_CAP_S" in wrong.stdout
    assert "soon" not in wrong.stdout + wrong.stderr


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
