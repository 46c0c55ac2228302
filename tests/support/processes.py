"""Starts Python processes as forks of a process that has already imported Doorbell.

The imports take most of the processor time of a start. A forked process has its own environment, output and signals.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

ROOT = Path(__file__).parents[2]
_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.support.preload"])
#: Modules with a `__main__` that imports nothing but what tests/support/preload.py imports.
FORKED_MODULES = ("app", "arq", "jobs", "uvicorn")
NO_INPUT = Path(os.devnull)


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, signal: int) -> None: ...
    def kill(self) -> None: ...


def start_process(
    arguments: Sequence[str], env: Mapping[str, str], log: Path, error_log: Path | None = None, stdin: Path = NO_INPUT
) -> Process:
    """Start a command that appends its output to the logs. `python -c …` and Doorbell's modules are forked.

    error_log: for standard error; default: the same log. Each of the three files may be a terminal.
    """
    error_log = error_log or log
    log.touch()
    python, option, code, *_ = *arguments, "", ""
    if python == sys.executable and (option == "-c" or (option == "-m" and code in FORKED_MODULES)):
        return ForkedProcess(arguments, env, stdin, log, error_log)
    with stdin.open("rb") as source, log.open("ab") as out, error_log.open("ab") as errors:
        return subprocess.Popen(arguments, cwd=ROOT, env=dict(env), stdin=source, stdout=out, stderr=errors)


def run_process(
    arguments: Sequence[str], env: Mapping[str, str], timeout_s: float = 60, stdin: bytes = b""
) -> "subprocess.CompletedProcess[str]":
    """Start a command like `start_process`, wait for its end, and return its output."""
    with TemporaryDirectory(prefix="doorbell-test-") as folder:
        source, log, error_log = (Path(folder, name) for name in ("stdin", "stdout", "stderr"))
        source.write_bytes(stdin)
        process = start_process(arguments, env, log, error_log, source)
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, status, log.read_text(), error_log.read_text())


class ForkedProcess:
    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], *streams: Path) -> None:
        self._arguments = list(arguments)
        self._process = _forkserver.Process(target=_run_python, args=(self._arguments, dict(env), *streams))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return self._process.exitcode

    def send_signal(self, signal: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run_python(arguments: list[str], env: dict[str, str], stdin: Path, log: Path, error_log: Path) -> None:
    """Do what the interpreter does for `-m MODULE …` or `-c CODE …`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    for descriptor, path in ((1, log), (2, error_log)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(ROOT)
    _, option, code, *options = arguments
    sys.argv = [option, *options]
    stdout = sys.stdout
    try:
        if option == "-m":
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        else:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        stdout.flush()  # the code may have replaced sys.stdout, which is all that multiprocessing flushes
