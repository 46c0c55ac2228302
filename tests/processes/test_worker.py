"""The worker as it runs in production: real processes, killed, restarted, and without their Redis."""

import asyncio
import json
import random
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

import app.ledger.ledger
from app.demo.valkey import free_port, start, stop, valkey
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, Task
from app.ledger.redis import Redis, RedisAddress
from app.settings.environment import read_environment
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery
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

T = TypeVar("T")
SPOKEN = {
    "email": "canary.ada@example.com",
    "first_name": "Canaryada",
    "last_name": "Canarylace",
    "phone": "+15550142424",
}
CANARIES = (*SPOKEN.values(), "15550142424", TOKEN, SECRET, SECRET.removeprefix("whsec_"), CALENDLY_SECRET, "245.67")


@dataclass
class LedgerClient:
    """The ledger, from the outside: for tests that need no door."""

    url: str

    def do(self, step: Any) -> Any:
        """What `step(ledger)` returns."""

        async def once() -> Any:
            redis = Redis(RedisAddress(self.url))
            try:
                return await step(Ledger(redis, retention_days=30))
            finally:
                await redis.close()

        return asyncio.run(once())

    def accept(self, *changes: VisitChange) -> None:
        """Each by a delivery of its own."""

        async def step(ledger: Ledger) -> None:
            for change in changes:
                delivery = Delivery("standard", "standard", (), uuid.uuid4().bytes, datetime.now(UTC))
                meta = DeliveryInfo("standard", "standard", int(time.time() * 1000))
                await ledger.accept(delivery, meta, [change], "main", dedup_id=None)

        self.do(step)

    def member(self, visit_id: str) -> Task:
        return self.do(lambda ledger: ledger.load_task(f"visit:main/standard-{visit_id}"))  # type: ignore[no-any-return]

    def tasks(self, state: Any) -> list[str]:
        return self.do(lambda ledger: ledger.task_ids(state))  # type: ignore[no-any-return]

    def command(self, *command: Any) -> Any:
        return self.do(lambda ledger: ledger.redis.command(*command))

    def is_done(self) -> bool:
        """Nothing is queued, running or waiting, and arq has no job."""

        async def step(ledger: Ledger) -> bool:
            keys = (
                "bell:queued",
                "bell:running",
                "bell:waiting",
                "bell:held:main",
                "bell:queue:visits",
                "bell:queue:events",
                "bell:queue:replays",
            )
            return not any([await ledger.redis.command("ZCARD", key) for key in keys])

        return self.do(step)  # type: ignore[no-any-return]


def booked(visit_id: str, **said: Any) -> VisitChange:
    said = {"contact": Contact(**SPOKEN), "time_scheduled": datetime(2026, 3, 14, 9, tzinfo=UTC)} | said
    return VisitChange(action="create", visit_id=visit_id, version=1, **said)


def all_visits(harness: Harness) -> list[str]:
    """The external_ids of all pages."""
    first = harness.get_from_api("/visits?limit=100")
    pages = [
        first,
        *(
            harness.get_from_api(f"/visits?limit=100&page={page}")
            for page in range(2, first["pagination"]["total_pages"] + 1)
        ),
    ]
    return sorted(visit["external_id"] for page in pages for visit in page["visits"])


# A worker that dies: its lease runs out while the other tests run ----------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def death() -> Iterator[tuple[Harness, LedgerClient, float]]:
    """A worker was killed while the API was slow to make a visit, and another one is there."""
    with ExitStack() as stack:
        url, sandbox = stack.enter_context(valkey()), stack.enter_context(Server.sandbox())
        harness, books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        harness.inject_faults(slow_share=1, slow_s=3, only=["POST /visits"], times=1)
        books.accept(booked("1"))
        first = harness.start_worker()
        wait_until(lambda: "POST /contacts" in harness.calls(), 30)
        wait_until(lambda: harness.http.get(f"{sandbox.url}/_sandbox/faults").json()["times"] == 0)
        first.kill(signal.SIGKILL)
        books.command(
            "ZINCRBY", "bell:running", -20_000, "visit:main/standard-1"
        )  # A part of its lease passes at once.
        harness.start_worker()
        yield harness, books, time.monotonic()


# One web process and two workers, shared by the tests that leave them running --------------------------------------


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
    """Empty; what a test leaves undone is done before the next one."""
    harness, _ = shared_service
    harness.reset()
    yield harness
    harness.clear_faults()
    wait_until(LedgerClient(harness.redis_url).is_done)


def calendly(kind: str, uri: str, at: str, start: str, **more: Any) -> bytes:
    """As Calendly's page on webhooks shows it, cut down to what counts."""
    payload = {
        "uri": f"https://api.calendly.com/scheduled_events/E/invitees/{uri}",
        "email": "canary.ada@example.com",
        "name": "Canaryada Canarylace",
        "scheduled_event": {"start_time": start},
        **{
            name: value and f"https://api.calendly.com/scheduled_events/E/invitees/{value}"
            for name, value in more.items()
        },
    }
    payload["rescheduled"] = "new_invitee" in more
    return json.dumps({"event": kind, "created_at": at, "payload": payload}).encode()


def test_what_rings_in_two_languages_stands_in_the_api(service: Harness) -> None:
    moved = calendly(
        "invitee.created", "NEW", "2026-03-01T10:00:01Z", "2026-03-15T09:00:00Z", old_invitee="OLD", new_invitee=None
    )
    away = calendly("invitee.canceled", "OLD", "2026-03-01T10:00:00Z", "2026-03-14T09:00:00Z", new_invitee="NEW")
    made = calendly("invitee.created", "OLD", "2026-03-01T09:00:00Z", "2026-03-14T09:00:00Z")
    visit = {"contact": SPOKEN, "time_scheduled": "2026-03-14T16:00:00Z"}

    answers = [service.post(raw, sign_calendly(raw), hook="calendly") for raw in (moved, away, made)]
    answers.append(service.send("visit.created", "A-1042", "2026-03-14T12:00:00Z", **visit))
    answers.append(service.send("visit.completed", "A-1042", "2026-03-14T17:32:05Z", amount_collected="245.67"))

    def seen() -> bool:
        return "time_completed" in (service.visit("standard-A-1042") or {}) and bool(service.visit("calendly-OLD"))

    wait_until(seen)
    wait_until(LedgerClient(service.redis_url).is_done)
    ours, theirs = service.visit("standard-A-1042") or {}, service.visit("calendly-OLD") or {}
    assert [202] * 5 == [answer.status_code for answer in answers]
    assert 2 == len(service.visits())
    assert ("2026-03-14T17:32:05Z", "2026-03-14T17:32:05Z", "245.67") == (
        ours["time_completed"],
        ours["event_date"],
        ours["amount_collected"],
    )
    assert ("2026-03-15T09:00:00Z", "2026-03-15T09:00:00Z") == (theirs["time_scheduled"], theirs["event_date"])
    assert ours["contact_id"] == theirs["contact_id"]
    assert 1 == len(service.get_from_api("/contacts?email=canary.ada%40example.com")["data"])


def test_two_workers_double_none_of_300_visits(service: Harness) -> None:
    books = LedgerClient(service.redis_url)
    contacts = [Contact(**SPOKEN | {"email": f"canary.{number % 40}@example.com"}) for number in range(300)]

    books.accept(*(booked(f"{number:03}", contact=contact) for number, contact in enumerate(contacts)))
    wait_until(lambda: service.get_from_api("/visits")["pagination"]["total"] >= 300, 30)
    wait_until(books.is_done)

    assert [f"standard-{number:03}" for number in range(300)] == all_visits(service)
    assert [40, 300, 300] == [
        service.calls().count(call) for call in ("POST /contacts", "POST /visits", "GET /visits/:id")
    ]


def test_two_doors_and_four_workers_share_the_work(sandbox: Server) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        harness, books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        doors, _ = [harness.start_web(), harness.start_web()], [harness.start_worker() for _ in range(4)]
        bodies = [
            standard_body(kind, f"{number:03}", f"2026-03-14T09:00:0{at}Z", contact=SPOKEN, **said)
            for number in range(60)
            for at, (kind, said) in enumerate(
                [
                    ("visit.created", {"time_scheduled": "2026-03-20T09:00:00Z"}),
                    ("visit.updated", {"time_scheduled": "2026-03-21T09:00:00Z"}),
                    ("visit.updated", {"amount_collected": "12.50"}),
                ]
            )
        ]
        random.Random(1).shuffle(bodies)

        answers = []
        for number, raw in enumerate(bodies):
            harness.web_server = doors[number % 2]
            answers.append(harness.post(raw, sign_standard(raw)).status_code)
        wait_until(books.is_done, 30)

        assert {202} == set(answers)
        stands = {(visit["time_scheduled"], visit["amount_collected"]) for visit in harness.visits()}
        assert {("2026-03-21T09:00:00Z", "12.50")} == stands
        assert [f"standard-{number:03}" for number in range(60)] == all_visits(harness)
        assert 60 == harness.calls().count("POST /visits")
        assert 1 == harness.calls().count("POST /contacts")


def test_a_visit_that_waits_for_the_api_is_applied_when_it_is_back(service: Harness) -> None:
    service.inject_faults(down=True)
    service.send("visit.created", "1", contact=SPOKEN, time_scheduled="2026-03-14T16:00:00Z")
    wait_until(lambda: service.calls().count("GET /visits/:id") >= 2)

    service.clear_faults()

    wait_until(lambda: service.visit("standard-1"))


def test_a_lost_job_is_queued_again(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    books = LedgerClient(service.redis_url)
    steps = [
        ["ZADD", "bell:queued", 1, "visit:main/standard-1"],
        ["HSET", "bell:visit:main/standard-1", "state", "queued"],
    ]
    books.accept(booked("1"))
    wait_until(lambda: service.visit("standard-1"))
    wait_until(books.is_done)
    service.send("visit.updated", "1", amount_collected="1.00")
    wait_until(lambda: "amount_collected" in (service.visit("standard-1") or {}))
    wait_until(books.is_done)
    for step in steps:  # It is queued, and arq knows nothing of it.
        books.command(*step)
    monkeypatch.setattr(app.ledger.ledger, "ORPHAN_AFTER_S", 0)

    adopted = books.do(lambda ledger: ledger.requeue_orphans())

    assert (1, -1) == adopted
    wait_until(books.is_done)
    assert 3 == len(books.member("1").attempts)


def test_the_house_has_logged_nobodys_name(shared_service: tuple[Harness, list[Server]], service: Harness) -> None:
    """All that the tests above rang, at LOG_LEVEL=DEBUG, and some that does not go well."""
    service.inject_faults(error_share=1, error_status=500, times=3, only=["GET /contacts", "POST /visits"])
    service.send("visit.created", "1", contact=SPOKEN, time_scheduled="2026-03-14T16:00:00Z", amount_collected="245.67")
    service.send("visit.created", "2", contact={**SPOKEN, "email": "canary.ada.example.com"}, time_scheduled="tomorrow")
    service.send(
        "visit.created",
        "3",
        contact={**SPOKEN, "email": "canary.ada.example.com"},
        time_scheduled="2026-03-14T16:00:00Z",
    )
    service.post(
        b'{"email": "canary.ada@example.com"', sign_calendly(b'{"email": "canary.ada@example.com"'), "calendly"
    )
    service.post(b'{"email": "canary.ada@example.com"}', {"content-type": "application/json"})
    wait_until(lambda: service.visit("standard-1"))
    wait_until(lambda: "visit:main/standard-3" in LedgerClient(service.redis_url).tasks("parked"))

    for server in shared_service[1]:
        told = server.log.read_text()
        assert told
        assert [] == [canary for canary in (*CANARIES, "canary.ada", "tomorrow") if canary in told]


def test_arq_knows_nobodys_name(service: Harness) -> None:
    service.inject_faults(slow_share=1, slow_s=1)
    service.send("visit.created", "1", contact=SPOKEN, time_scheduled="2026-03-14T16:00:00Z", amount_collected="245.67")
    books = LedgerClient(service.redis_url)

    keys = wait_until(lambda: books.command("KEYS", "arq:*"))
    told = b" ".join(
        [
            *keys,
            *(books.command("GET", key) or b"" for key in keys),
            *books.command("ZRANGE", "bell:queue:visits", 0, -1),
        ]
    )

    assert b"standard-1" in told
    assert [] == [canary for canary in CANARIES if canary.encode() in told]


# Workers that come and go -------------------------------------------------------------------------------------------


def test_arq_runs_what_the_queue_names() -> None:
    settings = read_environment({"REDIS_URL": "redis://127.0.0.1:6379/0", "VISITS_API_TOKEN": "t"})

    functions = worker_settings(settings)["functions"]

    assert ("visit", "event") == tuple(function.name for function in functions)


def test_a_worker_that_is_asked_to_go_finishes_what_it_began_and_loses_nothing(sandbox: Server) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        harness, books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        harness.inject_faults(slow_share=1, slow_s=0.2)
        books.accept(*(booked(f"{number:03}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(200)))
        first = harness.start_worker()
        wait_until(lambda: harness.calls().count("POST /visits") > 5, 30)

        status = first.kill(signal.SIGTERM)
        running, stood = books.tasks("running"), len(all_visits(harness))
        harness.clear_faults()
        harness.start_worker()
        wait_until(books.is_done, 30)

        assert (0, []) == (status, running)
        assert 0 < stood < 200
        assert [f"standard-{number:03}" for number in range(200)] == all_visits(harness)
        assert 200 == harness.calls().count("POST /visits")


def test_a_worker_survives_a_restart_of_its_redis(sandbox: Server) -> None:
    with ExitStack() as stack:
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        servers = [start(port, folder)]
        stack.callback(lambda: stop(servers[-1]))
        url = f"redis://127.0.0.1:{port}/0"
        harness, books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        harness.inject_faults(slow_share=1, slow_s=1, only=["POST /visits"])
        books.accept(*(booked(f"{number:02}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(80)))
        worker = harness.start_worker()
        wait_until(lambda: harness.calls().count("GET /visits/:id") >= 50, 30)

        servers[-1].kill()  # The first fifty are on their way to the API, the others in the queue.
        servers[-1].wait()
        wait_until(lambda: harness.calls().count("POST /visits") >= 50)
        servers.append(start(port, folder))
        harness.clear_faults()
        wait_until(books.is_done, 45)

        assert worker.process.poll() is None
        assert [f"standard-{number:02}" for number in range(80)] == all_visits(harness)
        assert 80 == harness.calls().count("POST /visits")


def test_a_worker_that_is_there_before_its_redis_waits_for_it(sandbox: Server) -> None:
    with ExitStack() as stack:
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        harness, books = Harness(f"redis://127.0.0.1:{port}/0", sandbox), LedgerClient(f"redis://127.0.0.1:{port}/0")
        stack.callback(harness.__exit__)
        harness.http.post(f"{sandbox.url}/_sandbox/reset").raise_for_status()
        worker = harness.start_worker()
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(3)

        server = start(port, folder)
        stack.callback(lambda: stop(server))
        books.accept(booked("1"))

        wait_until(lambda: harness.visit("standard-1"))


class Quoting(BaseHTTPRequestHandler):
    """An API that refuses everything, and quotes what it refuses, in the body, the reason and a header."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        said = f"{self.path} {body.decode()} {self.headers['authorization']} canary.ada@example.com".encode()
        status = 404 if self.path.startswith("/visits/") else 422 if self.command == "POST" else 200
        self.send_response(status, "canary.ada@example.com")
        self.send_header("x-said", "canary.ada@example.com")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


def test_an_api_that_quotes_what_it_refuses_is_not_quoted_in_a_log(sandbox: Server) -> None:
    with ExitStack() as stack:
        url, api = stack.enter_context(valkey()), ThreadingHTTPServer(("127.0.0.1", 0), Quoting)
        threading.Thread(target=api.serve_forever, daemon=True).start()
        stack.callback(api.server_close)
        stack.callback(api.shutdown)
        harness, books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        books.accept(
            booked("refused", contact=Contact(id="cont_1", **SPOKEN)),
            booked("unreadable"),  # its contacts are answered with 200 and no JSON
        )
        worker = harness.start_worker(LOG_LEVEL="DEBUG", VISITS_API_URL=f"http://127.0.0.1:{api.server_port}")
        wait_until(lambda: books.tasks("parked") and books.member("unreadable").failed_attempts)

        told = worker.log.read_text()
        assert "POST /visits: 422" in told
        assert [] == [canary for canary in (*CANARIES, "canary.ada") if canary in told]
        assert "canary.ada@example.com" in books.member("refused").attempts[-1].response_text


def test_jobs_that_hang_at_the_head_of_the_queue_delay_nobody(service: Harness) -> None:
    service.inject_faults(slow_share=1, slow_s=4, only=["POST /contacts"])
    books = LedgerClient(service.redis_url)
    books.accept(*(booked(f"{number}", contact=Contact(email=f"canary.{number}@example.com")) for number in range(30)))
    wait_until(lambda: len(books.tasks("running")) == 30)

    books.accept(booked("quick", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")))
    wait_until(lambda: service.visits())

    assert ["standard-quick"] == [visit["external_id"] for visit in service.visits()]
    wait_until(lambda: len(books.tasks("running")) == 30)


def test_visits_that_the_api_always_fails_hold_up_no_other(service: Harness) -> None:
    service.inject_faults(error_share=1, error_status=500, only=["GET /visits/:id"], matching="/standard-bad")
    books, known = LedgerClient(service.redis_url), Contact(id="cont_KYdl3lftgZXGRbxqoj")
    books.accept(*(booked(f"bad-{number}", contact=known) for number in range(30)))

    looks: list[int] = []
    for number in range(10):
        books.accept(booked(f"good-{number}", contact=known))
        until = time.monotonic() + 1
        while time.monotonic() < until:
            looks.append(books.command("EXISTS", "bell:circuit:main"))
            time.sleep(0.05)
    wait_until(lambda: len(all_visits(service)) == 10)

    assert [1] * 10 == [len(books.member(f"good-{number}").attempts) for number in range(10)]
    assert all(books.member(f"bad-{number}").failed_attempts > 3 for number in range(30))
    # The thirty at once may look like an outage, until the first probe: one that never failed.
    assert sum(looks) < len(looks) / 3


def test_after_an_outage_the_backlog_drains_at_the_allowed_rate_soonest_first(sandbox: Server) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        harness, books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)
        days = random.Random(1).sample(range(1, 29), 28)
        known = Contact(id="cont_KYdl3lftgZXGRbxqoj")
        harness.inject_faults(down=True)
        harness.start_worker(VISITS_API_RATE="20")
        books.accept(
            *(booked(f"{day:02}", contact=known, time_scheduled=datetime(2026, 3, day, 9, tzinfo=UTC)) for day in days)
        )
        wait_until(lambda: len(books.tasks("held:main")) + len(books.tasks("waiting")) == 28)
        storm = len(harness.calls())

        harness.clear_faults()
        wait_until(books.is_done, 30)

        made = [call for call in harness.journal() if call["route"] == "POST /visits"]
        order = [int(call["external_id"][-2:]) for call in made]
        drained = harness.journal()[storm:]
        assert sorted(days) == sorted(order)
        # Ten are let into the line at once, those that had waited for their own next try beside them.
        assert max(abs(place - day) for place, day in enumerate(order, 1)) <= 13, order
        first, last = (datetime.fromisoformat(drained[place]["at"]) for place in (0, -1))
        # At once they would take a fifth of a second, at this rate three; the first may come late by one.
        assert len(drained) <= 20 * ((last - first).total_seconds() + 1)


def test_many_replays_do_not_delay_what_rings(service: Harness) -> None:
    service.inject_faults(slow_share=1, slow_s=0.05)
    books = LedgerClient(service.redis_url)
    books.accept(*(booked(f"{number:03}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(200)))
    wait_until(books.is_done, 30)

    async def replay_all(ledger: Ledger) -> None:
        replays = [f"visit:main/standard-{number:03}" for number in range(200)]
        await asyncio.gather(*(ledger.replay(work, recheck=True, queue="replays") for work in replays))

    books.do(replay_all)
    books.accept(booked("live", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")))
    wait_until(books.is_done, 60)

    [live] = [attempt.started_at_ms for attempt in books.member("live").attempts]
    assert len([n for n in range(200) if books.member(f"{n:03}").attempts[-1].started_at_ms > live]) > 100


# The end of what began above ----------------------------------------------------------------------------------------


def test_what_a_killed_worker_held_is_finished_by_another_within_a_minute(
    death: tuple[Harness, LedgerClient, float],
) -> None:
    harness, books, killed_at = death

    wait_until(lambda: books.member("1").state == "done", 45 - (time.monotonic() - killed_at))

    assert ["standard-1"] == all_visits(harness)
    assert 1 == harness.calls().count("POST /visits")
    assert 1 == len(harness.get_from_api("/contacts?email=canary.ada%40example.com")["data"])
    assert "done" == books.member("1").state
