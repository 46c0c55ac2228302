"""The fast path of the endpoint: the requests of one turn of the event loop go through each step together.

The code of a step then stays in the CPU caches (docs/adr/0016-batches.md has the figures). A delivery that is stored at
once, or was before, and one with a wrong signature end here. Every other request takes the plain path from its beginning,
as if this module did not exist.
FAST_PATH=off or tracing switches it off (`lifespan` in app/web.py).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.intake.acceptance import Acceptance, Response
from app.intake.endpoint import WebhookEndpoint, accepts_path, split_path
from app.intake.exchange import send_response
from app.intake.http_protocol import BufferedRequest
from app.intake.request_body import HttpRejection
from app.intake.request_log import RequestLog
from app.ledger.compression import compress
from app.ledger.ledger import Ledger, pack_changes
from app.ledger.records import AcceptCall, NewDelivery, PackedChange
from app.ledger.redis import RedisUnavailable

#: More would let Redis wait for the first of them, and fewer would gain less.
BATCH_SIZE = 16


@dataclass(slots=True, eq=False)
class Entry:
    """A request in a batch, with the results of its steps."""

    request: BufferedRequest
    acceptance: Acceptance = field(init=False)
    ledger: Ledger = field(init=False)
    new: NewDelivery = field(init=False)
    changes: list[PackedChange] = field(init=False)
    body: bytes = field(init=False)
    call: AcceptCall = field(init=False)
    reply: "asyncio.Future[Any]" = field(init=False)
    response: Response = field(init=False)


class PlainPath(Exception):
    """The request must take the plain path."""


class Answered(Exception):
    """The request was answered."""


class FastPath:
    def __init__(self, endpoint: WebhookEndpoint) -> None:
        self._endpoint = endpoint
        self._waiting: list[BufferedRequest] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, request: BufferedRequest) -> None:
        """Answer the request in the next turn of the event loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send_next)
        self._waiting.append(request)

    def _send_next(self) -> None:
        """Send a batch to Redis, and schedule the next one after it is written."""
        requests = self._waiting[:BATCH_SIZE]
        del self._waiting[:BATCH_SIZE]
        # The scope is empty if the sender has disconnected.
        entries = [Entry(request) for request in requests if request.scope]
        for step in (
            self._begin,
            self._verify,
            self._parse,
            self._translate,
            self._describe,
            self._pack,
            self._compress,
            self._prepare,
            self._send,
        ):
            entries = _passed(step, entries)
        # Each ledger has its own timeout, and no delivery may wait for a longer one.
        by_ledger: dict[Ledger, list[Entry]] = {}
        for entry in entries:
            by_ledger.setdefault(entry.ledger, []).append(entry)
        for group in by_ledger.values():
            self._wait(group)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._send_next)

    # -- steps until the delivery is sent to Redis --

    def _begin(self, entry: Entry) -> None:
        scope = entry.request.scope
        name, path_rest = split_path(scope["path"])
        hook = self._endpoint.hooks.get(name)
        if hook is None or not accepts_path(hook, path_rest):
            raise PlainPath
        body = entry.request.take_body()  # not before it is clear that the request is a webhook
        if body is None or len(body) > self._endpoint.max_body:
            raise PlainPath
        request_log = RequestLog.begin(scope)
        request_log.name_hook(hook)
        entry.acceptance = Acceptance.begin(scope, hook, path_rest[1:], request_log)
        entry.acceptance.delivery.body = body
        entry.ledger = self._endpoint.ledger_of(hook)

    def _verify(self, entry: Entry) -> None:
        acceptance = entry.acceptance
        handshake = acceptance.hook.source.definition.handshake
        if handshake and handshake.answer(acceptance.delivery):
            raise PlainPath
        try:
            acceptance.verify()
        except HttpRejection as rejection:  # here, so that a forged signature is not verified twice
            if self._endpoint.may_have_newer_secrets(acceptance.hook):
                raise
            entry.response = self._endpoint.reject(rejection, acceptance.request_log)
            self._respond(entry)
            self._record(entry)
            raise Answered from None

    def _parse(self, entry: Entry) -> None:
        acceptance = entry.acceptance
        acceptance.parse(self._endpoint.max_body)
        handshake = acceptance.hook.source.definition.signed_handshake
        if handshake and handshake.answer(acceptance.event, acceptance.secret):
            raise PlainPath

    def _translate(self, entry: Entry) -> None:
        entry.acceptance.translate()
        translation = entry.acceptance.translation
        if translation.is_foreign or translation.state == "parked":
            raise PlainPath

    def _describe(self, entry: Entry) -> None:
        entry.new = entry.acceptance.describe()

    def _pack(self, entry: Entry) -> None:
        new = entry.new
        entry.changes = pack_changes(new.info.source, new.account, new.changes)

    def _compress(self, entry: Entry) -> None:
        entry.body = compress(entry.new.delivery.body, entry.new.info.source)

    def _prepare(self, entry: Entry) -> None:
        entry.call = entry.ledger.prepare(entry.new, entry.changes, entry.body)

    def _send(self, entry: Entry) -> None:
        reply = entry.ledger.redis.send_script(entry.call.call) if self._endpoint.has_capacity(1) else None
        if reply is None:
            raise PlainPath
        entry.reply = reply
        self._endpoint.in_flight += 1

    # -- steps after the reply of Redis --

    def _wait(self, entries: Sequence[Entry]) -> None:
        """Finish the entries once all of them have their replies, of which the last usually comes last."""
        for entry in reversed(entries):
            if not entry.reply.done():
                entry.reply.add_done_callback(lambda _: self._wait(entries))
                return
        self._endpoint.in_flight -= len(entries)
        for step in (self._read_reply, self._respond):
            entries = _passed(step, entries)
        for entry in entries:
            self._record(entry)

    def _read_reply(self, entry: Entry) -> None:
        acceptance = entry.acceptance
        try:
            stored = entry.ledger.result_of(entry.call, entry.reply.result())
        except RedisUnavailable as error:  # the sender may not have the time for a second attempt
            rejection = self._endpoint.unavailable(acceptance.hook, error)
            entry.response = self._endpoint.reject(rejection, acceptance.request_log)
            return
        if stored is None:
            raise PlainPath
        entry.response = self._endpoint.answer(acceptance, entry.new.info, stored)

    def _respond(self, entry: Entry) -> None:
        request, response = entry.request, entry.response
        headers = response.encode_headers(entry.acceptance.request_log)
        if not request.write_response(response.status, headers, response.body):
            self._send_slowly(send_response(request.scope, request.send, response.status, headers, response.body))

    def _send_slowly(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _record(self, entry: Entry) -> None:
        self._endpoint.record(entry.acceptance.request_log, entry.response.status)


def _passed(step: Callable[[Entry], None], entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries for which the step succeeds. The plain path repeats it for the others, and answers the error."""
    passed = []
    for entry in entries:
        try:
            step(entry)
        except Answered:
            pass
        except Exception:
            entry.request.start()
        else:
            passed.append(entry)
    return passed
