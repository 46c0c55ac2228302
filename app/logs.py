"""One line per fact, on stdout: JSON in production, or words for a person. Never a body, a name, an address."""

import asyncio
import logging
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

import orjson

from app.settings import Settings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure(settings: Settings) -> None:
    """Every logger of this process through one handler. What others say below a warning is not ours to print: arq's
    INFO lines hold arguments and results, httpx's hold addresses of requests."""
    global _together
    handler = Together()
    handler.setFormatter(Words() if settings.log_format == "console" else Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _together = handler if settings.log_format == "json" else None
    logging.getLogger("doorbell").setLevel(settings.log_level)
    logging._srcfile = None  # nobody prints the line of a call, and finding it costs more than the rest
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)


_together: "Together | None" = None


def fact(logger: logging.Logger, event: str, **fields: Any) -> None:
    """An INFO line; where lines are JSON, without the machinery of logging, whose cost the door would feel."""
    if not logger.isEnabledFor(logging.INFO):
        return
    if _together is None:
        logger.info(event, extra=fields)
    else:
        _together.put(_json(time.time(), "info", event, fields))


class Together(logging.Handler):
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

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        with suppress(OSError):  # nobody reads any more, and there is nowhere to say so
            sys.stdout.write("".join(lines))
            sys.stdout.flush()


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Lines(logging.Formatter):
    """JSON. An exception is named with the line that raised it; its text might quote a body."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _extra(record)
        if record.exc_info and record.exc_info[0]:
            fields["error"] = where(record)
        return _json(record.created, record.levelname.lower(), record.getMessage()[:500], fields)


def _json(created: float, level: str, event: str, fields: dict[str, Any]) -> str:
    at = f"{_second(int(created))}.{int(created % 1 * 1000):03}Z"
    return orjson.dumps({"ts": at, "level": level, "event": event, **fields}, default=str).decode()


class Words(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        error = f" {where(record)}" if record.exc_info and record.exc_info[0] else ""
        return f"{at} {record.levelname.lower():7} {record.getMessage()[:500]} {extra}{error}".rstrip()


def where(record: logging.LogRecord) -> str:
    """`KeyError at apply.py:41 < worker.py:90`: enough to find a bug, nothing of anybody's data."""
    assert record.exc_info
    kind, _, trace = record.exc_info
    steps = []
    while trace:
        steps.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{kind.__name__ if kind else 'error'} at {' < '.join(reversed(steps[-6:]))}"
