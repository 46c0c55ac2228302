"""Every command that starts a worker, and the messages of a worker that cannot start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.demo.valkey import free_port, start
from tests.support.cases import each
from tests.support.harness import SECRET, TOKEN, Harness, Server, wait_until
from tests.support.processes import ROOT, run_process, start_process

BY_ARQ = "arq jobs.worker.WorkerSettings"
COMMANDS = ["jobs", "app worker", BY_ARQ]
#: Code that starts a worker, for an interpreter that a test has prepared.
CODE = [
    "import runpy; runpy.run_module('jobs', run_name='__main__')",
    "from arq.cli import cli; cli(['jobs.worker.WorkerSettings'])",
]
#: Nothing listens on port 1.
ENV = {"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1/0", "VISITS_API_TOKEN": "t"}


def python(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return run_process([sys.executable, *arguments], {**ENV, **env})


def new_python(code: str) -> "subprocess.CompletedProcess[str]":
    """Run the code in an interpreter that has imported nothing."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=ENV, cwd=ROOT, capture_output=True, text=True, timeout=30)


# Import


@each("module", ["jobs.worker", "jobs.claiming_worker"])
def test_import_changes_nothing_in_arq_and_opens_no_socket(module: str) -> None:
    result = new_python(
        f"""
import arq.worker, sys
before, sockets = dict(vars(arq.worker)), []
sys.addaudithook(lambda event, _: sockets.append(event) if event.startswith("socket.") else None)
import {module}
print([name for name, value in vars(arq.worker).items() if before.get(name) is not value], sockets)
""",
    )

    assert "[] []\n" == result.stdout, result.stderr


def test_worker_settings_are_read_without_a_socket_and_without_an_event_loop() -> None:
    result = new_python(
        """
import asyncio, sys
import jobs.worker
io = []
sys.addaudithook(lambda event, _: io.append(event) if event.startswith("socket.") else None)
asyncio.new_event_loop = asyncio.set_event_loop = lambda *_: io.append("loop")
settings = jobs.worker.WorkerSettings
print(type(settings).__name__, io)
""",
    )

    assert "dict []\n" == result.stdout, result.stderr


# Start


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_starts_a_worker_that_ends_on_sigterm(harness: Harness, command: str) -> None:
    harness.start_web()
    with Server([sys.executable, "-m", *command.split()], free_port(), "", harness.env) as worker:
        harness.send(
            "visit.created", "1", contact={"id": "cont_KYdl3lftgZXGRbxqoj"}, time_scheduled="2026-03-14T16:00:00Z"
        )
        visit = wait_until(lambda: harness.visit("standard-1"))
        status = worker.kill(signal.SIGTERM)

    assert "2026-03-14T16:00:00Z" == visit["time_scheduled"]
    assert 0 == status


def test_arq_check_detects_a_running_worker(harness: Harness) -> None:
    def check() -> int:
        return python("-m", "arq", "--check", "jobs.worker.WorkerSettings", **harness.env).returncode

    without = check()
    harness.start_worker()
    wait_until(lambda: harness.redis_command("EXISTS", "bell:queue:visits:health-check"))

    assert (1, 0) == (without, check())


# Errors at start


@each("command", COMMANDS)
def test_invalid_settings_end_a_worker_with_every_problem_and_no_value(command: str) -> None:
    env = {"REDIS_URL": f"canary-{SECRET}", "HOOKS__STANDARD__SECRETS": "whsec_canary"}

    result = python("-m", *command.split(), **env)

    assert 3 == result.returncode
    assert "doorbell worker cannot start:" in result.stderr
    assert "REDIS_URL" in result.stderr
    assert [] == [word for word in ("canary", SECRET, "Traceback") if word in result.stderr + result.stdout]


@each("code", CODE)
def test_an_unreachable_redis_ends_a_worker_with_a_message(code: str) -> None:
    result = python("-c", f"import jobs.startup; jobs.startup.REDIS_WAIT_S = 0; {code}")

    assert 4 == result.returncode
    assert "doorbell worker cannot start:" in result.stderr
    assert "Traceback" not in result.stderr


@each("command", COMMANDS)
def test_a_worker_that_waits_for_redis_ends_on_sigterm(command: str) -> None:
    with Server([sys.executable, "-m", *command.split()], free_port(), "", ENV) as worker:
        wait_until(lambda: handles_sigterm(worker.process.pid))
        status = worker.kill(signal.SIGTERM)
        log = worker.log.read_text()

    assert 0 == status
    assert "Traceback" not in log


@each("code", CODE)
def test_a_signal_before_the_loop_runs_ends_a_worker(code: str) -> None:
    result = python(
        "-c",
        f"""
import os, signal, arq.worker
add = arq.worker.Worker._add_signal_handler
def add_then_send(worker, signum, handler):
    add(worker, signum, handler)
    if signum == signal.SIGTERM:
        os.kill(os.getpid(), signum)
arq.worker.Worker._add_signal_handler = add_then_send
{code}
""",
    )

    assert 0 == result.returncode, result.stderr


@pytest.mark.parametrize("code", CODE)
def test_a_worker_whose_cancellation_is_lost_ends(harness: Harness, code: str) -> None:
    """asyncio.wait_for, which redis-py calls, may lose a cancellation before Python 3.12."""
    result = python(
        "-c",
        f"""
import asyncio, os, signal, arq.worker
beat = arq.worker.Worker.heart_beat
async def lose_cancellation(worker):
    arq.worker.Worker.heart_beat = beat
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        pass
arq.worker.Worker.heart_beat = lose_cancellation
{code}
""",
        **harness.env,
    )

    assert 0 == result.returncode, result.stderr
    assert "worker_stopped" in result.stdout + result.stderr


def handles_sigterm(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [caught] = [line.split()[1] for line in lines if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)


@each("code", CODE)
def test_another_version_of_arq_ends_a_worker_with_a_message(code: str) -> None:
    result = new_python(f"import arq.version; arq.version.VERSION = '0.29.0'; {code}")

    assert 1 == result.returncode
    assert "arq 0.29.0 is installed, and the worker extends internals of arq 0.28.0" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_worker_stops_although_redis_is_gone(tmp_path: Path) -> None:
    """The end of a worker of arq retries for minutes then."""
    port = free_port()
    server = start(port, tmp_path)
    env = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{port}/0", "VISITS_API_TOKEN": TOKEN}
    log = tmp_path / "log"
    worker = start_process([sys.executable, "-m", "jobs"], env, log)
    wait_until(lambda: "worker_started" in log.read_text())

    server.kill()
    worker.send_signal(signal.SIGTERM)

    server.wait()
    assert 0 == worker.wait(15)
    assert "worker_stopped" in log.read_text()
