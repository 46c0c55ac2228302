"""A body as an operator may see it without asking for more: its shape, and of its values only those that cannot be
anybody's. What may be shown is listed; everything else is not."""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

#: Names whose values say what happened, and when, but not to whom.
SHOWN = frozenset(
    """action amount amount_collected api_version cancelled canceled completed created created_at createdat currency
    date_cancelled duration end end_at end_time ends_at endtime event event_id event_type eventtype id kind object order
    price rescheduled start start_at start_time starts_at starttime status time_completed time_scheduled time_zone timestamp
    timezone topic trigger triggerevent type uid updated updated_at updatedat uri uuid version visit_id""".split()  # noqa: SIM905
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)?")
_HARMLESS = re.compile(r"[\w:./+ -]{0,200}")
_AN_ADDRESS = re.compile(r"@|%40")
_A_NUMBER = re.compile(r"\+?\d[\d\s().-]{6,}\d")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A value that may be somebody's. name: where it stands. told: what may be said of it. value: once it is revealed."""

    name: str
    told: str
    value: str | None


def body(raw: bytes, revealed: Container[str] = ()) -> list[str | Hidden]:
    """The body as text to read, in pieces. revealed: the names of what is shown nevertheless; `*`: all of it."""
    if "*" in revealed:
        return [_whole(raw)]
    try:
        parsed = _parsed(raw)
        return list(_laid_out(parsed, "", "", "\n", revealed))
    except ValueError:
        return [f"••• ({len(raw)} bytes that are neither JSON nor a form)"]
    except RecursionError:
        return [f"••• ({len(raw)} bytes, too deep to be laid out)"]


def _whole(raw: bytes) -> str:
    """As it came; JSON is laid out, unless that would change a number."""
    text = raw.decode("utf-8", "replace")
    try:
        parsed = orjson.loads(raw)
        if orjson.loads(orjson.dumps(parsed)) == parsed and len(re.findall(r"\d{16,}", text)) == 0:
            return orjson.dumps(parsed, option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        pass
    return text


def _parsed(raw: bytes) -> Any:
    """Raises ValueError."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=500))


def _laid_out(value: Any, key: str, place: str, line: str, revealed: Container[str]) -> Iterator[str | Hidden]:
    """key: what it stands under; in a list, what the list does. line: how a line begins here."""
    if isinstance(value, dict | list):
        inside = _of_dict(value) if isinstance(value, dict) else ((key, str(n), "", one) for n, one in enumerate(value))
        first, last = "{}" if isinstance(value, dict) else "[]"
        before, end = first, ""
        for name, at, head, one in inside:
            yield f"{before}{line}  {head}"
            yield from _laid_out(one, name, f"{place}.{at}".lstrip("."), f"{line}  ", revealed)
            before, end = ",", line
        yield (end or first) + last
    elif value is None or isinstance(value, bool) or _may_be_shown(value, key):
        yield _json(value)
    else:
        told = f"••• ({'number' if isinstance(value, int | float) else f'text, {len(value)}'})"
        name = place or "*"
        yield Hidden(name, told, _json(value) if name in revealed else None)


def _of_dict(value: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Of each: its key, its name for the audit log, how it begins, its value."""
    for number, (key, one) in enumerate(value.items()):
        is_a_name = _is_a_name(key)
        at = key if is_a_name and re.fullmatch(r"[\w-]+", key) else f"#{number}"
        yield key, at, f"{_json(key if is_a_name else '•••')}: ", one


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _is_a_name(key: str) -> bool:
    """A key may be somebody's address too."""
    return len(key) <= 60 and not _AN_ADDRESS.search(key) and not _A_NUMBER.search(key)


def _may_be_shown(value: Any, name: str) -> bool:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return True
    if name.lower() not in SHOWN:
        return False
    return not isinstance(value, str) or bool(_HARMLESS.fullmatch(value) and not _AN_ADDRESS.search(value))
