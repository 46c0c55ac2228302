"""`doorbell demo` as a newcomer runs it: in a clone, without settings, ended with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.support.harness import wait_until
from tests.support.processes import run_process, start_process


def children_of(pid: int) -> list[int]:
    if (listed := Path(f"/proc/{pid}/task/{pid}/children")).exists():
        return [int(child) for child in listed.read_text().split()]
    everything = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, everything.splitlines()) if int(parent) == pid]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_step_passes_and_ctrl_c_stops_everything(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    env.pop("REDIS_URL", None)
    log = tmp_path / "log"
    demo = start_process([sys.executable, "-m", "app", "demo", "--all"], env, log)
    wait_until(lambda: "Everything keeps running" in log.read_text() or demo.poll() is not None, 90)
    children = children_of(demo.pid)

    demo.send_signal(signal.SIGINT)
    status = demo.wait(30)

    text = log.read_text()
    starts = re.findall(r"time_scheduled (\S+Z)", text)
    assert "18 of 18 steps passed." in text
    assert [] == [start for start in starts if datetime.fromisoformat(start) < datetime.now(UTC)]
    tools = ("Calendly", "Cal.com", "Acuity", "Square", "Zoom", "Housecall Pro", "Jobber", "Mindbody", "SavvyCal")
    assert [] == [tool for tool in tools if tool not in text]
    assert 0 == status
    assert "the worker subscribes again and catches up" in text
    assert 5 == len(children)  # Valkey, sandbox, the fakes of the tools, web, worker
    assert [] == [pid for pid in children if is_alive(pid)]
    assert [log] == list(tmp_path.iterdir())


def test_a_wrong_setting_is_reported_at_once(tmp_path: Path) -> None:
    """A hook is set, and another setting that its source requires is missing."""
    env = {**os.environ, "TMPDIR": str(tmp_path), "HOOKS__SQUARE__SECRETS": "x"}
    env = {name: value for name, value in env.items() if name not in ("REDIS_URL", "PUBLIC_URL")}

    ran = run_process([sys.executable, "-m", "app", "demo"], env, 25)

    assert 3 == ran.returncode
    assert "PUBLIC_URL" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert [] == list(tmp_path.iterdir())


def test_a_worker_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "arq" / "__init__.py"  # only the worker imports it
    broken.parent.mkdir()
    broken.write_text("raise RuntimeError('this installation of arq is broken')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    env.pop("REDIS_URL", None)

    ran = run_process([sys.executable, "-m", "app", "demo"], env, 40)

    assert 3 == ran.returncode
    assert "the process worker is not ready" in ran.stderr
    assert "this installation of arq is broken" in ran.stderr
