"""How a line leaves a process: whoever says it, in one shape, together with its neighbours, and quoting nobody."""

import json
import re
import subprocess
import sys
from typing import Any

from tests.support.harness import ROOT

CONFIGURED = """
import asyncio, logging, sys
from app.settings.environment import read_environment
from app.telemetry import logs
from app.telemetry.logs import log
logs.configure(read_environment(ENV, redis_needed=False))
"""
STUMBLES = """
def translate(body):
    raise ValueError(f"no visit in {body}")
def stumble(say):
    try:
        translate("zebediah@example.com")
    except ValueError:
        say()
"""


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    whole = CONFIGURED.replace("ENV", repr(env)) + code
    return subprocess.run([sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True, check=True)


def lines(code: str, **env: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, **env).stdout.splitlines()]


def test_a_line_says_when_how_grave_and_what_before_all_else() -> None:
    [line] = lines('log.info("webhook_handled", hook="calendly", status=202, ids={1})')

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    expected = {"level": "info", "event": "webhook_handled", "hook": "calendly", "status": 202, "ids": "{1}"}
    assert list(expected.items()) == list(line.items())


def test_half_a_character_harms_nobody() -> None:
    [line] = lines('log.info("answered", hook="\\ud83d")')

    assert "\ud83d" == line["hook"]


def test_others_speak_in_the_same_shape_and_only_when_something_is_wrong() -> None:
    say = 'logging.getLogger(NAME).info("job %s", "a@example.com"); logging.getLogger(NAME).warning("lost %d", 7)\n'
    names = ("uvicorn.error", "arq.worker", "httpx", "asyncio")

    told = lines("".join(say.replace("NAME", repr(name)) for name in names))

    assert [["ts", "level", "event"]] * 4 == [list(line) for line in told]
    assert [("warning", "lost 7")] * 4 == [(line["level"], line["event"]) for line in told]


def test_an_exception_is_told_by_its_place_and_never_by_its_text() -> None:
    ours = 'stumble(lambda: log.exception("unhandled_exception", hook="calendly"))\n'
    others = 'stumble(lambda: logging.getLogger("asyncio").exception("never retrieved"))\n'
    none = 'logging.getLogger("asyncio").error("nothing raised", exc_info=True)\n'

    told = lines(STUMBLES + ours + others + none)

    assert [("unhandled_exception", "error"), ("never retrieved", "error"), ("nothing raised", "error")] == [
        (line["event"], line["level"]) for line in told
    ]
    assert re.fullmatch(r"ValueError at <string>:\d+ < <string>:\d+", told[0]["error"])
    assert told[0]["error"] == told[1]["error"]
    assert "zebediah" not in repr(told)


def test_who_tells_of_somebody_elses_exception_quotes_it_no_more() -> None:
    loses = """
import gc
async def main():
    for each in ("a task", "a future"):
        lost = asyncio.get_running_loop().create_future() if each == "a future" else asyncio.create_task(raises())
        if each == "a future":
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
    whole = run(STUMBLES + loses).stdout
    told = [json.loads(line) for line in whole.splitlines()]

    assert [
        "Task exception was never retrieved",
        "Future exception was never retrieved",
        "Exception in callback translate",
    ] == [line["event"] for line in told]
    assert all(line["error"].startswith("ValueError at ") for line in told)
    assert "zebediah" not in whole


def test_below_the_level_nothing_is_said() -> None:
    assert ["warning"] == [line["level"] for line in lines('log.info("a"); log.warning("b")', LOG_LEVEL="WARNING")]
    assert ["debug", "info"] == [line["level"] for line in lines('log.debug("a"); log.info("b")', LOG_LEVEL="DEBUG")]


def test_the_console_gets_words() -> None:
    told = run(
        STUMBLES + 'log.info("webhook_handled", hook="calendly")\n'
        'logging.getLogger("asyncio").warning("slow")\n'
        'stumble(lambda: log.exception("unhandled_exception"))',
        LOG_FORMAT="console",
    ).stdout

    first, second, third = told.splitlines()
    assert re.search(r"Z \[info +\] webhook_handled +hook=calendly$", first)
    assert re.search(r"Z \[warning +\] slow$", second)
    assert re.search(r"Z \[error +\] unhandled_exception +error='ValueError at <string>:", third)
    assert "zebediah" not in told


def test_the_lines_of_one_turn_of_the_loop_leave_in_one_write() -> None:
    writes = """
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
    told = [re.findall('"event":"(.)"', line) for line in run(writes).stdout.splitlines() if line != "''"]

    assert [["a", "b", "c"], ["d"], ["e"], ["f"]] == told


def test_commands_print_warnings_only_and_not_among_their_data() -> None:
    say = (
        STUMBLES
        + 'from app.telemetry.logs import log\nlog.info("a")\nlog.warning("b")\n'
        + 'stumble(lambda: log.exception("unhandled_exception"))'
    )

    ran = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == ran.stdout
    assert 2 == len(ran.stderr.splitlines())
    assert "ValueError at" in ran.stderr
    assert "zebediah" not in ran.stderr
