"""Logs one event per line to stdout, as JSON or for a terminal. Never logs a body, a name or an e-mail address.

`log.info("webhook_handled", status=202)` works anywhere; logs of libraries use the same handler. Until `configure` is
called, which most commands never do, only warnings are logged, to stderr.
"""

import asyncio
import json
import logging
import re
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from app.settings.environment import unknown_variables
from app.settings.model import Settings

log: FilteringBoundLogger = structlog.get_logger()


def configure(settings: Settings) -> None:
    """Configure every logger of this process.

    Libraries log warnings and errors only: at INFO, arq logs arguments and results, and httpx logs URLs.
    """
    chain = [format_event, console_renderer if settings.log_format == "console" else render_json]
    out = BatchingHandler()
    out.setFormatter(ProcessorFormatter(processors=[ProcessorFormatter.remove_processors_meta, *chain]))
    structlog.configure(
        processors=chain,
        wrapper_class=_logger_class(settings.log_level),
        logger_factory=lambda: out,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[out], level=logging.WARNING, force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)


def _logger_class(level: str) -> type[FilteringBoundLogger]:
    """Return structlog's logger without fields that are bound to it: copying them is a fifth of the time for a line."""

    class Logger(structlog.make_filtering_bound_logger(level)):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str, **fields: Any) -> None:
            fields["event"] = event
            line: Any = fields
            for process in self._processors:
                line = process(self._logger, method_name, line)
            self._logger.put(line)

    return Logger


def warn_of_unknown_variables() -> None:
    """Log the environment variables that look like a setting and are none."""
    for problem in unknown_variables():
        log.warning("unknown_variable", variable=problem.name, detail=problem.fix)


class BatchingHandler(logging.Handler):
    """Writes the lines of one iteration of the event loop at once."""

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

    debug = info = warning = error = put  # structlog calls the method of the line's level

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        with suppress(OSError):  # stdout is closed, so the error cannot be logged either
            sys.stdout.write("".join(lines))
            sys.stdout.flush()


def format_event(_: Any, level: str, fields: EventDict) -> EventDict:
    now, raised = time.time(), fields.pop("exc_info", None)
    at = f"{_format_second(int(now))}.{int(now % 1 * 1000):03}Z"
    line = {"ts": at, "level": level, "event": fields.pop("event")[:500], **fields}
    if raised:
        line["event"] = strip_exception_text(line["event"])
        line["error"] = traceback_summary(exception_of(raised))
    return line


def exception_of(raised: Any) -> BaseException | None:
    """Return the exception of a log line. raised: its `exc_info`: an exception, its tuple, or True for the handled one."""
    if isinstance(raised, BaseException):
        return raised
    error: BaseException | None = (raised if isinstance(raised, tuple) else sys.exc_info())[1]
    return error


def strip_exception_text(message: str) -> str:
    """Remove the text of an exception, which asyncio puts on the second line, and its arguments in parentheses."""
    return re.split(r"[\n(]", message, maxsplit=1)[0].rstrip()


def render_json(_: Any, __: str, fields: EventDict) -> str:
    try:
        return orjson.dumps(fields, default=str).decode()
    except TypeError:  # a lone surrogate, which UTF-8 cannot encode
        return json.dumps(fields, default=str)


@lru_cache(maxsize=2)
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def traceback_summary(error: BaseException | None) -> str:
    """Return a line such as `KeyError at apply.py:41 < worker.py:90`.

    The text of the exception is left out, because it might quote a body.
    """
    trace, steps = error.__traceback__ if error else None, []
    while trace:
        steps.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__ if error else 'error'} at {' < '.join(reversed(steps[-6:]))}"


console_renderer: Processor = structlog.dev.ConsoleRenderer(
    colors=sys.stdout.isatty(), timestamp_key="ts", sort_keys=False
)
structlog.configure(
    processors=[format_event, console_renderer],
    wrapper_class=structlog.make_filtering_bound_logger("warning"),
    logger_factory=lambda: structlog.PrintLogger(sys.stderr),
)
