"""The events of log lines are literal snake_case names, so that every event can be found by searching the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.cases import each

ROOT = Path(__file__).parents[2]
LEVELS = ("debug", "info", "warning", "error", "critical", "exception")
#: The logger of `app.telemetry.logs`, and an attribute with a bound copy of it.
LOGGERS = ("log", "_log")
SNAKE_CASE = re.compile("[a-z]+(_[a-z]+)*")


def log_calls(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.expr | None]]:
    """Yield the calls of a logger, each with the expression of its event."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_logger(node.func.value):
            position = {"log": 1, **dict.fromkeys(LEVELS, 0)}.get(node.func.attr)
            if position is not None:
                yield node, next(iter(node.args[position:]), None)


def is_logger(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in LOGGERS) or (
        isinstance(node, ast.Attribute) and node.attr in LOGGERS
    )


def indirect_calls(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield methods of a logger that are not called where they are named, such as in `write = log.info`."""
    called = {id(call.func) for call, _ in log_calls(tree)}
    for node in ast.walk(tree):
        is_method = isinstance(node, ast.Attribute) and node.attr in (*LEVELS, "log") and is_logger(node.value)
        if is_method and id(node) not in called:
            yield node


def invalid_events(tree: ast.AST) -> list[str]:
    invalid = [
        ast.unparse(call)
        for call, event in log_calls(tree)
        if not isinstance(event, ast.Constant)
        or not isinstance(event.value, str)
        or not SNAKE_CASE.fullmatch(event.value)
    ]
    return invalid + [ast.unparse(node) for node in indirect_calls(tree)]


def test_every_event_is_a_literal_snake_case_name() -> None:
    invalid = {
        str(path.relative_to(ROOT)): calls
        for folder in ("app", "jobs")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (calls := invalid_events(ast.parse(path.read_text())))
    }

    assert {} == invalid


@each(
    "code",
    [
        "log.info(f'{kind}_finished', state=state)",
        "log.warning(event)",
        "log.error('Redis is down')",
        "log.exception()",
        "self._log.info('webhook handled')",
        "log.log(level, event)",
        "write = log.warning if parked else log.info",
    ],
)
def test_an_invalid_event_is_reported(code: str) -> None:
    assert [] != invalid_events(ast.parse(code))


@each("code", ["log.info('web_started', hooks=hooks)", "log.log(level, 'run_finished')", "self._log.info('handled')"])
def test_a_literal_event_is_accepted(code: str) -> None:
    assert [] == invalid_events(ast.parse(code))
