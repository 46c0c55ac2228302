"""The Visits API client: every request of the reference, and every kind of failure."""

import asyncio
import contextlib
import gzip
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import app.visits.client
from app.demo.valkey import free_port
from app.visits.client import (
    MAX_QUOTED_CHARS,
    MAX_RESPONSE_BYTES,
    ClientError,
    ConnectionFailed,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    Unauthorized,
    VisitsApiError,
    VisitsClient,
    error_for,
    http_client,
    retry_after_s,
)
from tests.support.cases import each
from tests.support.harness import Harness, Server, serving, unread_response
from tests.support.tcp_server import listening

CONTACT = "cont_KYdl3lftgZXGRbxqoj"
NOW = datetime(2026, 3, 14, 12, 0, 0, tzinfo=UTC)
CANARIES = ("ada@example.com", "Lovelace", "+15550100001", "s3cret-token")

Responder = Callable[[httpx.Request], httpx.Response]


async def allow() -> None:
    pass


@pytest.fixture(scope="module")
def sandbox_harness(sandbox: Server) -> Iterator[Harness]:
    harness = Harness("redis://127.0.0.1:1/0", sandbox)  # only its access to the sandbox is used
    yield harness
    harness.http.close()


def emptied(harness: Harness) -> Harness:
    harness.clear_faults()
    harness.control("POST", "reset")
    return harness


@pytest.fixture
def api(sandbox_harness: Harness) -> Harness:
    return emptied(sandbox_harness)


@pytest.fixture
async def client(api: Harness) -> AsyncIterator[VisitsClient]:
    async with http_client() as http:
        yield VisitsClient(http, f"{api.sandbox.url}/api/v1", "s3cret-token", [], allow)


@contextlib.asynccontextmanager
async def client_with(respond: Responder) -> AsyncIterator[VisitsClient]:
    """Yield a client of an API that a function implements."""
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda request: unread_response(respond(request)))
    ) as http:
        yield VisitsClient(http, "https://api.example.com/api/v1", "s3cret-token", [], allow)


Call = Callable[[VisitsClient], Any]
CALLS: dict[str, Call] = {
    "GET /visits": lambda client: client.list_visits(),
    "POST /visits": lambda client: client.create_visit(CONTACT, "vis_001", {}),
    "GET /visits/:id": lambda client: client.get_visit("vis_001"),
    "PUT /visits/:id": lambda client: client.update_visit("vis_001", {"time_completed": "2025-02-17T11:00:00Z"}),
    "DELETE /visits/:id": lambda client: client.delete_visit("vis_001"),
    "GET /contacts": lambda client: client.find_contacts("ada@example.com"),
    "POST /contacts": lambda client: client.create_contact(
        {"email": "ada@example.com", "last_name": "Lovelace", "phone": "+15550100001"}
    ),
}
EVERY_CALL = each("route", CALLS)


# -- requests and responses of the reference --


async def test_every_request_is_as_in_the_reference() -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"visits": []})

    async with client_with(respond) as client:
        times = {"time_scheduled": "2025-02-17T09:00:00Z", "time_completed": "2025-02-17T10:30:00Z"}
        await client.list_visits()
        await client.create_visit("cont_KYdl3lftgZXGRbxqoj", "vis_001", times)
        await client.get_visit("vis_001")
        await client.update_visit("1", {"time_completed": "2025-02-17T11:00:00Z"})
        await client.delete_visit("1")

    base = "https://api.example.com/api/v1"
    assert [
        ("GET", f"{base}/visits", []),
        (
            "POST",
            f"{base}/visits",
            [
                ("contact_id", "cont_KYdl3lftgZXGRbxqoj"),
                ("external_id", "vis_001"),
                ("time_scheduled", "2025-02-17T09:00:00Z"),
                ("time_completed", "2025-02-17T10:30:00Z"),
            ],
        ),
        ("GET", f"{base}/visits/vis_001", []),
        ("PUT", f"{base}/visits/1", [("time_completed", "2025-02-17T11:00:00Z")]),
        ("DELETE", f"{base}/visits/1", []),
    ] == [
        (request.method, str(request.url).partition("?")[0], parse_qsl(request.content.decode()))
        for request in requests
    ]
    assert {"Bearer s3cret-token"} == {request.headers["authorization"] for request in requests}
    assert ["application/x-www-form-urlencoded"] * 2 == [
        request.headers["content-type"] for request in requests if request.content
    ]


async def test_a_created_visit_is_as_in_the_reference(client: VisitsClient) -> None:
    times = {"time_scheduled": "2025-02-17T09:00:00Z", "time_completed": "2025-02-17T10:30:00Z"}

    visit = await client.create_visit("cont_KYdl3lftgZXGRbxqoj", "vis_001", times)

    expected = {
        "id": 1,
        "external_id": "vis_001",
        "time_scheduled": "2025-02-17T09:00:00Z",
        "time_completed": "2025-02-17T10:30:00Z",
        "completed": True,
        "contact_id": "cont_KYdl3lftgZXGRbxqoj",
        "event_date": "2025-02-17T09:00:00Z",
    }
    assert expected == {name: value for name, value in visit.items() if not name.endswith("ed_at")}


@pytest.mark.parametrize("id", ["vis_001", "1"], ids=["external_id", "number"])
async def test_a_visit_is_read_updated_and_deleted_by_either_id(client: VisitsClient, id: str) -> None:
    await client.create_visit(CONTACT, "vis_001", {"time_scheduled": "2025-02-17T09:00:00Z"})

    visit = await client.get_visit(id)
    updated = await client.update_visit(id, {"amount_collected": "120.00"})
    deleted = await client.delete_visit(id)
    after_deletion = (await client.get_visit(id), await client.update_visit(id, {}), await client.delete_visit(id))

    assert visit is not None
    assert ("vis_001", 1) == (visit["external_id"], visit["id"])
    assert updated is not None
    assert "120.00" == updated["amount_collected"]
    assert deleted is True
    assert (None, None, False) == after_deletion


async def test_an_empty_value_clears_a_field(client: VisitsClient) -> None:
    await client.create_visit(CONTACT, "vis_001", {"date_cancelled": "2025-02-17T09:00:00Z"})

    updated = await client.update_visit("vis_001", {"date_cancelled": ""})

    assert updated is not None
    assert "date_cancelled" not in updated


async def test_visits_are_listed_in_pages(client: VisitsClient) -> None:
    for number in range(3):
        await client.create_visit(CONTACT, f"vis_{number}", {})

    second = await client.list_visits(page=2, limit=2)

    assert ["vis_2"] == [visit["external_id"] for visit in second["visits"]]
    assert {"page": 2, "limit": 2, "total": 3, "total_pages": 2} == second["pagination"]


@each(
    "email",
    ["ada@example.com", "ada+tag@example.com", "o'hara&co=x%41@example.com", "a d@ü.example", "#?/@example.com"],
)
async def test_a_contact_is_found_by_its_exact_email_address(api: Harness, client: VisitsClient, email: str) -> None:
    json = {"email": email.replace(" ", "_"), "first_name": "Ada"}
    created = api.http.post(f"{client.url}/contacts", json=json, headers={"authorization": "Bearer t"}).json()

    matches = await client.find_contacts(email.replace(" ", "_"))

    assert [created] == matches
    assert [] == await client.find_contacts("nobody@example.com")


async def test_a_contact_is_created_with_all_fields(client: VisitsClient) -> None:
    fields = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Løvelace & Co", "phone": "+1 555 010-0001"}

    created = await client.create_contact(fields)

    assert fields == {name: created[name] for name in fields}
    assert [created] == await client.find_contacts("ada@example.com")


# -- paths --


@each(
    "id",
    [
        "a/b",
        "a?b=c",
        "a#b",
        "a b",
        "100%41",
        "a%2Fb",
        "ü",
        "a+b",
        "a;b",
        "a&b",
        "a:b",
        "x/../y",
        "%2e%2e",
        "a\\b",
        "a'b",
    ],
)
async def test_an_id_is_quoted_in_the_path(api: Harness, client: VisitsClient, id: str) -> None:
    await client.create_visit(CONTACT, id, {"time_scheduled": "2025-02-17T09:00:00Z"})

    visit = await client.get_visit(id)

    assert visit is not None
    assert id == visit["external_id"]
    assert id == api.journal()[-1]["id"]


# -- failures --


async def error_of(call: Any) -> VisitsApiError:
    with pytest.raises(VisitsApiError) as raised:
        await call
    return raised.value


@each(
    ("status", "kind"),
    [
        (400, ClientError),
        (402, ClientError),
        (405, ClientError),
        (409, ClientError),
        (413, ClientError),
        (422, ClientError),
        (451, ClientError),
        (401, Unauthorized),
        (403, Unauthorized),
        (408, ServerError),
        (425, ServerError),
        (500, ServerError),
        (501, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (520, ServerError),
        (599, ServerError),
        (429, RateLimited),
    ],
)
async def test_an_error_status_has_its_exception_class(status: int, kind: type[VisitsApiError]) -> None:
    async with client_with(lambda _: httpx.Response(status, text="no")) as client:
        errors = [await error_of(call(client)) for call in CALLS.values()]

    expected = [(kind, status, "no", f"{route}: {status}") for route in CALLS]
    assert expected == [(type(error), error.status, error.response_text, str(error)) for error in errors]


@each("status", [404, 410])
@each(("route", "expected"), [("GET /visits/:id", None), ("PUT /visits/:id", None), ("DELETE /visits/:id", False)])
async def test_a_missing_visit_raises_no_error(route: str, expected: object, status: int) -> None:
    async with client_with(lambda _: httpx.Response(status, text="no")) as client:
        assert expected is await CALLS[route](client)


@each("status", [404, 410])
@each("route", ["GET /visits", "POST /visits", "GET /contacts", "POST /contacts"])
async def test_a_missing_endpoint_is_a_client_error(route: str, status: int) -> None:
    async with client_with(lambda _: httpx.Response(status, text="no")) as client:
        assert ClientError is type(await error_of(CALLS[route](client)))


@each(
    ("switches", "kind", "status"),
    [
        pytest.param({"down": True}, ServerError, 503, id="down"),
        pytest.param({"unauthorized": True}, Unauthorized, 401, id="unauthorized"),
        pytest.param({"rate_limited_share": 1}, RateLimited, 429, id="rate_limited"),
        pytest.param({"error_share": 1, "error_status": 500}, ServerError, 500, id="500"),
        pytest.param({"error_share": 1, "error_status": 502}, ServerError, 502, id="502"),
        pytest.param({"reset_share": 1}, OutcomeUnknown, None, id="reset"),
        pytest.param({"commit_then_hang_share": 1, "hang_s": 0.02}, OutcomeUnknown, None, id="done-then-reset"),
        pytest.param({"truncated_share": 1}, OutcomeUnknown, None, id="half-answer"),
        pytest.param({"wrong_json_share": 1}, OutcomeUnknown, 200, id="wrong-json"),
    ],
)
@EVERY_CALL
async def test_every_failure_of_the_api_has_its_exception_class(
    api: Harness,
    client: VisitsClient,
    route: str,
    switches: dict[str, Any],
    kind: type[VisitsApiError],
    status: int | None,
) -> None:
    emptied(api)
    # The calls need an existing visit, and responses that are long enough to be truncated.
    await client.create_visit(CONTACT, "vis_001", {"time_scheduled": "2025-02-17T09:00:00Z"})
    api.inject_faults(**switches, only=[route])
    if (route, switches) == ("DELETE /visits/:id", {"wrong_json_share": 1}):
        assert await CALLS[route](client) is True  # the body of this response is not read
        return

    error = await error_of(CALLS[route](client))

    assert (kind, status) == (type(error), error.status)


@each(
    "switches",
    [
        pytest.param({"commit_then_hang_share": 1}, id="done-then-silence"),
        pytest.param({"slow_share": 1, "slow_s": 0.3}, id="slow"),
    ],
)
async def test_a_timeout_is_an_unknown_outcome(api: Harness, client: VisitsClient, switches: dict[str, Any]) -> None:
    api.inject_faults(**switches)
    client.http.timeout = httpx.Timeout(10, read=0.1)

    errors = [await error_of(call(client)) for call in CALLS.values()]

    assert [OutcomeUnknown] * 7 == list(map(type, errors))


async def test_a_refused_connection_is_connection_failed() -> None:
    async with http_client() as http:
        client = VisitsClient(http, f"http://127.0.0.1:{free_port()}/api/v1", "t", [], allow)

        errors = [await error_of(call(client)) for call in CALLS.values()]

    assert [ConnectionFailed] * 7 == list(map(type, errors))


async def test_an_unknown_host_name_is_connection_failed() -> None:
    async with http_client() as http:
        client = VisitsClient(http, "http://visits.invalid/api/v1", "t", [], allow)

        assert ConnectionFailed is type(await error_of(client.get_visit("vis_001")))


@EVERY_CALL
async def test_a_closed_connection_is_an_unknown_outcome(route: str) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with listening(close) as port, http_client() as http:
        client = VisitsClient(http, f"http://127.0.0.1:{port}/api/v1", "t", [], allow)

        assert OutcomeUnknown is type(await error_of(CALLS[route](client)))


@each("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    hosts: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(status, headers={"location": "https://elsewhere.example.org/"})

    async with client_with(respond) as client:
        await error_of(client.get_visit("vis_001"))

    assert ["api.example.com"] == hosts


# -- bodies --


@each("response", [(200, b""), (201, b""), (202, b" \n"), (204, b"")], ids=["200", "201", "202", "204"])
@each(
    ("route", "expected"),
    [
        ("GET /visits", {}),
        ("POST /visits", {"contact_id": CONTACT, "external_id": "vis_001"}),
        ("PUT /visits/:id", {}),
        ("DELETE /visits/:id", True),
        ("GET /contacts", []),
        ("POST /contacts", {}),
    ],
)
async def test_a_success_without_a_body_is_accepted(route: str, expected: object, response: tuple[int, bytes]) -> None:
    async with client_with(lambda _: httpx.Response(response[0], content=response[1])) as client:
        assert expected == await CALLS[route](client)


@each("body", [b"null", b"[]", b'"ok"', b"1", b"{", b"<html>", b"\xff\xfe", b'{"id": NaN}', b"{}}"])
async def test_a_body_that_is_no_json_object_is_an_unknown_outcome(body: bytes) -> None:
    async with client_with(lambda _: httpx.Response(200, content=body)) as client:
        errors = [await error_of(call(client)) for route, call in CALLS.items() if route != "DELETE /visits/:id"]

    assert [(OutcomeUnknown, 200)] * 6 == [(type(error), error.status) for error in errors]


async def test_the_body_of_a_delete_is_ignored() -> None:
    async with client_with(lambda _: httpx.Response(200, content=b"deleted!")) as client:
        assert await client.delete_visit("vis_001") is True


@each("body", [{}, {"data": None}, {"data": {}}, {"data": [1, "x", None]}, {"has_more": True}])
async def test_a_list_of_contacts_in_another_shape_is_empty(body: Any) -> None:
    async with client_with(lambda _: httpx.Response(200, json=body)) as client:
        assert [] == await client.find_contacts("ada@example.com")


# -- Retry-After --


@each(
    ("header", "wait_s"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("120", 120),
        ("86400", 86_400),
        ("86401", 86_400),  # at most a day
        ("9" * 400, 86_400),
        ("Sat, 14 Mar 2026 12:02:00 GMT", 120),
        ("Saturday, 14-Mar-26 12:02:00 GMT", 120),  # RFC 850, which RFC 9110 requires
        ("Sat Mar 14 12:02:00 2026", 120),  # asctime, likewise
        ("Sat, 14 Mar 2026 13:02:00 +0100", 120),
        ("Sat, 14 Mar 2026 11:00:00 GMT", 0),  # past
        ("Tue, 14 Mar 2028 12:00:00 GMT", 86_400),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("1e3", None),
        ("Sat, 14 Mar", None),
        ("Mon, 99999999999999999999 Jan 2020 00:00:00 GMT", None),
        ("Wed, 01 Jan 2020 00:00:00 -99999999999999999999", None),
        ("Fri, 31 Dec 9999 23:59:59 -1200", 86_400),
        ("\x00", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_none(header: str | None, wait_s: float | None) -> None:
    assert wait_s == retry_after_s(header, NOW)


@each("skew_s", [-3_600, 0, 3_600])
def test_a_date_in_retry_after_is_compared_with_the_clock_of_the_api(skew_s: int) -> None:
    sent_at = time.time() + skew_s
    dates = {"date": formatdate(sent_at, usegmt=True), "retry-after": formatdate(sent_at + 30, usegmt=True)}

    error = error_for("GET /visits", httpx.Response(429, headers=dates))

    assert 30 == error.wait_s


WORDS = st.sampled_from(
    ["Mon,", "21", "Oct", "2026", "07:28:00", "GMT", "+0000", "-9999", "9" * 20, "-1", ":", "a", "²"]
)


@given(st.text(max_size=40) | st.lists(WORDS, max_size=8).map(" ".join))
def test_any_retry_after_is_parsed_without_an_error(header: str) -> None:
    wait_s = retry_after_s(header, NOW)

    assert wait_s is None or 0 <= wait_s <= 86_400


@pytest.mark.parametrize(
    ("switches", "wait_s"),
    [
        pytest.param({"retry_after_s": 7}, (7, 7), id="seconds"),
        # From the Date of the response, which a busy server renews late.
        pytest.param({"retry_after_s": 30, "retry_after_date": True}, (25, 60), id="date"),
        pytest.param({"retry_after_s": 0}, (0, 0), id="now"),
    ],
)
async def test_a_429_has_the_wait_of_retry_after(
    api: Harness, client: VisitsClient, switches: dict[str, Any], wait_s: tuple[float, float]
) -> None:
    api.inject_faults(rate_limited_share=1, **switches)

    error = await error_of(client.get_visit("vis_001"))

    assert error.wait_s is not None
    assert wait_s[0] <= error.wait_s <= wait_s[1]


async def test_a_429_without_retry_after_has_no_wait(api: Harness, client: VisitsClient) -> None:
    api.inject_faults(rate_limited_share=1, retry_after_s=None)

    assert None is (await error_of(client.get_visit("vis_001"))).wait_s


async def test_a_503_has_the_wait_of_retry_after() -> None:
    async with client_with(lambda _: httpx.Response(503, headers={"retry-after": "9"})) as client:
        assert 9 == (await error_of(client.get_visit("vis_001"))).wait_s


# -- the record of a call --


async def test_every_call_is_recorded_with_its_result(api: Harness, client: VisitsClient) -> None:
    await client.create_visit(CONTACT, "vis_001", {})
    await client.get_visit("nothing")
    api.inject_faults(down=True)
    await error_of(client.find_contacts("ada@example.com"))
    api.inject_faults(down=False, truncated_share=1)
    await error_of(client.get_visit("vis_001"))

    assert [
        ["POST /visits", 201],
        ["GET /visits/:id", 404],
        ["GET /contacts", 503],
        ["GET /visits/:id", "outcome_unknown"],
    ] == client.calls


async def test_a_call_is_not_made_if_before_call_raises(api: Harness, client: VisitsClient) -> None:
    async def deny() -> None:
        raise TimeoutError

    client.before_call = deny
    with pytest.raises(TimeoutError):
        await client.create_visit(CONTACT, "vis_001", {})

    assert ([], []) == (client.calls, api.calls())


async def test_at_most_500_characters_of_a_response_are_stored() -> None:
    async with client_with(lambda _: httpx.Response(422, text="ä" * 10_000)) as client:
        error = await error_of(client.create_visit(CONTACT, "vis_001", {}))

    assert "ä" * 500 == error.response_text


@each("charset", ["utf-8", "latin-1", "no-such-charset", "utf-16", "idna", "base64"])
async def test_an_error_in_any_charset_is_a_server_error(charset: str) -> None:
    headers = {"content-type": f"text/html; charset={charset}"}
    async with client_with(lambda _: httpx.Response(500, content=b"\xff\xfe\x00broken", headers=headers)) as client:
        assert ServerError is type(await error_of(client.get_visit("vis_001")))


@each("status", [200, 302, 401, 404, 422, 429, 500])
async def test_an_exception_contains_no_personal_data(status: int) -> None:
    response = httpx.Response(status, text=" ".join(CANARIES), headers={"location": f"/?{CANARIES[0]}"})
    text = ""

    async with client_with(lambda _: response) as client:
        for call in CALLS.values():
            try:
                await call(client)
            except VisitsApiError as error:
                text += "".join([*traceback.format_exception(error), str(error), repr(error), str(error.args)])

    assert "POST /contacts: " in text
    assert [] == [canary for canary in CANARIES if canary in text]


@EVERY_CALL
async def test_a_network_error_contains_no_personal_data(api: Harness, client: VisitsClient, route: str) -> None:
    api.inject_faults(reset_share=1)

    error = await error_of(CALLS[route](client))

    text = "".join([*traceback.format_exception(error), str(error), repr(error), error.response_text])
    assert [] == [canary for canary in CANARIES if canary in text]


# -- responses that are too long or endless --


class LargeResponses:
    """A server with one kind of response per path. sent: bytes of the bodies that it has sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.encodings: list[str] = []

    async def serve(self, request: Request) -> Response:
        self.encodings.append(request.headers["accept-encoding"])
        kind = request.url.path.rpartition("/")[2]
        if kind == "endless":
            return StreamingResponse(self.endlessly(), media_type="application/json")
        if kind == "dripping":
            return StreamingResponse(self.dripping(), media_type="application/json")
        if kind == "endless-503":
            return StreamingResponse(self.endlessly(), 503)
        body, encoding = self.bodies[kind]
        return Response(body, headers={"content-encoding": encoding} if encoding else {})

    async def endlessly(self) -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65_536
            self.sent += 65_536
            await asyncio.sleep(0)  # lets the server notice that the client does not read

    async def dripping(self) -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    @cached_property
    def bodies(self) -> dict[str, tuple[bytes, str]]:
        visit, longest = b'{"id": 1}', b'{"id": 1}' + b" " * (MAX_RESPONSE_BYTES - 9)
        compressor = zlib.compressobj(wbits=31)
        bomb = b"".join(compressor.compress(b" " * 1_000_000) for _ in range(100)) + compressor.flush()
        return {
            "longest": (longest, ""),
            "one-more": (longest + b" ", ""),
            "gzip": (gzip.compress(visit), "gzip"),
            "deflate": (zlib.compress(visit), "deflate"),
            "gzip-longest": (gzip.compress(longest), "GZIP"),
            "bomb": (bomb, "gzip"),
            "brotli": (b"\x0b\x04\x80", "br"),
            "not-gzip": (visit, "gzip"),
        }


@pytest.fixture(scope="module")
def large_responses() -> Iterator[tuple[LargeResponses, str]]:
    server = LargeResponses()
    with serving(Starlette(routes=[Route("/{path:path}", server.serve, methods=["GET", "POST"])])) as url:
        yield server, url


@each("kind", ["longest", "gzip", "deflate", "gzip-longest"])
async def test_a_response_up_to_the_limit_is_read(large_responses: tuple[LargeResponses, str], kind: str) -> None:
    server, url = large_responses
    async with http_client() as http:
        client = VisitsClient(http, url, "token", [], allow)

        assert {"id": 1} == await client.get_visit(kind)
    assert {"identity"} == set(server.encodings)


@each("kind", ["one-more", "endless", "bomb"])
async def test_a_response_over_the_limit_is_not_read_to_its_end(
    large_responses: tuple[LargeResponses, str], kind: str
) -> None:
    server, url = large_responses
    server.sent = 0
    tracemalloc.start()
    async with http_client() as http:
        client = VisitsClient(http, url, "token", [], allow)
        with pytest.raises(OutcomeUnknown) as error:
            await client.get_visit(kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "the response is longer than 1,048,576 bytes" == error.value.response_text
    assert [["GET /visits/:id", 200]] == client.calls
    assert peak < 40 * MAX_RESPONSE_BYTES  # the bomb is 100 MB; the measurement includes the test's server
    assert server.sent < 40 * MAX_RESPONSE_BYTES


async def test_the_status_of_a_long_error_response_is_used(large_responses: tuple[LargeResponses, str]) -> None:
    async with http_client() as http:
        with pytest.raises(ServerError) as error:
            await VisitsClient(http, large_responses[1], "token", [], allow).get_visit("endless-503")

    assert (503, MAX_QUOTED_CHARS) == (error.value.status, len(error.value.response_text))


async def test_an_endless_response_is_an_unknown_outcome(
    large_responses: tuple[LargeResponses, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.visits.client, "RESPONSE_TIMEOUT_S", 0.3)
    async with http_client() as http:
        with pytest.raises(OutcomeUnknown, match="outcome_unknown") as error:
            await VisitsClient(http, large_responses[1], "token", [], allow).get_visit("dripping")

    assert "the response did not end in time" == error.value.response_text


@each("kind", ["brotli", "not-gzip"])
async def test_a_response_that_cannot_be_decompressed_is_an_unknown_outcome(
    large_responses: tuple[LargeResponses, str], kind: str
) -> None:
    async with http_client() as http:
        with pytest.raises(OutcomeUnknown) as error:
            await VisitsClient(http, large_responses[1], "token", [], allow).get_visit(kind)

    assert "DecodingError" == error.value.response_text


@each(
    "head",
    [b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 100_000, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 40_000, b"220 ready\r\n\r\n"],
    ids=["a long header", "many headers", "no HTTP"],
)
async def test_a_response_with_an_invalid_head_is_an_unknown_outcome(head: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await reader.read()
        writer.close()

    async with listening(respond) as port, http_client() as http:
        client = VisitsClient(http, f"http://127.0.0.1:{port}", "token", [], allow)
        with pytest.raises(OutcomeUnknown) as error:
            await client.get_visit("A-1")

    assert "the response is not valid HTTP" == error.value.response_text
    assert [["GET /visits/:id", "outcome_unknown"]] == client.calls


async def test_a_request_with_too_long_a_url_is_not_sent(client: VisitsClient) -> None:
    with pytest.raises(ClientError) as error:
        await client.find_contacts("a" * 200_000 + "@example.com")

    assert [["GET /contacts", "not sent"]] == client.calls
    assert "a" * 10 not in str(error.value) + error.value.response_text


@each("token", ["s3cret-token\u200b", "“s3cret-token”", "s3cret-\ntoken"], ids=ascii)
async def test_a_request_with_a_token_that_no_header_can_have_is_not_sent(client: VisitsClient, token: str) -> None:
    client.token = token

    with pytest.raises(ClientError) as error:
        await client.get_visit("vis_001")

    assert ["GET /visits/:id", "not sent"] == client.calls[-1]
    assert "s3cret" not in str(error.value) + error.value.response_text
