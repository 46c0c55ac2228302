"""The format of log lines, of Doorbell and of libraries, and which texts they never contain."""

import json
import os
import re
import subprocess
import sys
from typing import Any

from tests.support.processes import run_process

CONFIGURED = """
import asyncio, logging, sys
from app.settings.environment import read_environment
from app.telemetry import logs
from app.telemetry.logs import log
logs.configure(read_environment(ENV, redis_needed=False))
"""
RAISES = """
def translate(body):
    raise ValueError(f"no visit in {body}")
def log_error(write):
    try:
        translate("zebediah@example.com")
    except ValueError:
        write()
"""


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_python(CONFIGURED.replace("ENV", repr(env)) + code)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    result = run_process([sys.executable, "-c", code], os.environ)
    result.check_returncode()
    return result


def lines(code: str, **env: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, **env).stdout.splitlines()]


def test_a_line_begins_with_time_level_and_event() -> None:
    [line] = lines('log.info("webhook_handled", hook="calendly", status=202, ids={1})')

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    expected = {"level": "info", "event": "webhook_handled", "hook": "calendly", "status": 202, "ids": "{1}"}
    assert list(expected.items()) == list(line.items())


def test_a_lone_surrogate_is_logged() -> None:
    [line] = lines('log.info("answered", hook="\\ud83d")')

    assert "\ud83d" == line["hook"]


def test_libraries_log_only_warnings_and_errors_in_the_same_format() -> None:
    code = 'logging.getLogger(NAME).info("job %s", "a@example.com"); logging.getLogger(NAME).warning("lost %d", 7)\n'
    names = ("uvicorn.error", "arq.worker", "httpx", "asyncio")

    logged = lines("".join(code.replace("NAME", repr(name)) for name in names))

    assert [["ts", "level", "event"]] * 4 == [list(line) for line in logged]
    assert [("warning", "lost 7")] * 4 == [(line["level"], line["event"]) for line in logged]


def test_an_exception_is_logged_with_its_location_and_without_its_text() -> None:
    doorbell = 'log_error(lambda: log.exception("unhandled_exception", hook="calendly"))\n'
    library = 'log_error(lambda: logging.getLogger("asyncio").exception("never retrieved"))\n'
    none = 'logging.getLogger("asyncio").error("nothing raised", exc_info=True)\n'

    logged = lines(RAISES + doorbell + library + none)

    assert [("unhandled_exception", "error"), ("never retrieved", "error"), ("nothing raised", "error")] == [
        (line["event"], line["level"]) for line in logged
    ]
    assert re.fullmatch(r"ValueError at <string>:\d+ < <string>:\d+", logged[0]["error"])
    assert logged[0]["error"] == logged[1]["error"]
    assert "zebediah" not in repr(logged)


def test_messages_of_asyncio_about_exceptions_do_not_quote_them() -> None:
    code = """
import gc
async def main():
    for kind in ("a task", "a future"):
        lost = asyncio.get_running_loop().create_future() if kind == "a future" else asyncio.create_task(raises())
        if kind == "a future":
            lost.set_exception(ValueError("zebediah@example.com"))
        await asyncio.sleep(0)
        del lost
        gc.collect()
    asyncio.get_running_loop().call_soon(translate, "zebediah@example.com")
    await asyncio.sleep(0)
async def raises():
    translate("zebediah@example.com")
asyncio.run(main())
"""
    output = run(RAISES + code).stdout
    logged = [json.loads(line) for line in output.splitlines()]

    assert [
        "Task exception was never retrieved",
        "Future exception was never retrieved",
        "Exception in callback translate",
    ] == [line["event"] for line in logged]
    assert all(line["error"].startswith("ValueError at ") for line in logged)
    assert "zebediah" not in output


def test_lines_below_log_level_are_not_written() -> None:
    assert ["warning"] == [line["level"] for line in lines('log.info("a"); log.warning("b")', LOG_LEVEL="WARNING")]
    assert ["debug", "info"] == [line["level"] for line in lines('log.debug("a"); log.info("b")', LOG_LEVEL="DEBUG")]


def test_the_console_format_has_one_readable_line_per_event() -> None:
    output = run(
        RAISES + 'log.info("webhook_handled", hook="calendly")\n'
        'logging.getLogger("asyncio").warning("slow")\n'
        'log_error(lambda: log.exception("unhandled_exception"))',
        LOG_FORMAT="console",
    ).stdout

    first, second, third = output.splitlines()
    assert re.search(r"Z \[info +\] webhook_handled +hook=calendly$", first)
    assert re.search(r"Z \[warning +\] slow$", second)
    assert re.search(r"Z \[error +\] unhandled_exception +error='ValueError at <string>:", third)
    assert "zebediah" not in output


def test_lines_of_one_iteration_of_the_event_loop_are_written_at_once() -> None:
    code = """
class Out:
    def write(self, text): print(repr(text), file=sys.__stdout__)
    def flush(self): pass
sys.stdout = Out()
async def main():
    log.info("a"); logging.getLogger("x").warning("b"); log.info("c")
    await asyncio.sleep(0)
    log.info("d")
asyncio.run(main())
log.info("e")
log.info("f")
"""
    writes = [re.findall('"event":"(.)"', line) for line in run(code).stdout.splitlines() if line != "''"]

    assert [["a", "b", "c"], ["d"], ["e"], ["f"]] == writes


def test_commands_log_only_warnings_to_stderr() -> None:
    code = (
        RAISES
        + 'from app.telemetry.logs import log\nlog.info("a")\nlog.warning("b")\n'
        + 'log_error(lambda: log.exception("unhandled_exception"))'
    )

    result = run_python(code)

    assert "" == result.stdout
    assert 2 == len(result.stderr.splitlines())
    assert "ValueError at" in result.stderr
    assert "zebediah" not in result.stderr
