"""A body as an operator may see it without asking for more: its shape, and of its values only those that cannot be
anybody's. What may be shown is listed; everything else is not."""

import re
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


def body(raw: bytes, is_revealed: bool = False) -> str:
    """The body, as text to read."""
    if is_revealed:
        return _whole(raw)
    parsed = _parsed(raw)
    if parsed is None:
        return f"••• ({len(raw)} bytes that are neither JSON nor a form)"
    return orjson.dumps(_redacted(parsed, ""), option=orjson.OPT_INDENT_2).decode()


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
    try:
        return orjson.loads(raw)
    except ValueError:
        pass
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=500))
    except ValueError:
        return None


def _redacted(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key if _is_a_name(key) else "•••": _redacted(inside, key) for key, inside in value.items()}
    if isinstance(value, list):
        return [_redacted(item, name) for item in value]
    if value is None or isinstance(value, bool) or _may_be_shown(value, name):
        return value
    return f"••• ({'number' if isinstance(value, int | float) else f'text, {len(value)}'})"


def _is_a_name(key: str) -> bool:
    """A key may be somebody's address too."""
    return len(key) <= 60 and not _AN_ADDRESS.search(key) and not _A_NUMBER.search(key)


def _may_be_shown(value: Any, name: str) -> bool:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return True
    if name.lower() not in SHOWN:
        return False
    return not isinstance(value, str) or bool(_HARMLESS.fullmatch(value) and not _AN_ADDRESS.search(value))
