"""One line per fact, on stdout: JSON in production, or words for a person. Never a body, a name, an address.

`log.info("webhook_handled", status=202)` anywhere; what other libraries say goes the same way. Until `configure` was
called, as in most commands, it is warnings only, in words on stderr.
"""

import asyncio
import json
import logging
import re
import sys
import time
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import Any

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from app.settings.model import Settings

log: FilteringBoundLogger = structlog.get_logger()


def configure(settings: Settings) -> None:
    """Every logger of this process. What others say below a warning is not ours to print: arq's INFO lines hold
    arguments and results, httpx's hold addresses of requests."""
    chain = [format_event, console_renderer if settings.log_format == "console" else render_json]
    out = BatchingHandler()
    out.setFormatter(ProcessorFormatter(processors=[ProcessorFormatter.remove_processors_meta, *chain]))
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=lambda: out,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[out], level=logging.WARNING, force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)


class BatchingHandler(logging.Handler):
    """Lines of one turn of the event loop leave in one write."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.put(self.format(record))

    def put(self, line: str) -> None:
        self._lines.append(line + "\n")
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    debug = info = warning = error = put  # by these names structlog hands it lines

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        with suppress(OSError):  # nobody reads any more, and there is nowhere to say so
            sys.stdout.write("".join(lines))
            sys.stdout.flush()


def format_event(_: Any, level: str, fields: EventDict) -> EventDict:
    now, raised = time.time(), fields.pop("exc_info", None)
    at = f"{_format_second(int(now))}.{int(now % 1 * 1000):03}Z"
    line = {"ts": at, "level": level, "event": fields.pop("event")[:500], **fields}
    if raised:
        line["event"] = strip_exception_text(line["event"])
        line["error"] = traceback_summary(sys.exc_info() if raised is True else raised)
    return line


def strip_exception_text(told: str) -> str:
    """What somebody said of an exception, without its text, which asyncio puts into a line of its own, and without the
    arguments that it was raised with."""
    return re.split(r"[\n(]", told, maxsplit=1)[0].rstrip()


def render_json(_: Any, __: str, fields: EventDict) -> str:
    try:
        return orjson.dumps(fields, default=str).decode()
    except TypeError:  # half a character, which UTF-8 cannot say
        return json.dumps(fields, default=str)


@lru_cache(maxsize=2)
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def traceback_summary(raised: tuple[type[BaseException] | None, object, TracebackType | None]) -> str:
    """`KeyError at apply.py:41 < worker.py:90`: enough to find a bug, nothing of anybody's data: an exception's text
    might quote a body."""
    kind, _, trace = raised
    steps = []
    while trace:
        steps.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{kind.__name__ if kind else 'error'} at {' < '.join(reversed(steps[-6:]))}"


console_renderer: Processor = structlog.dev.ConsoleRenderer(
    colors=sys.stdout.isatty(), timestamp_key="ts", sort_keys=False
)
structlog.configure(
    processors=[format_event, console_renderer],
    wrapper_class=structlog.make_filtering_bound_logger("warning"),
    logger_factory=lambda: structlog.PrintLogger(sys.stderr),
)
