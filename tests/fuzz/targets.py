"""Fuzzing targets: functions of bytes that raise when a rule is violated. Tests can call them without a fuzzer."""

import asyncio
import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, get_args
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import orjson
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.intake.http_protocol import HttpProtocol
from app.visits.change import VisitChange, encode_change, is_external_id
from app.visits.merge import RecordedChange, desired_visit, merge_changes
from app.webhooks.delivery import BodyFormat, Delivery, Event, UnreadableBody, parse_body
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.source import Ignored, LoadedSource

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
ZONE = ZoneInfo("America/New_York")
FORMS: tuple[BodyFormat, ...] = get_args(BodyFormat)


# -- bodies --


def body(data: bytes) -> None:
    """Check that a body is parsed or unreadable, and that readers return a value or raise Untranslatable."""
    form = FORMS[data[0] % len(FORMS)] if data else "json"
    delivery = Delivery("hook", "standard", (), data[1:], NOW)
    try:
        payload = parse_body(delivery, form)
    except UnreadableBody:
        return
    for node in itertools.islice(_nodes(payload, 8), 200):
        for reader in READERS:
            with suppress(Untranslatable):
                reader(node)


READERS: tuple[Callable[[Payload], Any], ...] = (
    Payload.text,
    Payload.boolean,
    Payload.integer,
    Payload.unix_seconds,
    Payload.unix_ms,
    Payload.amount,
    Payload.parse_embedded_json,
    Payload.required_text,
    Payload.time,
    lambda node: node.time(ZONE),
    lambda node: node.required_time(ZONE),
    lambda node: node.at("a", "b").text(),
)


def _nodes(node: Payload, depth: int) -> Iterator[Payload]:
    yield node
    if depth and isinstance(node.value, dict):
        for name in node.value:
            yield from _nodes(node.at(name), depth - 1)
    elif depth and isinstance(node.value, list):
        for item in node:
            yield from _nodes(item, depth - 1)


# -- translation --


def translate(data: bytes) -> None:
    """Check that a mutated specimen is translated, ignored or untranslatable, and that its changes can be stored."""
    choices = Choices(data)
    tool = choices.one_of(_tools())
    recorded = choices.one_of(load_specimens(tool.name)["deliveries"])
    raw = _changed_body(choices, recorded["body"])
    headers = {name: choices.text() if choices.rarely() else value for name, value in recorded["headers"].items()}
    stored = {name: headers[name] for name in headers if name in tool.definition.stored_headers}
    try:
        payload = parse_body(Delivery(tool.name, tool.name, (), raw, NOW), tool.definition.body_format)
    except UnreadableBody:
        return
    event = Event(tool.name, payload, NOW, stored, zone=ZONE)
    try:
        for with_record in _with_records(choices, tool, event, recorded.get("records", {})):
            _check(tool, tool.translate(with_record))
        if tool.definition.repeat_key:
            tool.definition.repeat_key(event)
        if tool.definition.tenant_of:
            tool.definition.tenant_of(event)
    except Untranslatable as error:
        if len(str(error)) > MAX_REASON_CHARS:
            raise


#: Reasons must be short enough for lists.
MAX_REASON_CHARS = 1_000


@cache
def _tools() -> list[LoadedSource]:
    return list(load_sources().values())


def _changed_body(choices: "Choices", recorded: Any) -> bytes:
    if isinstance(recorded, str) and not recorded.lstrip().startswith(("{", "[")):
        if "=" not in recorded or choices.rarely():
            return choices.mangled(recorded.encode())
        pairs = dict(pair.partition("=")[::2] for pair in recorded.split("&"))
        return urlencode(
            {name: choices.text() if choices.rarely() else value for name, value in pairs.items()}
        ).encode()
    value = orjson.loads(recorded) if isinstance(recorded, str) else copy.deepcopy(recorded)
    return orjson.dumps(choices.mutated(value))


def _with_records(choices: "Choices", tool: LoadedSource, event: Event, records: dict[str, Any]) -> Iterator[Event]:
    requests = tool.fetch(event) if tool.fetch else []
    if not requests:
        yield event
    for request in requests[:5]:
        if choices.rarely():
            yield event.with_record(None, NOW, {}, request.path)
            continue
        record = choices.mutated(copy.deepcopy(choices.one_of(list(records.values())))) if records else {}
        follow_ups = request.follow_up(Payload(record, "record"))
        related = {
            name: choices.mutated(copy.deepcopy(choices.one_of(list(records.values()))))
            for name in follow_ups
            if records
        }
        yield event.with_record(record, NOW, related, request.path)


def _check(tool: LoadedSource, result: list[VisitChange] | Ignored) -> None:
    if isinstance(result, Ignored):
        assert isinstance(result.reason, str)
        return
    recorded = []
    for number, change in enumerate(result):
        assert is_external_id(change.external_id(tool.name)), change.external_id(tool.name)
        assert -(2**63) <= change.version < 2**63
        recorded.append(RecordedChange.decode(f"d.{number}", encode_change(change)))
    desired_visit(merge_changes(recorded))


class Choices:
    """Decisions from bytes, and 0 after their end, so that short inputs are small changes."""

    def __init__(self, data: bytes) -> None:
        self._remaining = memoryview(data)

    def byte(self) -> int:
        chunk, self._remaining = self._remaining[:1], self._remaining[1:]
        return chunk[0] if chunk else 0

    def one_of(self, items: list[Any]) -> Any:
        return items[(self.byte() + (self.byte() << 8 if len(items) > 256 else 0)) % len(items)]

    def rarely(self) -> bool:
        return self.byte() > 240

    def text(self) -> str:
        chunk, self._remaining = bytes(self._remaining[:16]), self._remaining[16:]
        return chunk.decode("utf-8", "replace")

    def mangled(self, raw: bytes) -> bytes:
        for _ in range(self.byte() % 4):
            at = self.byte() * 7 % (len(raw) + 1)
            raw = raw[:at] + bytes([self.byte()]) + raw[at + self.byte() % 2 :]
        return raw

    def mutated(self, value: Any) -> Any:
        """Return the value with up to eight changes."""
        holder = {"": value}
        for _ in range(self.byte() % 9):
            inside: Any = holder
            key: Any = ""
            while isinstance(inside[key], dict | list) and inside[key] and self.byte() % 5:
                inside = inside[key]
                key = self.one_of(list(inside)) if isinstance(inside, dict) else self.byte() % len(inside)
            self._change(holder, inside, key)
        return holder[""]

    def _change(self, holder: dict[str, Any], inside: Any, key: Any) -> None:
        match self.byte() % 6:
            case 0 if inside is not holder and isinstance(inside, dict):
                del inside[key]
            case 1:
                inside[key] = [inside[key]]
            case 2 if isinstance(inside, list):
                inside.append(copy.deepcopy(inside[key]))
            case 3:
                inside[key] = self.text()
            case _:
                inside[key] = copy.deepcopy(self.one_of(ODD_VALUES))


ODD_VALUES: list[Any] = [
    *(None, True, False, [], {}, [None], [[]], [{}], {"": None}, {"a": {"b": "c"}}),
    *(0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 1e22, 1e308),
    *("", " ", "0", "-1", "1e400", "NaN", "Infinity", "-0.004", "1,234.50", "1.234,50", "$12", "\u0969\u0969"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "0000-00-00 00:00:00", "2026-02-30T10:00:00Z", "24:00"),
    *("2026-10-01T10:00:00", "2026-10-01", "20261001T100000Z", "1790000000", "99999999999999999999"),
    *("ada@example.com", "@", "ADA@EXAMPLE.COM ", "a" * 400, "\x00", "\u202e", "\u00e9", "../..", "a/b?c#d", "'\""),
]


# -- HTTP --


def http(data: bytes) -> None:
    """Check that no bytes, however divided, make the protocol raise or a task hang."""
    asyncio.run(_talk(data))


async def _talk(data: bytes) -> None:
    served: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert isinstance(scope["raw_path"], bytes)
        assert all(name == name.lower() for name, _ in scope["headers"])
        served.append(scope)
        size = 0
        while (message := await receive())["type"] == "http.request":
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = Config(app, http=HttpProtocol, proxy_headers=False, log_config=None, access_log=False)
    config.load()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it logs every malformed request
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context.get("exception") or RuntimeError(str(context))))
    protocol = HttpProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    transport = Transport(protocol)
    protocol.connection_made(transport)
    for piece in _pieces(data):
        if transport.is_closing():
            break
        protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    for task in [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        await asyncio.wait_for(task, 5)
    await asyncio.sleep(0)
    if errors:
        raise errors[0]


def _pieces(data: bytes) -> Iterator[bytes]:
    """Split the data into pieces. The first byte is their length, or 0 for one piece."""
    size, payload = (data[0] if data else 0), data[1:]
    if not size:
        yield payload
        return
    for start in range(0, len(payload), size):
        yield payload[start : start + size]


class Transport(asyncio.Transport):
    """Discards everything that is written."""

    def __init__(self, protocol: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._closing, self._protocol = False, protocol

    def write(self, data: Any) -> None:
        assert not isinstance(data, str)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None: ...


TARGETS: dict[str, Callable[[bytes], None]] = {"body": body, "translate": translate, "http": http}


# -- seeds --

REQUESTS = [
    b"POST /hooks/standard HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}",
    b"POST /hooks/standard HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /readyz HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx",
    b"POST / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\nx",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def seeds(target: str) -> Iterator[bytes]:
    if target == "http":
        yield from (bytes([size]) + request for size in (0, 1, 7) for request in REQUESTS)
        return
    for number, tool in enumerate(_tools()):
        for n, recorded in enumerate(load_specimens(tool.name)["deliveries"]):
            if target == "translate":
                yield bytes([number, n])
                yield bytes([number, n, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9])
            else:
                raw = recorded["body"] if isinstance(recorded["body"], str) else orjson.dumps(recorded["body"]).decode()
                yield bytes([FORMS.index(tool.definition.body_format)]) + raw.encode()
