"""The worker as in production: real processes that are killed and restarted, and lose their Redis."""

import asyncio
import json
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import app.ledger.ledger
from app.demo.valkey import free_port, start, stop, valkey
from app.ledger.keys import VISITS_QUEUE
from app.ledger.ledger import Ledger
from app.settings.environment import read_environment
from app.visits.change import Contact
from jobs.worker import worker_settings
from tests.support.harness import (
    CALENDLY_SECRET,
    SECRET,
    TOKEN,
    Harness,
    Server,
    sign_calendly,
    sign_standard,
    standard_body,
    wait_until,
)
from tests.support.ledger_client import CANARY_CONTACT, LedgerClient, all_visits, booked

CANARIES = (
    *CANARY_CONTACT.values(),
    "15550142424",
    TOKEN,
    SECRET,
    SECRET.removeprefix("whsec_"),
    CALENDLY_SECRET,
    "245.67",
)


# A killed worker: its lease ends while the other tests run


@pytest.fixture(scope="module", autouse=True)
def killed_worker() -> Iterator[tuple[Harness, LedgerClient, float]]:
    """Kill a worker during a slow POST of a visit, start another one, and yield the time of the kill."""
    with ExitStack() as stack:
        url, sandbox = stack.enter_context(valkey()), stack.enter_context(Server.sandbox())
        harness, client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        harness.inject_faults(slow_share=1, slow_s=3, only=["POST /visits"], times=1)
        client.accept(booked("1"))
        first = harness.start_worker()
        wait_until(lambda: "POST /contacts" in harness.calls(), 30)
        wait_until(lambda: harness.faults()["times"] == 0)
        first.kill(signal.SIGKILL)
        # 20 s of its lease have passed.
        client.command("ZINCRBY", "bell:state:running", -20_000, "visit:main/standard-1")
        harness.start_worker()
        yield harness, client, time.monotonic()


# One web process and two workers, shared by the tests that do not stop them


@pytest.fixture(scope="module")
def shared_service(sandbox: Server) -> Iterator[tuple[Harness, list[Server]]]:
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        yield (
            harness,
            [
                harness.start_web(LOG_LEVEL="DEBUG"),
                harness.start_worker(LOG_LEVEL="DEBUG"),
                harness.start_worker(LOG_LEVEL="DEBUG"),
            ],
        )


@pytest.fixture
def service(shared_service: tuple[Harness, list[Server]]) -> Iterator[Harness]:
    """Yield an empty service; unfinished tasks of a test end before the next test."""
    harness, _ = shared_service
    harness.reset()
    yield harness
    harness.clear_faults()
    wait_until(LedgerClient(harness.redis_url).is_done)


def calendly(kind: str, uri: str, at: str, start: str, **invitees: Any) -> bytes:
    """Return a body in the format of Calendly's documentation, with the relevant fields only."""
    payload = {
        "uri": f"https://api.calendly.com/scheduled_events/E/invitees/{uri}",
        "email": "canary.ada@example.com",
        "name": "Canaryada Canarylace",
        "scheduled_event": {"start_time": start},
        **{
            name: value and f"https://api.calendly.com/scheduled_events/E/invitees/{value}"
            for name, value in invitees.items()
        },
    }
    payload["rescheduled"] = "new_invitee" in invitees
    return json.dumps({"event": kind, "created_at": at, "payload": payload}).encode()


def test_deliveries_of_two_tools_become_visits(service: Harness) -> None:
    rescheduled = calendly(
        "invitee.created", "NEW", "2026-03-01T10:00:01Z", "2026-03-15T09:00:00Z", old_invitee="OLD", new_invitee=None
    )
    cancelled = calendly("invitee.canceled", "OLD", "2026-03-01T10:00:00Z", "2026-03-14T09:00:00Z", new_invitee="NEW")
    created = calendly("invitee.created", "OLD", "2026-03-01T09:00:00Z", "2026-03-14T09:00:00Z")
    visit = {"contact": CANARY_CONTACT, "time_scheduled": "2026-03-14T16:00:00Z"}

    responses = [service.post(raw, sign_calendly(raw), hook="calendly") for raw in (rescheduled, cancelled, created)]
    responses.append(service.send("visit.created", "A-1042", "2026-03-14T12:00:00Z", **visit))
    responses.append(service.send("visit.completed", "A-1042", "2026-03-14T17:32:05Z", amount_collected="245.67"))

    def are_applied() -> bool:
        return "time_completed" in (service.visit("standard-A-1042") or {}) and bool(service.visit("calendly-OLD"))

    wait_until(are_applied)
    wait_until(LedgerClient(service.redis_url).is_done)
    completed, moved = service.visit("standard-A-1042") or {}, service.visit("calendly-OLD") or {}
    assert [202] * 5 == [response.status_code for response in responses]
    assert 2 == len(service.visits())
    assert ("2026-03-14T17:32:05Z", "2026-03-14T17:32:05Z", "245.67") == (
        completed["time_completed"],
        completed["event_date"],
        completed["amount_collected"],
    )
    assert ("2026-03-15T09:00:00Z", "2026-03-15T09:00:00Z") == (moved["time_scheduled"], moved["event_date"])
    assert completed["contact_id"] == moved["contact_id"]
    assert 1 == len(service.get_from_api("/contacts?email=canary.ada%40example.com")["data"])


def test_two_workers_create_each_of_300_visits_once(service: Harness) -> None:
    client = LedgerClient(service.redis_url)
    contacts = [Contact(**CANARY_CONTACT | {"email": f"canary.{number % 40}@example.com"}) for number in range(300)]

    client.accept(*(booked(f"{number:03}", contact=contact) for number, contact in enumerate(contacts)))
    wait_until(lambda: service.get_from_api("/visits")["pagination"]["total"] >= 300, 30)
    wait_until(client.is_done)

    assert [f"standard-{number:03}" for number in range(300)] == all_visits(service)
    assert [40, 300, 300] == [
        service.calls().count(call) for call in ("POST /contacts", "POST /visits", "GET /visits/:id")
    ]


def test_two_web_processes_and_four_workers_create_each_visit_once(sandbox: Server) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        harness, client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        web_servers, _ = [harness.start_web(), harness.start_web()], [harness.start_worker() for _ in range(4)]
        bodies = [
            standard_body(kind, f"{number:03}", f"2026-03-14T09:00:0{at}Z", contact=CANARY_CONTACT, **fields)
            for number in range(60)
            for at, (kind, fields) in enumerate(
                [
                    ("visit.created", {"time_scheduled": "2026-03-20T09:00:00Z"}),
                    ("visit.updated", {"time_scheduled": "2026-03-21T09:00:00Z"}),
                    ("visit.updated", {"amount_collected": "12.50"}),
                ]
            )
        ]
        random.Random(1).shuffle(bodies)

        statuses = []
        for number, raw in enumerate(bodies):
            harness.web_server = web_servers[number % 2]
            statuses.append(harness.post(raw, sign_standard(raw)).status_code)
        wait_until(client.is_done, 30)

        assert {202} == set(statuses)
        values = {(visit["time_scheduled"], visit["amount_collected"]) for visit in harness.visits()}
        assert {("2026-03-21T09:00:00Z", "12.50")} == values
        assert [f"standard-{number:03}" for number in range(60)] == all_visits(harness)
        assert 60 == harness.calls().count("POST /visits")
        assert 1 == harness.calls().count("POST /contacts")


def test_a_visit_that_waits_for_the_api_is_applied_when_the_api_recovers(service: Harness) -> None:
    service.inject_faults(down=True)
    service.send("visit.created", "1", contact=CANARY_CONTACT, time_scheduled="2026-03-14T16:00:00Z")
    wait_until(lambda: service.calls().count("GET /visits/:id") >= 2)

    service.clear_faults()

    wait_until(lambda: service.visit("standard-1"))


def test_a_task_without_a_job_is_requeued(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    client = LedgerClient(service.redis_url)
    client.accept(booked("1"))
    wait_until(lambda: service.visit("standard-1"))
    wait_until(client.is_done)
    service.send("visit.updated", "1", amount_collected="1.00")
    wait_until(lambda: "amount_collected" in (service.visit("standard-1") or {}))
    wait_until(client.is_done)
    client.command("ZADD", "bell:state:queued", 1, "visit:main/standard-1")  # queued, but without a job
    client.command("HSET", "bell:visit:main/standard-1", "state", "queued")
    monkeypatch.setattr(app.ledger.ledger, "ORPHAN_AFTER_S", 0)

    requeued = client.run(lambda ledger: ledger.requeue_orphans())

    assert (1, -1) == requeued
    wait_until(client.is_done)
    assert 3 == len(client.member("1").attempts)


def test_logs_contain_no_personal_data(shared_service: tuple[Harness, list[Server]], service: Harness) -> None:
    """Checks the logs of all tests above, at LOG_LEVEL=DEBUG, and of some failures."""
    service.inject_faults(error_share=1, error_status=500, times=3, only=["GET /contacts", "POST /visits"])
    service.send(
        "visit.created", "1", contact=CANARY_CONTACT, time_scheduled="2026-03-14T16:00:00Z", amount_collected="245.67"
    )
    service.send(
        "visit.created", "2", contact={**CANARY_CONTACT, "email": "canary.ada.example.com"}, time_scheduled="tomorrow"
    )
    service.send(
        "visit.created",
        "3",
        contact={**CANARY_CONTACT, "email": "canary.ada.example.com"},
        time_scheduled="2026-03-14T16:00:00Z",
    )
    service.post(
        b'{"email": "canary.ada@example.com"', sign_calendly(b'{"email": "canary.ada@example.com"'), "calendly"
    )
    service.post(b'{"email": "canary.ada@example.com"}', {"content-type": "application/json"})
    wait_until(lambda: service.visit("standard-1"))
    wait_until(lambda: "visit:main/standard-3" in LedgerClient(service.redis_url).tasks("parked"))

    for server in shared_service[1]:
        log = server.log.read_text()
        assert log
        assert [] == [canary for canary in (*CANARIES, "canary.ada", "tomorrow") if canary in log]


def test_jobs_contain_no_personal_data(service: Harness) -> None:
    service.inject_faults(slow_share=1, slow_s=1)
    service.send(
        "visit.created", "1", contact=CANARY_CONTACT, time_scheduled="2026-03-14T16:00:00Z", amount_collected="245.67"
    )
    client = LedgerClient(service.redis_url)

    [job] = wait_until(lambda: client.command("ZRANGE", VISITS_QUEUE, 0, -1))

    assert b"visit:main/standard-1#1" == job
    assert [] == client.command("KEYS", "arq:*")


# Workers that start and stop


def test_worker_settings_have_the_functions_of_both_kinds_of_jobs() -> None:
    settings = read_environment({"REDIS_URL": "redis://127.0.0.1:6379/0", "VISITS_API_TOKEN": "t"})

    functions = worker_settings(settings)["functions"]

    assert ("visit", "event") == tuple(function.name for function in functions)


def test_a_worker_finishes_its_runs_after_sigterm(sandbox: Server) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        harness, client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        harness.inject_faults(slow_share=1, slow_s=0.2)
        client.accept(*(booked(f"{number:03}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(200)))
        first = harness.start_worker()
        wait_until(lambda: harness.calls().count("POST /visits") > 5, 30)

        status = first.kill(signal.SIGTERM)
        running, created = client.tasks("running"), len(all_visits(harness))
        harness.clear_faults()
        harness.start_worker()
        wait_until(client.is_done, 30)

        assert (0, []) == (status, running)
        assert 0 < created < 200
        assert [f"standard-{number:03}" for number in range(200)] == all_visits(harness)
        assert 200 == harness.calls().count("POST /visits")


def test_a_worker_survives_a_restart_of_redis(sandbox: Server) -> None:
    with ExitStack() as stack:
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        servers = [start(port, folder)]
        stack.callback(lambda: stop(servers[-1]))
        url = f"redis://127.0.0.1:{port}/0"
        harness, client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        harness.inject_faults(slow_share=1, slow_s=1, only=["POST /visits"])
        client.accept(*(booked(f"{number:02}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(80)))
        worker = harness.start_worker()
        wait_until(lambda: harness.calls().count("GET /visits/:id") >= 50, 30)

        servers[-1].kill()  # calls for the first fifty visits are in progress, the other visits are queued
        servers[-1].wait()
        wait_until(lambda: harness.calls().count("POST /visits") >= 50)
        servers.append(start(port, folder))
        harness.clear_faults()
        wait_until(client.is_done, 45)

        assert worker.process.poll() is None
        assert [f"standard-{number:02}" for number in range(80)] == all_visits(harness)
        assert 80 == harness.calls().count("POST /visits")


def test_a_worker_that_starts_before_redis_waits_for_it(sandbox: Server) -> None:
    with ExitStack() as stack:
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        harness, client = Harness(f"redis://127.0.0.1:{port}/0", sandbox), LedgerClient(f"redis://127.0.0.1:{port}/0")
        stack.callback(harness.__exit__)
        harness.control("POST", "reset")
        worker = harness.start_worker()
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(3)

        server = start(port, folder)
        stack.callback(lambda: stop(server))
        client.accept(booked("1"))

        wait_until(lambda: harness.visit("standard-1"))


class QuotingApi(BaseHTTPRequestHandler):
    """An API that rejects every request, and quotes it in the body, the reason phrase and a header."""

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        quote = f"{self.path} {body.decode()} {self.headers['authorization']} canary.ada@example.com".encode()
        status = 404 if self.path.startswith("/visits/") else 422 if self.command == "POST" else 200
        self.send_response(status, "canary.ada@example.com")
        self.send_header("x-quote", "canary.ada@example.com")
        self.send_header("content-length", str(len(quote)))
        self.end_headers()
        self.wfile.write(quote)

    do_GET = do_POST = do_PUT = do_DELETE = respond

    def log_message(self, *_: object) -> None:
        pass


def test_responses_that_quote_personal_data_are_not_logged(sandbox: Server) -> None:
    with ExitStack() as stack:
        url, api = stack.enter_context(valkey()), ThreadingHTTPServer(("127.0.0.1", 0), QuotingApi)
        threading.Thread(target=api.serve_forever, daemon=True).start()
        stack.callback(api.server_close)
        stack.callback(api.shutdown)
        harness, client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        client.accept(
            booked("refused", contact=Contact(id="cont_1", **CANARY_CONTACT)),
            booked("unreadable"),  # GET /contacts returns 200 without JSON
        )
        worker = harness.start_worker(LOG_LEVEL="DEBUG", VISITS_API_URL=f"http://127.0.0.1:{api.server_port}")
        wait_until(lambda: client.tasks("parked") and client.member("unreadable").failed_attempts)

        log = worker.log.read_text()
        assert "POST /visits: 422" in log
        assert [] == [canary for canary in (*CANARIES, "canary.ada") if canary in log]
        assert "canary.ada@example.com" in client.member("refused").attempts[-1].response_text


def test_slow_jobs_at_the_head_of_the_queue_do_not_delay_others(service: Harness) -> None:
    service.inject_faults(slow_share=1, slow_s=4, only=["POST /contacts"])
    client = LedgerClient(service.redis_url)
    client.accept(*(booked(f"{number}", contact=Contact(email=f"canary.{number}@example.com")) for number in range(30)))
    wait_until(lambda: len(client.tasks("running")) == 30)

    client.accept(booked("quick", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")))
    wait_until(lambda: service.visits())

    assert ["standard-quick"] == [visit["external_id"] for visit in service.visits()]
    wait_until(lambda: len(client.tasks("running")) == 30)


def test_visits_that_always_fail_do_not_delay_others(service: Harness) -> None:
    service.inject_faults(error_share=1, error_status=500, only=["GET /visits/:id"], matching="/standard-bad")
    client, contact = LedgerClient(service.redis_url), Contact(id="cont_KYdl3lftgZXGRbxqoj")
    client.accept(*(booked(f"bad-{number}", contact=contact) for number in range(30)))

    circuit_samples: list[int] = []
    for number in range(10):
        client.accept(booked(f"good-{number}", contact=contact))
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            circuit_samples.append(client.command("EXISTS", "bell:circuit:main"))
            time.sleep(0.05)
    wait_until(lambda: len(all_visits(service)) == 10)

    assert [1] * 10 == [len(client.member(f"good-{number}").attempts) for number in range(10)]
    assert all(client.member(f"bad-{number}").failed_attempts > 3 for number in range(30))
    # Thirty failures at once may open the circuit until the first probe, which is a visit that has not failed.
    assert sum(circuit_samples) < len(circuit_samples) / 3


def test_a_backlog_drains_at_the_allowed_rate_earliest_visits_first(sandbox: Server) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        harness, client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        days = random.Random(1).sample(range(1, 29), 28)
        contact = Contact(id="cont_KYdl3lftgZXGRbxqoj")
        harness.inject_faults(down=True)
        harness.start_worker(VISITS_API_RATE="20")
        client.accept(
            *(
                booked(f"{day:02}", contact=contact, time_scheduled=datetime(2026, 3, day, 9, tzinfo=UTC))
                for day in days
            )
        )
        wait_until(lambda: len(client.tasks("held:main")) + len(client.tasks("waiting")) == 28)
        calls_before = len(harness.calls())
        held_days = {int(task[-2:]) for task in client.tasks("held:main")}

        harness.clear_faults()
        wait_until(client.is_done, 30)

        creates = [call for call in harness.journal() if call["route"] == "POST /visits"]
        order = [int(call["external_id"][-2:]) for call in creates]
        drained = harness.journal()[calls_before:]
        assert sorted(days) == sorted(order)
        # The first is the probe. The others that were held are released ten at a time.
        released = [day for day in order[1:] if day in held_days]
        assert max(abs(place - sorted(released).index(day)) for place, day in enumerate(released)) <= 10, order
        first, last = (datetime.fromisoformat(drained[place]["at"]) for place in (0, -1))
        # Without a limit they would take 0.2 s, at this rate 3 s; the first call may be 1 s late.
        assert len(drained) <= 20 * ((last - first).total_seconds() + 1)


def test_many_replays_do_not_delay_new_deliveries(service: Harness) -> None:
    service.inject_faults(slow_share=1, slow_s=0.05)
    client = LedgerClient(service.redis_url)
    client.accept(*(booked(f"{number:03}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(200)))
    wait_until(client.is_done, 30)

    async def replay_all(ledger: Ledger) -> None:
        replays = [f"visit:main/standard-{number:03}" for number in range(200)]
        await asyncio.gather(*(ledger.replay(task, recheck=True, queue="replays") for task in replays))

    client.run(replay_all)
    client.accept(booked("live", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")))
    wait_until(client.is_done, 60)

    [live] = [attempt.started_at_ms for attempt in client.member("live").attempts]
    assert len([n for n in range(200) if client.member(f"{n:03}").attempts[-1].started_at_ms > live]) > 100


# The killed worker, continued


def test_another_worker_finishes_the_task_of_a_killed_worker_within_a_minute(
    killed_worker: tuple[Harness, LedgerClient, float],
) -> None:
    harness, client, killed_at = killed_worker

    wait_until(lambda: client.member("1").state == "done", 45 - (time.monotonic() - killed_at))

    assert ["standard-1"] == all_visits(harness)
    assert 1 == harness.calls().count("POST /visits")
    assert 1 == len(harness.get_from_api("/contacts?email=canary.ada%40example.com")["data"])
    assert "done" == client.member("1").state
