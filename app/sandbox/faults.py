"""Faults that the sandbox can simulate, and behavior that the Visits API's reference does not specify."""

import asyncio
import contextlib
import random
import socket
import struct
from typing import Annotated, Any, Literal, cast
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.datastructures import URL
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

ENDPOINTS = (
    "GET /visits",
    "POST /visits",
    "GET /visits/:id",
    "PUT /visits/:id",
    "DELETE /visits/:id",
    "GET /contacts",
    "POST /contacts",
)

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Success = Literal[200, 201, 202, 204]


class Faults(BaseModel):
    """The settings of the sandbox.

    Shares apply to the calls that `only` and `matching` select. A call has at most one failure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    down: bool = False  # 503 for every call
    unauthorized: bool = False  # 401 for every call
    slow_share: Share = 0  # waits slow_s, then responds, even if the caller has disconnected
    slow_s: Seconds = 1
    rate_limited_share: Share = 0  # 429
    retry_after_s: Annotated[int, Field(ge=0)] | None = 1  # None: without Retry-After
    retry_after_date: bool = False  # Retry-After as an HTTP date
    error_share: Share = 0  # error_status, and nothing is changed
    error_status: Literal[500, 502, 503] = 503
    reset_share: Share = 0  # the connection is reset, and nothing is changed
    truncated_share: Share = 0  # committed, then the connection closes in the middle of the body
    commit_then_hang_share: Share = 0  # committed, then no response for hang_s, then a connection reset
    hang_s: Seconds = 30
    wrong_json_share: Share = 0  # committed, then 200 with a body that is not JSON
    only: tuple[str, ...] = ()  # endpoints that are faulty; empty: all
    matching: str = ""  # only calls whose path or query contains this text are faulty; empty: all
    after: Annotated[int, Field(ge=0)] = 0  # how many calls have no fault before the first one that may; counted down
    times: Annotated[int, Field(ge=0)] | None = None  # how many more faults happen; counted down; None: no limit
    seed: int = 0  # seed of the random choices; setting it restarts them

    duplicate_external_id: Literal["allow", "conflict", "unprocessable", "upsert"] = "allow"
    empty_clears: bool = True  # an empty value in PUT clears the field; otherwise it is ignored
    event_date_follows: bool = False  # a PUT of time_scheduled alone changes event_date too
    contact_can_change: bool = False  # PUT changes contact_id; otherwise it is ignored
    created_status: Success = 201
    deleted_status: Success = 204

    @field_validator("only")
    @classmethod
    def _check_endpoints(cls, only: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in only if name not in ENDPOINTS]:
            raise ValueError(f"there is no endpoint {unknown[0]!r}; the endpoints are {', '.join(ENDPOINTS)}")
        return only

    @model_validator(mode="after")
    def _check_shares(self) -> "Faults":
        # One random number chooses among the failures. The tolerance is for sums like 0.7 + 0.2 + 0.1.
        if sum(share for _, share in self.failures()) > 1 + 1e-9:
            raise ValueError(f"the shares of {', '.join(name for name, _ in self.failures())} add up to more than 1")
        return self

    def failures(self) -> tuple[tuple[str, float], ...]:
        return (
            ("rate_limited", self.rate_limited_share),
            ("error", self.error_share),
            ("reset", self.reset_share),
            ("truncated", self.truncated_share),
            ("commit_then_hang", self.commit_then_hang_share),
            ("wrong_json", self.wrong_json_share),
        )

    def failure(self, number: float) -> str | None:
        """Return the failure for a random number from 0 to 1."""
        if self.down:
            return "down"
        if self.unauthorized:
            return "unauthorized"
        for name, share in self.failures():
            if number < share:
                return name
            number -= share
        return None


class FaultInjector:
    """The current faults, and the random choice among them for each call."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.faults = Faults()
        self._rng = random.Random(self.faults.seed)

    def update(self, changes: dict[str, Any]) -> None:
        """Change some faults. Raises ValidationError, and changes nothing, if a value is not allowed."""
        self.faults = Faults.model_validate({**self.faults.model_dump(), **changes})
        if "seed" in changes:
            self._rng = random.Random(self.faults.seed)

    def choose(self, route: str, url: URL) -> tuple[str | None, float]:
        """Return the failure of this call, if any, and the seconds to wait before the call is executed."""
        faults = self.faults
        if faults.times == 0 or (faults.only and route not in faults.only):
            return None, 0
        if faults.matching not in unquote(f"{url.path}?{url.query}"):
            return None, 0
        if faults.after:
            self.faults = faults.model_copy(update={"after": faults.after - 1})
            return None, 0
        # Both numbers are drawn for every call, so that changing one share does not affect the other choice.
        slow, failure = self._rng.random() < faults.slow_share, faults.failure(self._rng.random())
        if faults.times is not None and (slow or failure):
            self.faults = faults.model_copy(update={"times": faults.times - 1})
        return failure, faults.slow_s if slow else 0


class ConnectionReset(Response):
    """Sends no response. Waits for `after_s` or until the caller disconnects, then resets the connection."""

    def __init__(self, after_s: float = 0) -> None:
        super().__init__()
        self.after_s = after_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.after_s:
            await _wait_for_disconnect(receive, self.after_s)
        transport = await _transport(receive, send)
        if (connection := transport.get_extra_info("socket")) and not transport.is_closing():
            # Lingering for 0 s turns the close into a TCP reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await _wait_for_disconnect(receive, 1)


class TruncatedResponse(Response):
    """Closes the connection in the middle of the body; a response without a body is not sent at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.body or scope["method"] == "HEAD":
            await ConnectionReset()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport = await _transport(receive, send, started=True)
        transport.close()  # Unlike abort, it still sends the buffered bytes.
        await _wait_for_disconnect(receive, 1)


async def _transport(receive: Receive, send: Send, started: bool = False) -> asyncio.Transport:
    """Return the TCP connection. ASGI does not expose it; uvicorn's `receive` is a method of the object that has it.

    Under another server, or when `receive` is wrapped, this raises in the middle of the response, which makes servers
    close the connection.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if hasattr(transport, "abort"):
        return cast(asyncio.Transport, transport)
    if not started:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    raise ConnectionResetError("the sandbox should drop this connection and cannot access it")


async def _wait_for_disconnect(receive: Receive, timeout_s: float) -> None:
    # Also needed after a close: uvicorn logs an error if the application returns before the connection has ended.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while (await receive())["type"] != "http.disconnect":
                pass
