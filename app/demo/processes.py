"""Starts `doorbell` commands as processes, and waits for conditions."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

STEP_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
T = TypeVar("T")


@contextmanager
def process(
    *arguments: str, env: Mapping[str, str] | None = None, log: Any = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `doorbell` command in its own session, so that Ctrl-C in the terminal does not reach it."""
    running = subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        env={**os.environ, **(env or {})},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_until(condition: Callable[[], T], timeout_s: float = STEP_TIMEOUT_S) -> T | None:
    """Return the first true value of the condition; None after the timeout."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    return None
