"""The sandbox does what the reference documents, and shows the faults that are set. Expected values are the vendor's."""

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
from tests.support.harness import http_client, serving, wait_until

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

# Both of uvicorn's protocols, on either event loop: dropping a connection depends on the server.
SERVERS = {"httptools": ("httptools", "uvloop"), "h11": ("h11", "asyncio")}


@contextlib.contextmanager
def running(http: str = "httptools", loop: str = "uvloop", **sandbox: Any) -> Iterator[str]:
    """Start the sandbox with a real uvicorn; yield its URL."""
    with serving(create_sandbox(**sandbox), http, loop) as url:
        yield url


class Caller:
    """A client of the API with a token, and of the endpoints under /_sandbox."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.http = http_client(base_url=address, headers={"Authorization": "Bearer any"}, timeout=5)

    def __call__(self, call: str, data: Any = None, **more: Any) -> httpx.Response:
        """`call` as the reference writes it: `PUT /visits/1`."""
        method, path = call.split(" ")
        return self.http.request(method, f"/api/v1{path}", data=data, **more)

    def visit(self, name: str | int) -> dict[str, Any]:
        return self(f"GET /visits/{name}").json()  # type: ignore[no-any-return]

    def total(self) -> int:
        return self("GET /visits").json()["pagination"]["total"]  # type: ignore[no-any-return]

    def set_faults(self, **faults: Any) -> httpx.Response:
        return self.http.put("/_sandbox/faults", json=faults)

    def clear_faults(self) -> None:
        self.http.delete("/_sandbox/faults").raise_for_status()

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        return self.http.get("/_sandbox/journal", params={"since": since}).json()["journal"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def callers() -> Iterator[Callable[[str], Caller]]:
    """Return a caller of the sandbox on the named server. A server starts when it is first needed."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Caller] = {}

        def caller(name: str) -> Caller:
            if name not in started:
                started[name] = Caller(stack.enter_context(running(*SERVERS[name])))
                stack.callback(started[name].http.close)
            return started[name]

        yield caller


def _fresh(call: Caller) -> Caller:
    call.clear_faults()
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


# Documented


@pytest.mark.parametrize("base", ["/api/v1", ""])
def test_every_request_of_the_reference_works(call: Caller, base: str) -> None:
    statuses = [
        call.http.get(f"{base}/visits").status_code,
        call.http.post(f"{base}/visits", data=CREATE).status_code,
        call.http.get(f"{base}/visits/vis_001").status_code,
        call.http.put(f"{base}/visits/1", data={"time_completed": "2025-02-17T11:00:00Z"}).status_code,
        call.http.delete(f"{base}/visits/1").status_code,
    ]

    assert [200, 201, 200, 200, 204] == statuses


def test_a_create_returns_the_response_in_the_reference(call: Caller) -> None:
    visit = call("POST /visits", CREATE).json()

    assert CREATED == without_stamps(visit)
    assert STAMP.fullmatch(visit["created_at"])
    assert STAMP.fullmatch(visit["updated_at"])


def test_json_and_a_form_have_the_same_effect(call: Caller) -> None:
    assert CREATED == without_stamps(call("POST /visits", json=CREATE).json())


def test_the_list_returns_the_response_in_the_reference(call: Caller) -> None:
    call("POST /visits", CREATE | {"amount_collected": "120", "event_date": "2025-02-17T10:30:00Z"})

    page = call("GET /visits").json()

    paid = CREATED | {"amount_collected": "120.00", "event_date": "2025-02-17T10:30:00Z"}
    assert [paid] == [without_stamps(visit) for visit in page["visits"]]
    assert {"page": 1, "limit": 25, "total": 1, "total_pages": 1} == page["pagination"]


def test_an_update_changes_only_the_sent_fields(call: Caller) -> None:
    call("POST /visits", CREATE)

    updated = call("PUT /visits/1", {"time_completed": "2025-02-17T11:00:00Z"}).json()

    assert CREATED | {"time_completed": "2025-02-17T11:00:00Z"} == without_stamps(updated)
    assert updated == call.visit("vis_001")


def test_unset_fields_are_left_out(call: Caller) -> None:
    visit = call("POST /visits", {"contact_id": CONTACT, "amount_collected": ""}).json()

    assert {"id": 1, "completed": False, "contact_id": CONTACT} == without_stamps(visit)


@pytest.mark.parametrize("name", ["1", "vis_001"])
def test_a_visit_is_found_by_its_id_and_by_its_external_id(call: Caller, name: str) -> None:
    call("POST /visits", CREATE)

    assert 1 == call.visit(name)["id"]
    assert 1 == call(f"PUT /visits/{name}", {"amount_collected": "5"}).json()["id"]
    assert 204 == call(f"DELETE /visits/{name}").status_code
    assert 404 == call(f"GET /visits/{name}").status_code


def test_an_id_comes_before_an_equal_external_id(call: Caller) -> None:
    call("POST /visits", CREATE)
    call("POST /visits", {"contact_id": CONTACT, "external_id": "1"})
    call("POST /visits", {"contact_id": CONTACT, "external_id": "777"})

    assert "vis_001" == call.visit(1)["external_id"]
    assert 3 == call.visit(777)["id"]


def test_the_id_of_a_deleted_visit_is_never_used_again(call: Caller) -> None:
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
def test_lists_are_paginated(call: Caller, query: str, ids: list[int], pagination: dict[str, int]) -> None:
    for _ in range(30):
        call("POST /visits", {"contact_id": CONTACT})

    page = call(f"GET /visits{query}").json()

    assert ids == [visit["id"] for visit in page["visits"]]
    assert pagination == page["pagination"]


@pytest.mark.parametrize(
    ("field", "sent", "stored"),
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
def test_values_are_normalized(call: Caller, field: str, sent: str, stored: str) -> None:
    assert stored == call("POST /visits", {"contact_id": CONTACT, field: sent}).json()[field]


@pytest.mark.parametrize(("written", "stored"), [("120.10", "120.10"), ("120", "120.00")])
def test_an_amount_may_be_a_json_number(call: Caller, written: str, stored: str) -> None:
    body = f'{{"contact_id": "{CONTACT}", "amount_collected": {written}}}'

    response = call("POST /visits", content=body, headers={"Content-Type": "application/json"})

    assert stored == response.json()["amount_collected"]


def test_a_contact_is_found_by_its_exact_address(call: Caller) -> None:
    details = {"first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001", "company": "A", "position": "B"}
    created = call("POST /contacts", {"email": "ada@example.com", **details})

    assert 201 == created.status_code
    assert {"email": "ada@example.com", **details}.items() <= created.json().items()
    assert re.fullmatch("cont_[A-Za-z0-9]{18}", created.json()["id"])
    assert {"has_more": False, "data": [created.json()]} == call("GET /contacts?email=ada@example.com").json()
    assert {"has_more": False, "data": []} == call("GET /contacts?email=Ada@example.com").json()
    assert {"has_more": False, "data": []} == call("GET /contacts?email=").json()


def test_a_contact_that_is_created_twice_exists_twice(call: Caller) -> None:
    for _ in range(2):
        call("POST /contacts", {"email": "ada@example.com"})

    assert 2 == len(call("GET /contacts?email=ada@example.com").json()["data"])


def test_contacts_are_listed_ten_at_a_time(call: Caller) -> None:
    for n in range(10):  # the documented contact is the eleventh
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
def test_an_invalid_request_is_rejected_in_json(
    call: Caller, request_line: str, sent: dict[str, str], status: int, about: str
) -> None:
    call("POST /visits", CREATE)

    response = call(request_line, sent)

    assert status == response.status_code
    assert about in response.json()["detail"]
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
def test_an_unreadable_body_is_rejected_in_json(call: Caller, content_type: str, body: bytes) -> None:
    response = call("POST /visits", content=body, headers={"Content-Type": content_type})

    assert 422 == response.status_code
    assert response.json()["detail"]


def test_unknown_and_immutable_fields_are_ignored(call: Caller) -> None:
    contact_id = call("POST /contacts", {"email": "ada@example.com"}).json()["id"]
    call("POST /visits", CREATE | {"colour": "red", "id": "7", "completed": "false"})

    call("PUT /visits/1", {"contact_id": contact_id, "external_id": "b", "colour": "red"})

    assert CREATED == without_stamps(call.visit(1))


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(None, 401), ("Bearer", 401), ("Basic abc", 401), ("Bearer other", 401), ("Bearer s3cret", 200)],
)
def test_the_token_is_checked(secret_address: str, authorization: str | None, status: int) -> None:
    headers = {"Authorization": authorization} if authorization else {}

    response = httpx.get(f"{secret_address}/api/v1/visits", headers=headers)

    assert status == response.status_code
    assert status == 200 or "Authorization" in response.text or "token" in response.text


@pytest.fixture(scope="module")
def secret_address() -> Iterator[str]:
    with running(token="s3cret") as address:
        yield address


def test_without_a_set_token_any_token_is_accepted(call: Caller) -> None:
    assert 200 == httpx.get(f"{call.address}/visits", headers={"Authorization": "bearer x"}).status_code
    assert 401 == httpx.get(f"{call.address}/visits").status_code


def test_the_file_survives_a_restart(tmp_path: Path) -> None:
    file = str(tmp_path / "visits.db")
    for expected in (1, 2):
        with running(file=file) as address, contextlib.closing(Caller(address).http) as http:
            assert expected == http.post("/visits", data=CREATE).json()["id"]


# Not documented: choices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duplicate_external_id", "status", "total", "amount"),
    [
        ("allow", 201, 2, None),
        ("conflict", 409, 1, None),
        ("unprocessable", 422, 1, None),
        ("upsert", 200, 1, "5.00"),
    ],
)
def test_a_duplicate_external_id(
    call: Caller, duplicate_external_id: str, status: int, total: int, amount: str | None
) -> None:
    call.set_faults(duplicate_external_id=duplicate_external_id)
    call("POST /visits", CREATE)

    again = call("POST /visits", CREATE | {"amount_collected": "5"})

    assert (status, total) == (again.status_code, call.total())
    assert amount == call.visit("vis_001").get("amount_collected")


@pytest.mark.parametrize(("empty_clears", "expected"), [(True, None), (False, "2025-02-17T10:30:00Z")])
@pytest.mark.parametrize("empty", [{"data": {"time_completed": ""}}, {"json": {"time_completed": None}}])
def test_an_empty_value_clears_the_field_or_is_ignored(
    call: Caller, empty_clears: bool, expected: str | None, empty: dict[str, Any]
) -> None:
    call.set_faults(empty_clears=empty_clears)
    call("POST /visits", CREATE)

    visit = call("PUT /visits/1", **empty).json()

    assert expected == visit.get("time_completed")
    assert (expected is not None) == visit["completed"]


@pytest.mark.parametrize(
    ("follows", "sent", "event_date"),
    [
        (False, {}, "2025-02-17T09:00:00Z"),
        (True, {}, "2025-02-20T09:00:00Z"),
        (True, {"event_date": "2025-02-18T09:00:00Z"}, "2025-02-18T09:00:00Z"),
    ],
)
def test_the_event_date_may_follow_the_scheduled_time(
    call: Caller, follows: bool, sent: dict[str, str], event_date: str
) -> None:
    call.set_faults(event_date_follows=follows)
    call("POST /visits", CREATE)

    visit = call("PUT /visits/1", {"time_scheduled": "2025-02-20T09:00:00Z", **sent}).json()

    assert event_date == visit["event_date"]


def test_the_contact_of_a_visit_may_be_changeable(call: Caller) -> None:
    call.set_faults(contact_can_change=True)
    contact_id = call("POST /contacts", {"email": "ada@example.com"}).json()["id"]
    call("POST /visits", CREATE)

    assert contact_id == call("PUT /visits/1", {"contact_id": contact_id}).json()["contact_id"]
    assert 422 == call("PUT /visits/1", {"contact_id": "cont_nobody"}).status_code


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_the_status_of_success_can_be_set(call: Caller, status: int) -> None:
    call.set_faults(created_status=status, deleted_status=status)

    responses = [call("POST /visits", CREATE), call("POST /contacts", {"email": "a@b.c"}), call("DELETE /visits/1")]

    assert [status] * 3 == [response.status_code for response in responses]
    assert (status == 204) == (responses[0].content == b"")


# Faults


@pytest.mark.parametrize(
    ("faults", "status", "fault"),
    [
        ({"down": True}, 503, "down"),
        ({"unauthorized": True}, 401, "unauthorized"),
        ({"rate_limited_share": 1}, 429, "rate_limited"),
        ({"error_share": 1}, 503, "error"),
        ({"error_share": 1, "error_status": 500}, 500, "error"),
        ({"error_share": 1, "error_status": 502}, 502, "error"),
    ],
)
def test_a_failure_before_the_call_is_executed(call: Caller, faults: dict[str, Any], status: int, fault: str) -> None:
    call.set_faults(**faults)

    response = call("POST /visits", CREATE)

    call.clear_faults()
    assert (status, fault) == (response.status_code, response.json()["error"])
    assert (status, fault, False) == pick(call.journal()[0], "response", "fault", "committed")
    assert 0 == call.total()


def pick(entry: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(entry[name] for name in names)


@pytest.mark.parametrize(
    ("faults", "header"),
    [
        ({"retry_after_s": 7}, "7"),
        ({"retry_after_s": None}, None),
        ({"retry_after_s": 7, "retry_after_date": True}, r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"),
    ],
)
def test_retry_after_has_the_set_form(call: Caller, faults: dict[str, Any], header: str | None) -> None:
    call.set_faults(rate_limited_share=1, **faults)

    sent = call("GET /visits").headers.get("retry-after")

    assert sent is None if header is None else re.fullmatch(header, sent)


def test_a_connection_is_reset(any_server: Caller, caplog: pytest.LogCaptureFixture) -> None:
    any_server.set_faults(reset_share=1)
    host, port = any_server.address.removeprefix("http://").split(":")

    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"DELETE /visits/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)

    assert ("reset", False) == pick(any_server.journal()[0], "response", "committed")
    assert [] == complaints(caplog)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


def test_a_truncated_response_is_committed(any_server: Caller, caplog: pytest.LogCaptureFixture) -> None:
    any_server.set_faults(truncated_share=1)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        any_server("POST /visits", CREATE)
    with pytest.raises(httpx.TransportError):  # 204 has no body to truncate.
        any_server("DELETE /visits/1")

    assert [("truncated", True), ("truncated", True)] == [
        pick(entry, "response", "committed") for entry in any_server.journal()
    ]
    assert [] == complaints(caplog)


def test_a_call_commits_and_hangs_until_the_caller_disconnects(
    any_server: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    any_server.set_faults(commit_then_hang_share=1, hang_s=60)

    with pytest.raises(httpx.ReadTimeout):
        any_server("POST /visits", CREATE, timeout=0.1)

    any_server.clear_faults()
    assert CREATED == without_stamps(any_server.visit("vis_001"))
    assert ("hang", True, "vis_001") == pick(any_server.journal()[0], "response", "committed", "external_id")
    assert [] == complaints(caplog)


def test_a_call_commits_and_hangs_until_the_connection_drops(any_server: Caller) -> None:
    any_server.set_faults(commit_then_hang_share=1, hang_s=0.1)

    started = time.monotonic()
    with pytest.raises(httpx.ReadError):
        any_server("POST /visits", CREATE)

    assert time.monotonic() - started >= 0.1
    any_server.clear_faults()
    assert 1 == any_server.total()


def test_a_success_may_have_a_body_that_is_not_json(call: Caller) -> None:
    call.set_faults(wrong_json_share=1)

    response = call("POST /visits", CREATE)

    call.clear_faults()
    assert 200 == response.status_code
    with pytest.raises(ValueError, match="Expecting value"):
        response.json()
    assert 1 == call.total()


def test_a_slow_call_succeeds(call: Caller) -> None:
    call.set_faults(slow_share=1, slow_s=0.1)

    started = time.monotonic()
    response = call("POST /visits", CREATE)

    assert time.monotonic() - started >= 0.1
    assert 201 == response.status_code
    assert "slow" == call.journal()[0]["fault"]
    assert call.journal()[0]["took_ms"] >= 99


def test_a_slow_call_is_executed_after_its_caller_has_disconnected(call: Caller) -> None:
    call.set_faults(slow_share=1, slow_s=1, times=1)

    with pytest.raises(httpx.ReadTimeout):
        call("POST /visits", CREATE, timeout=0.05)

    assert 0 == call.total()
    assert 1 == wait_until(call.total)


def test_a_slow_call_is_not_executed_after_a_reset(call: Caller) -> None:
    call.set_faults(slow_share=1, slow_s=0.5, times=1)
    with pytest.raises(httpx.ReadTimeout):
        call("POST /visits", CREATE, timeout=0.05)
    wait_until(lambda: call.http.get("/_sandbox/faults").json()["times"] == 0)

    call.http.post("/_sandbox/reset").raise_for_status()
    time.sleep(0.6)

    assert ([], 0) == (call.journal(), call.total())


def test_faults_can_be_limited_to_an_endpoint_and_a_number(call: Caller) -> None:
    call.set_faults(down=True, only=["POST /visits"], times=2)

    statuses = [call("POST /visits", CREATE).status_code if n % 2 else call.total() for n in range(6)]

    assert [0, 503, 0, 503, 0, 201] == statuses
    assert 0 == call.http.get("/_sandbox/faults").json()["times"]


def test_faults_can_be_limited_to_matching_calls(call: Caller) -> None:
    call.set_faults(down=True, matching="slow@")

    statuses = [call.http.get(f"/contacts?email={name}%40example.com").status_code for name in ("slow", "quick")]

    assert [503, 200] == statuses


def test_a_seed_repeats_the_random_choices(call: Caller) -> None:
    def statuses(seed: int) -> list[int]:
        call.set_faults(error_share=0.25, rate_limited_share=0.25, seed=seed)
        return [call("GET /visits").status_code for _ in range(80)]

    first = statuses(7)

    assert first == statuses(7)
    assert first != statuses(8)
    assert all(8 <= first.count(status) <= 32 for status in (429, 503))  # 20 expected, standard deviation 4


def test_a_server_without_access_to_the_connection_gets_an_exception() -> None:
    async def call_with(**faults: float) -> None:
        transport = httpx.ASGITransport(create_sandbox())
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
            await http.put("/_sandbox/faults", json=faults)
            await http.get("/visits", headers={"Authorization": "Bearer x"})

    for fault in ("reset_share", "truncated_share"):
        with pytest.raises(ConnectionResetError):
            asyncio.run(call_with(**{fault: 1}))


# Control


def test_an_update_of_faults_changes_no_other_fault(call: Caller) -> None:
    call.set_faults(slow_s=2, only=["GET /visits/:id"])
    call.set_faults(hang_s=3)

    faults = call.http.get("/_sandbox/faults").json()

    assert (2, 3, ["GET /visits/:id"]) == pick(faults, "slow_s", "hang_s", "only")
    assert (1, 30, []) == pick(call.http.delete("/_sandbox/faults").json(), "slow_s", "hang_s", "only")


def test_an_unknown_fault_is_rejected_with_a_list_of_all_faults(call: Caller) -> None:
    response = call.set_faults(down=True, dwon=True)

    assert 422 == response.status_code
    assert "there is no fault dwon" == response.json()["detail"]
    assert set(call.http.get("/_sandbox/faults").json()) == set(response.json()["known"])
    assert 200 == call("GET /visits").status_code


@pytest.mark.parametrize(
    ("faults", "about"),
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
def test_an_invalid_fault_is_rejected(call: Caller, faults: dict[str, Any], about: str) -> None:
    before = call.http.get("/_sandbox/faults").json()

    response = call.set_faults(**faults)

    assert 422 == response.status_code
    assert about in response.json()["detail"]
    assert before == call.http.get("/_sandbox/faults").json()


def test_the_journal_has_every_call_and_its_result(call: Caller) -> None:
    number = call.http.get("/_sandbox/journal").json()["last"]
    call("POST /visits", CREATE)
    call("PUT /visits/vis_001", {"amount_collected": "x"})
    call.http.delete("/visits/1")
    call("PATCH /visits/1")

    names = ("number", "method", "route", "id", "response", "committed", "external_id", "contact_id")
    assert [
        (number + 1, "POST", "POST /visits", None, 201, True, "vis_001", CONTACT),
        (number + 2, "PUT", "PUT /visits/:id", "vis_001", 422, False, None, None),
        (number + 3, "DELETE", "DELETE /visits/:id", "1", 204, True, "vis_001", CONTACT),
        (number + 4, "PATCH", "other", None, 404, False, None, None),
    ] == [pick(entry, *names) for entry in call.journal()]
    assert [number + 4] == [entry["number"] for entry in call.journal(since=number + 3)]


def test_the_journal_contains_no_personal_data(call: Caller) -> None:
    created = call("POST /contacts", {"email": "ada@example.com", "first_name": "Ada"}).json()
    call("GET /contacts?email=ada@example.com")

    assert [created["id"]] * 2 == [entry["contact_id"] for entry in call.journal()]
    assert "ada" not in call.http.get("/_sandbox/journal").text.lower()


def test_numbers_continue_after_the_journal_is_cleared(call: Caller) -> None:
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


def test_a_reset_keeps_the_documented_contact_and_the_faults(call: Caller) -> None:
    call.set_faults(slow_s=2)
    call("POST /visits", CREATE)
    call("POST /contacts", {"email": "ada@example.com"})

    assert 204 == call.http.post("/_sandbox/reset").status_code

    assert [] == call.journal()
    assert 2 == call.http.get("/_sandbox/faults").json()["slow_s"]
    assert [CONTACT] == [contact["id"] for contact in call("GET /contacts").json()["data"]]
    assert 0 == call.total()
    assert 1 == call("POST /visits", CREATE).json()["id"]


def test_an_unknown_control_endpoint_is_404(call: Caller) -> None:
    assert 404 == call.http.get("/_sandbox/else").status_code
    assert 422 == call.http.get("/_sandbox/journal?since=x").status_code
    assert [] == call.journal()
