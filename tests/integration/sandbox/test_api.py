"""The sandbox keeps what the reference prints, and misbehaves exactly as told. Expected values are the vendor's."""

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.sandbox.api import create_sandbox
from tests.support.harness import serving, wait_until

CONTACT = "cont_KYdl3lftgZXGRbxqoj"
CREATE = {
    "contact_id": CONTACT,
    "external_id": "vis_001",
    "time_scheduled": "2025-02-17T09:00:00Z",
    "time_completed": "2025-02-17T10:30:00Z",
}
CREATED = {
    "id": 1,
    "external_id": "vis_001",
    "time_scheduled": "2025-02-17T09:00:00Z",
    "time_completed": "2025-02-17T10:30:00Z",
    "completed": True,
    "contact_id": CONTACT,
    "event_date": "2025-02-17T09:00:00Z",
}
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

# Both of uvicorn's protocols, on either event loop: a dropped connection is the server's business.
SERVERS = {"httptools": ("httptools", "uvloop"), "h11": ("h11", "asyncio")}


@contextlib.contextmanager
def running(http: str = "httptools", loop: str = "uvloop", **sandbox: Any) -> Iterator[str]:
    """The sandbox behind a real uvicorn; gives its address."""
    with serving(create_sandbox(**sandbox), http, loop) as url:
        yield url


class Caller:
    """A client with a token, and the sandbox's own controls."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.http = httpx.Client(base_url=address, headers={"Authorization": "Bearer any"}, timeout=5)

    def __call__(self, call: str, data: Any = None, **more: Any) -> httpx.Response:
        """`call` as the reference writes it: `PUT /visits/1`."""
        method, path = call.split(" ")
        return self.http.request(method, f"/api/v1{path}", data=data, **more)

    def visit(self, name: str | int) -> dict[str, Any]:
        return self(f"GET /visits/{name}").json()  # type: ignore[no-any-return]

    def total(self) -> int:
        return self("GET /visits").json()["pagination"]["total"]  # type: ignore[no-any-return]

    def turn(self, **switches: Any) -> httpx.Response:
        return self.http.put("/_sandbox/switches", json=switches)

    def turn_back(self) -> None:
        self.http.delete("/_sandbox/switches").raise_for_status()

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        return self.http.get("/_sandbox/journal", params={"since": since}).json()["journal"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def callers() -> Iterator[Callable[[str], Caller]]:
    """A caller of the sandbox on that server; each server is started once, when first asked for."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Caller] = {}

        def caller(name: str) -> Caller:
            if name not in started:
                started[name] = Caller(stack.enter_context(running(*SERVERS[name])))
                stack.callback(started[name].http.close)
            return started[name]

        yield caller


def _fresh(call: Caller) -> Caller:
    call.turn_back()
    call.http.post("/_sandbox/reset").raise_for_status()
    return call


@pytest.fixture
def call(callers: Callable[[str], Caller]) -> Caller:
    return _fresh(callers("httptools"))


@pytest.fixture(params=SERVERS)
def any_server(request: pytest.FixtureRequest, callers: Callable[[str], Caller]) -> Caller:
    return _fresh(callers(request.param))


def without_stamps(visit: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in visit.items() if name not in ("created_at", "updated_at")}


# Documented ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", ""])
def test_every_request_of_the_reference_works_as_printed(call: Caller, base: str) -> None:
    statuses = [
        call.http.get(f"{base}/visits").status_code,
        call.http.post(f"{base}/visits", data=CREATE).status_code,
        call.http.get(f"{base}/visits/vis_001").status_code,
        call.http.put(f"{base}/visits/1", data={"time_completed": "2025-02-17T11:00:00Z"}).status_code,
        call.http.delete(f"{base}/visits/1").status_code,
    ]

    assert [200, 201, 200, 200, 204] == statuses


def test_a_create_answers_as_in_the_reference(call: Caller) -> None:
    visit = call("POST /visits", CREATE).json()

    assert CREATED == without_stamps(visit)
    assert STAMP.fullmatch(visit["created_at"])
    assert STAMP.fullmatch(visit["updated_at"])


def test_json_says_the_same_as_a_form(call: Caller) -> None:
    assert CREATED == without_stamps(call("POST /visits", json=CREATE).json())


def test_the_list_answers_as_in_the_reference(call: Caller) -> None:
    call("POST /visits", CREATE | {"amount_collected": "120", "event_date": "2025-02-17T10:30:00Z"})

    page = call("GET /visits").json()

    paid = CREATED | {"amount_collected": "120.00", "event_date": "2025-02-17T10:30:00Z"}
    assert [paid] == [without_stamps(visit) for visit in page["visits"]]
    assert {"page": 1, "limit": 25, "total": 1, "total_pages": 1} == page["pagination"]


def test_an_update_changes_what_it_names(call: Caller) -> None:
    call("POST /visits", CREATE)

    updated = call("PUT /visits/1", {"time_completed": "2025-02-17T11:00:00Z"}).json()

    assert CREATED | {"time_completed": "2025-02-17T11:00:00Z"} == without_stamps(updated)
    assert updated == call.visit("vis_001")


def test_what_is_unset_is_left_out(call: Caller) -> None:
    visit = call("POST /visits", {"contact_id": CONTACT, "amount_collected": ""}).json()

    assert {"id": 1, "completed": False, "contact_id": CONTACT} == without_stamps(visit)


@pytest.mark.parametrize("name", ["1", "vis_001"])
def test_a_visit_goes_by_its_id_and_by_ours(call: Caller, name: str) -> None:
    call("POST /visits", CREATE)

    assert 1 == call.visit(name)["id"]
    assert 1 == call(f"PUT /visits/{name}", {"amount_collected": "5"}).json()["id"]
    assert 204 == call(f"DELETE /visits/{name}").status_code
    assert 404 == call(f"GET /visits/{name}").status_code


def test_a_numeric_name_is_an_id_first(call: Caller) -> None:
    call("POST /visits", CREATE)
    call("POST /visits", {"contact_id": CONTACT, "external_id": "1"})
    call("POST /visits", {"contact_id": CONTACT, "external_id": "777"})

    assert "vis_001" == call.visit(1)["external_id"]
    assert 3 == call.visit(777)["id"]


def test_the_id_of_a_deleted_visit_never_comes_back(call: Caller) -> None:
    call("POST /visits", CREATE)
    call("DELETE /visits/1")

    assert 2 == call("POST /visits", CREATE).json()["id"]


@pytest.mark.parametrize(
    ("query", "ids", "pagination"),
    [
        ("", list(range(1, 26)), {"page": 1, "limit": 25, "total": 30, "total_pages": 2}),
        ("?page=2", [26, 27, 28, 29, 30], {"page": 2, "limit": 25, "total": 30, "total_pages": 2}),
        ("?limit=4&page=8", [29, 30], {"page": 8, "limit": 4, "total": 30, "total_pages": 8}),
        ("?limit=100", list(range(1, 31)), {"page": 1, "limit": 100, "total": 30, "total_pages": 1}),
        ("?page=9", [], {"page": 9, "limit": 25, "total": 30, "total_pages": 2}),
    ],
)
def test_pages(call: Caller, query: str, ids: list[int], pagination: dict[str, int]) -> None:
    for _ in range(30):
        call("POST /visits", {"contact_id": CONTACT})

    page = call(f"GET /visits{query}").json()

    assert ids == [visit["id"] for visit in page["visits"]]
    assert pagination == page["pagination"]


@pytest.mark.parametrize(
    ("field", "sent", "kept"),
    [
        ("time_scheduled", "2025-02-17T09:00:00.987Z", "2025-02-17T09:00:00Z"),
        ("time_scheduled", "2025-02-17T10:00:00+01:00", "2025-02-17T09:00:00Z"),
        ("date_cancelled", "2025-02-17T00:30:00+01:00", "2025-02-16T23:30:00Z"),
        ("amount_collected", "120", "120.00"),
        ("amount_collected", "120.5", "120.50"),
        ("amount_collected", "0120.500", "120.50"),
        ("amount_collected", "0", "0.00"),
    ],
)
def test_values_are_kept_in_one_form(call: Caller, field: str, sent: str, kept: str) -> None:
    assert kept == call("POST /visits", {"contact_id": CONTACT, field: sent}).json()[field]


@pytest.mark.parametrize(("written", "kept"), [("120.10", "120.10"), ("120", "120.00")])
def test_a_json_number_is_an_amount_too(call: Caller, written: str, kept: str) -> None:
    body = f'{{"contact_id": "{CONTACT}", "amount_collected": {written}}}'

    answer = call("POST /visits", content=body, headers={"Content-Type": "application/json"})

    assert kept == answer.json()["amount_collected"]


def test_a_contact_is_found_by_its_exact_address(call: Caller) -> None:
    details = {"first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001", "company": "A", "position": "B"}
    created = call("POST /contacts", {"email": "ada@example.com", **details})

    assert 201 == created.status_code
    assert {"email": "ada@example.com", **details}.items() <= created.json().items()
    assert re.fullmatch("cont_[A-Za-z0-9]{18}", created.json()["id"])
    assert {"has_more": False, "data": [created.json()]} == call("GET /contacts?email=ada@example.com").json()
    assert {"has_more": False, "data": []} == call("GET /contacts?email=Ada@example.com").json()
    assert {"has_more": False, "data": []} == call("GET /contacts?email=").json()


def test_a_contact_made_twice_is_there_twice(call: Caller) -> None:
    for _ in range(2):
        call("POST /contacts", {"email": "ada@example.com"})

    assert 2 == len(call("GET /contacts?email=ada@example.com").json()["data"])


def test_contacts_come_ten_at_a_time(call: Caller) -> None:
    for n in range(10):  # and the documented one
        call("POST /contacts", {"email": f"{n}@example.com"})

    first_ten = call("GET /contacts").json()
    all_of_them = call("GET /contacts?limit=11").json()

    assert (10, True) == (len(first_ten["data"]), first_ten["has_more"])
    assert (11, False) == (len(all_of_them["data"]), all_of_them["has_more"])
    assert CONTACT == first_ten["data"][0]["id"]


@pytest.mark.parametrize(
    ("request_line", "sent", "status", "about"),
    [
        ("GET /visits/nobody", {}, 404, "visit"),
        ("PUT /visits/2", {"amount_collected": "1"}, 404, "visit"),
        ("DELETE /visits/99999999999999999999", {}, 404, "visit"),
        ("PATCH /visits/1", {}, 404, "endpoint"),
        ("GET /visits/", {}, 404, "visit"),
        ("GET /else", {}, 404, "endpoint"),
        ("GET /visits?limit=0", {}, 422, "limit"),
        ("GET /visits?limit=101", {}, 422, "limit"),
        ("GET /visits?limit=ten", {}, 422, "limit"),
        ("GET /visits?page=0", {}, 422, "page"),
        ("GET /contacts?limit=-1", {}, 422, "limit"),
        ("POST /visits", {"external_id": "a"}, 422, "contact_id"),
        ("POST /visits", {"contact_id": "cont_nobody"}, 422, "contact_id"),
        ("POST /visits", {"contact_id": CONTACT, "time_scheduled": "tomorrow"}, 422, "time_scheduled"),
        ("POST /visits", {"contact_id": CONTACT, "time_scheduled": "2025-02-17T09:00:00"}, 422, "time_scheduled"),
        ("POST /visits", {"contact_id": CONTACT, "event_date": "0001-01-01T00:00:00+14:00"}, 422, "event_date"),
        ("PUT /visits/1", {"date_cancelled": "2025-02-30T09:00:00Z"}, 422, "date_cancelled"),
        ("PUT /visits/1", {"amount_collected": "1.005"}, 422, "amount_collected"),
        ("PUT /visits/1", {"amount_collected": "1,50"}, 422, "amount_collected"),
        ("PUT /visits/1", {"amount_collected": "NaN"}, 422, "amount_collected"),
        ("PUT /visits/1", {"amount_collected": "-1"}, 422, "amount_collected"),
        ("POST /contacts", {"first_name": "Ada"}, 422, "email"),
        ("POST /contacts", {"email": "Ada"}, 422, "email"),
    ],
)
def test_what_cannot_be_done_is_refused_in_json(
    call: Caller, request_line: str, sent: dict[str, str], status: int, about: str
) -> None:
    call("POST /visits", CREATE)

    answer = call(request_line, sent)

    assert status == answer.status_code
    assert about in answer.json()["detail"]
    assert CREATED == without_stamps(call.visit(1))
    assert 1 == call.total()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"contact_id": "\xff"}'),
        ("application/json", b'{"contact_id": "\\ud800"}'),
        ("application/json", b'{"contact_id": ["cont_KYdl3lftgZXGRbxqoj"]}'),
        ("application/x-www-form-urlencoded", b"contact_id=%ff"),
        ("multipart/form-data; boundary=x", b"--x--"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_json(call: Caller, content_type: str, body: bytes) -> None:
    answer = call("POST /visits", content=body, headers={"Content-Type": content_type})

    assert 422 == answer.status_code
    assert answer.json()["detail"]


def test_unknown_fields_and_those_that_cannot_change_are_passed_over(call: Caller) -> None:
    other = call("POST /contacts", {"email": "ada@example.com"}).json()["id"]
    call("POST /visits", CREATE | {"colour": "red", "id": "7", "completed": "false"})

    call("PUT /visits/1", {"contact_id": other, "external_id": "b", "colour": "red"})

    assert CREATED == without_stamps(call.visit(1))


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(None, 401), ("Bearer", 401), ("Basic abc", 401), ("Bearer other", 401), ("Bearer s3cret", 200)],
)
def test_a_token_that_was_set_is_asked_for(secret_address: str, authorization: str | None, status: int) -> None:
    headers = {"Authorization": authorization} if authorization else {}

    answer = httpx.get(f"{secret_address}/api/v1/visits", headers=headers)

    assert status == answer.status_code
    assert status == 200 or "Authorization" in answer.text or "token" in answer.text


@pytest.fixture(scope="module")
def secret_address() -> Iterator[str]:
    with running(token="s3cret") as address:
        yield address


def test_without_a_token_set_any_will_do_but_one_must_be_sent(call: Caller) -> None:
    assert 200 == httpx.get(f"{call.address}/visits", headers={"Authorization": "bearer x"}).status_code
    assert 401 == httpx.get(f"{call.address}/visits").status_code


def test_a_file_outlives_its_sandbox(tmp_path: Path) -> None:
    file = str(tmp_path / "visits.db")
    for expected in (1, 2):
        with running(file=file) as address, contextlib.closing(Caller(address).http) as http:
            assert expected == http.post("/visits", data=CREATE).json()["id"]


# Not documented: switches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duplicate_external_id", "status", "total", "amount"),
    [
        ("allow", 201, 2, None),
        ("refuse", 409, 1, None),
        ("unprocessable", 422, 1, None),
        ("upsert", 200, 1, "5.00"),
    ],
)
def test_an_external_id_that_exists(
    call: Caller, duplicate_external_id: str, status: int, total: int, amount: str | None
) -> None:
    call.turn(duplicate_external_id=duplicate_external_id)
    call("POST /visits", CREATE)

    again = call("POST /visits", CREATE | {"amount_collected": "5"})

    assert (status, total) == (again.status_code, call.total())
    assert amount == call.visit("vis_001").get("amount_collected")


@pytest.mark.parametrize(("empty_clears", "kept"), [(True, None), (False, "2025-02-17T10:30:00Z")])
@pytest.mark.parametrize("empty", [{"data": {"time_completed": ""}}, {"json": {"time_completed": None}}])
def test_an_empty_value(call: Caller, empty_clears: bool, kept: str | None, empty: dict[str, Any]) -> None:
    call.turn(empty_clears=empty_clears)
    call("POST /visits", CREATE)

    visit = call("PUT /visits/1", **empty).json()

    assert kept == visit.get("time_completed")
    assert (kept is not None) == visit["completed"]


@pytest.mark.parametrize(
    ("follows", "sent", "event_date"),
    [
        (False, {}, "2025-02-17T09:00:00Z"),
        (True, {}, "2025-02-20T09:00:00Z"),
        (True, {"event_date": "2025-02-18T09:00:00Z"}, "2025-02-18T09:00:00Z"),
    ],
)
def test_the_event_date_of_a_rescheduled_visit(
    call: Caller, follows: bool, sent: dict[str, str], event_date: str
) -> None:
    call.turn(event_date_follows=follows)
    call("POST /visits", CREATE)

    visit = call("PUT /visits/1", {"time_scheduled": "2025-02-20T09:00:00Z", **sent}).json()

    assert event_date == visit["event_date"]


def test_a_contact_can_change_where_that_is_switched_on(call: Caller) -> None:
    call.turn(contact_can_change=True)
    other = call("POST /contacts", {"email": "ada@example.com"}).json()["id"]
    call("POST /visits", CREATE)

    assert other == call("PUT /visits/1", {"contact_id": other}).json()["contact_id"]
    assert 422 == call("PUT /visits/1", {"contact_id": "cont_nobody"}).status_code


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_the_status_of_success(call: Caller, status: int) -> None:
    call.turn(created_status=status, deleted_status=status)

    answers = [call("POST /visits", CREATE), call("POST /contacts", {"email": "a@b.c"}), call("DELETE /visits/1")]

    assert [status] * 3 == [answer.status_code for answer in answers]
    assert (status == 204) == (answers[0].content == b"")


# Misbehaviour -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "status", "trouble"),
    [
        ({"down": True}, 503, "down"),
        ({"unauthorized": True}, 401, "unauthorized"),
        ({"rate_limited_share": 1}, 429, "rate_limited"),
        ({"error_share": 1}, 503, "error"),
        ({"error_share": 1, "error_status": 500}, 500, "error"),
        ({"error_share": 1, "error_status": 502}, 502, "error"),
    ],
)
def test_a_failure_before_anything_is_done(call: Caller, switches: dict[str, Any], status: int, trouble: str) -> None:
    call.turn(**switches)

    answer = call("POST /visits", CREATE)

    call.turn_back()
    assert (status, trouble) == (answer.status_code, answer.json()["error"])
    assert (status, trouble, False) == pick(call.journal()[0], "answered", "trouble", "committed")
    assert 0 == call.total()


def pick(entry: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(entry[name] for name in names)


@pytest.mark.parametrize(
    ("switches", "header"),
    [
        ({"retry_after_s": 7}, "7"),
        ({"retry_after_s": None}, None),
        ({"retry_after_s": 7, "retry_after_date": True}, r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"),
    ],
)
def test_how_long_to_wait(call: Caller, switches: dict[str, Any], header: str | None) -> None:
    call.turn(rate_limited_share=1, **switches)

    sent = call("GET /visits").headers.get("retry-after")

    assert sent is None if header is None else re.fullmatch(header, sent)


def test_a_reset_connection(any_server: Caller, caplog: pytest.LogCaptureFixture) -> None:
    any_server.turn(reset_share=1)
    host, port = any_server.address.removeprefix("http://").split(":")

    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"DELETE /visits/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)

    assert ("reset", False) == pick(any_server.journal()[0], "answered", "committed")
    assert [] == complaints(caplog)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def test_half_an_answer_to_a_whole_visit(any_server: Caller, caplog: pytest.LogCaptureFixture) -> None:
    any_server.turn(half_answer_share=1)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        any_server("POST /visits", CREATE)
    with pytest.raises(httpx.TransportError):  # 204 has no body to cut.
        any_server("DELETE /visits/1")

    assert [("half", True), ("half", True)] == [pick(entry, "answered", "committed") for entry in any_server.journal()]
    assert [] == complaints(caplog)


def test_committed_and_then_silence_until_the_caller_gives_up(
    any_server: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    any_server.turn(commit_then_hang_share=1, hang_s=60)

    with pytest.raises(httpx.ReadTimeout):
        any_server("POST /visits", CREATE, timeout=0.1)

    any_server.turn_back()
    assert CREATED == without_stamps(any_server.visit("vis_001"))
    assert ("hang", True, "vis_001") == pick(any_server.journal()[0], "answered", "committed", "external_id")
    assert [] == complaints(caplog)


def test_committed_and_then_silence_until_the_connection_drops(any_server: Caller) -> None:
    any_server.turn(commit_then_hang_share=1, hang_s=0.1)

    began = time.monotonic()
    with pytest.raises(httpx.ReadError):
        any_server("POST /visits", CREATE)

    assert time.monotonic() - began >= 0.1
    any_server.turn_back()
    assert 1 == any_server.total()


def test_success_that_is_no_json(call: Caller) -> None:
    call.turn(wrong_json_share=1)

    answer = call("POST /visits", CREATE)

    call.turn_back()
    assert 200 == answer.status_code
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()
    assert 1 == call.total()


def test_a_slow_answer_is_a_right_one(call: Caller) -> None:
    call.turn(slow_share=1, slow_s=0.1)

    began = time.monotonic()
    answer = call("POST /visits", CREATE)

    assert time.monotonic() - began >= 0.1
    assert 201 == answer.status_code
    assert "slow" == call.journal()[0]["trouble"]
    assert call.journal()[0]["took_ms"] >= 99


def test_a_slow_call_is_done_though_its_caller_has_gone(call: Caller) -> None:
    call.turn(slow_share=1, slow_s=1, times=1)

    with pytest.raises(httpx.ReadTimeout):
        call("POST /visits", CREATE, timeout=0.05)

    assert 0 == call.total()
    assert 1 == wait_until(call.total)


def test_misbehaviour_for_one_endpoint_and_a_number_of_times(call: Caller) -> None:
    call.turn(down=True, only=["POST /visits"], times=2)

    statuses = [call("POST /visits", CREATE).status_code if n % 2 else call.total() for n in range(6)]

    assert [0, 503, 0, 503, 0, 201] == statuses
    assert 0 == call.http.get("/_sandbox/switches").json()["times"]


def test_misbehaviour_for_calls_about_one_thing(call: Caller) -> None:
    call.turn(down=True, matching="slow@")

    asked = [call.http.get(f"/contacts?email={name}%40example.com").status_code for name in ("slow", "quick")]

    assert [503, 200] == asked


def test_a_share_is_a_share_and_a_seed_repeats_it(call: Caller) -> None:
    def luck(seed: int) -> list[int]:
        call.turn(error_share=0.25, rate_limited_share=0.25, seed=seed)
        return [call("GET /visits").status_code for _ in range(80)]

    first = luck(7)

    assert first == luck(7)
    assert first != luck(8)
    assert all(8 <= first.count(status) <= 32 for status in (429, 503))  # 20 expected, s. d. 4


def test_a_server_that_hides_its_connection_gets_an_error_in_mid_answer() -> None:
    async def told_to(**switches: float) -> None:
        transport = httpx.ASGITransport(create_sandbox())
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
            await http.put("/_sandbox/switches", json=switches)
            await http.get("/visits", headers={"Authorization": "Bearer x"})

    for switch in ("reset_share", "half_answer_share"):
        with pytest.raises(ConnectionResetError):
            asyncio.run(told_to(**{switch: 1}))


# Control ------------------------------------------------------------------------------------------------------------


def test_switches_keep_what_a_change_does_not_name(call: Caller) -> None:
    call.turn(slow_s=2, only=["GET /visits/:id"])
    call.turn(hang_s=3)

    switches = call.http.get("/_sandbox/switches").json()

    assert (2, 3, ["GET /visits/:id"]) == pick(switches, "slow_s", "hang_s", "only")
    assert (1, 30, []) == pick(call.http.delete("/_sandbox/switches").json(), "slow_s", "hang_s", "only")


def test_an_unknown_switch_is_refused_with_those_there_are(call: Caller) -> None:
    answer = call.turn(down=True, dwon=True)

    assert 422 == answer.status_code
    assert "there is no switch dwon" == answer.json()["detail"]
    assert set(call.http.get("/_sandbox/switches").json()) == set(answer.json()["known"])
    assert 200 == call("GET /visits").status_code


@pytest.mark.parametrize(
    ("switches", "about"),
    [
        ({"slow_share": 1.5}, "slow_share"),
        ({"error_share": 0.6, "reset_share": 0.6}, "add up"),
        ({"error_status": 404}, "error_status"),
        ({"created_status": 500}, "created_status"),
        ({"duplicate_external_id": "maybe"}, "duplicate_external_id"),
        ({"only": ["GET /visits/1"]}, "GET /visits/:id"),
        ({"times": -1}, "times"),
        ({"hang_s": "long"}, "hang_s"),
    ],
)
def test_a_switch_that_cannot_stand_so_is_refused(call: Caller, switches: dict[str, Any], about: str) -> None:
    before = call.http.get("/_sandbox/switches").json()

    answer = call.turn(**switches)

    assert 422 == answer.status_code
    assert about in answer.json()["detail"]
    assert before == call.http.get("/_sandbox/switches").json()


def test_the_journal_tells_what_was_asked_and_done(call: Caller) -> None:
    number = call.http.get("/_sandbox/journal").json()["last"]
    call("POST /visits", CREATE)
    call("PUT /visits/vis_001", {"amount_collected": "x"})
    call.http.delete("/visits/1")
    call("PATCH /visits/1")

    names = ("number", "method", "route", "id", "answered", "committed", "external_id", "contact_id")
    assert [
        (number + 1, "POST", "POST /visits", None, 201, True, "vis_001", CONTACT),
        (number + 2, "PUT", "PUT /visits/:id", "vis_001", 422, False, None, None),
        (number + 3, "DELETE", "DELETE /visits/:id", "1", 204, True, "vis_001", CONTACT),
        (number + 4, "PATCH", "other", None, 404, False, None, None),
    ] == [pick(entry, *names) for entry in call.journal()]
    assert [number + 4] == [entry["number"] for entry in call.journal(since=number + 3)]


def test_the_journal_names_a_contact_by_its_id_only(call: Caller) -> None:
    created = call("POST /contacts", {"email": "ada@example.com", "first_name": "Ada"}).json()
    call("GET /contacts?email=ada@example.com")

    assert [created["id"]] * 2 == [entry["contact_id"] for entry in call.journal()]
    assert "ada" not in call.http.get("/_sandbox/journal").text.lower()


def test_numbers_go_on_after_the_journal_is_emptied(call: Caller) -> None:
    call("GET /visits")
    last = call.journal()[0]["number"]

    assert 204 == call.http.delete("/_sandbox/journal").status_code

    assert [] == call.journal()
    call("GET /visits")
    assert [last + 1] == [entry["number"] for entry in call.journal(since=last)]


def test_calls_are_counted_by_endpoint(call: Caller) -> None:
    for request_line in ("GET /visits", "GET /visits/1", "GET /visits/vis_001", "GET /contacts"):
        call(request_line)

    assert {
        "GET /visits": 1,
        "POST /visits": 0,
        "GET /visits/:id": 2,
        "PUT /visits/:id": 0,
        "DELETE /visits/:id": 0,
        "GET /contacts": 1,
        "POST /contacts": 0,
    } == call.http.get("/_sandbox/calls").json()


def test_a_reset_leaves_the_documented_contact_and_the_switches(call: Caller) -> None:
    call.turn(slow_s=2)
    call("POST /visits", CREATE)
    call("POST /contacts", {"email": "ada@example.com"})

    assert 204 == call.http.post("/_sandbox/reset").status_code

    assert [] == call.journal()
    assert 2 == call.http.get("/_sandbox/switches").json()["slow_s"]
    assert [CONTACT] == [contact["id"] for contact in call("GET /contacts").json()["data"]]
    assert 0 == call.total()
    assert 1 == call("POST /visits", CREATE).json()["id"]


def test_an_unknown_control_is_said_to_be_one(call: Caller) -> None:
    assert 404 == call.http.get("/_sandbox/else").status_code
    assert 422 == call.http.get("/_sandbox/journal?since=x").status_code
    assert [] == call.journal()
