"""Counts, search, lists, operations and redaction, as the console and the command line use them."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest

from app.ledger.ids import TaskId, delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NewDelivery
from app.ledger.redis import Redis, RedisAddress
from app.operators import redaction, search_index
from app.operators.explain import MAX_CHANGES_ON_LOOP, Explain
from app.operators.filter import Filter
from app.operators.lists import BATCH_SIZE, PAGE_SIZE, Lists
from app.operators.operations import OperationRequest, Operations
from app.operators.overview import HookStats, Overview
from app.operators.replay import Replay
from app.settings.environment import read_environment
from app.telemetry import counters
from app.telemetry.counters import Counters
from app.telemetry.health import Backlog, Circuit, Worker
from app.visits.change import Contact, VisitChange
from app.visits.merge import merge_changes
from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import fingerprint
from tests.support.cases import each
from tests.support.harness import Harness, wait_until
from tests.support.ledger import accept, change, visit_task
from tests.support.ledger_client import LedgerClient, end_leases

STATIC = files("app.console").joinpath("static")
OTHER_SECRET = "whsec_c2VjcmV0LW9mLXRoZS1vdGhlcg=="
ADA = Contact(email="ada@example.com", phone="+15550100001")
DAY_MS = 86_400_000
SETTINGS = {"REDIS_URL": "redis://127.0.0.1/0", "HOOKS__STANDARD__SECRETS": "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="}


# -- counts --


async def test_counts_are_stored_together_and_loaded_by_hour(redis: Redis) -> None:
    web_counters = Counters(30, ["key"])
    for _ in range(3):
        web_counters.record_delivery("standard", "accepted", "old", 1_700_000_000_000, "", "d1")
    web_counters.count_for_hour("", "rejected")

    await web_counters.flush(redis)
    await web_counters.flush(redis)

    [*_, (_, counts)] = await counters.hourly_counts(redis, 24)
    assert {("standard", "accepted"): 3, ("", "rejected"): 1} == counts
    old = fingerprint("old", ["key"])
    assert [old.encode(), b"1700000000000"] == await redis.command("HGETALL", "bell:secret-used:standard")
    assert 0 < await redis.command("TTL", f"bell:hourly:{counters.current_hour()}") <= 8 * 86_400


async def test_a_request_id_leads_to_its_delivery_during_the_retention(redis: Redis) -> None:
    web_counters = Counters(9)
    web_counters.record_delivery("standard", "accepted", "key", 1, "req-1", "d1")
    await web_counters.flush(redis)
    web_counters.record_delivery("standard", "accepted", "key", 1, "req-1", "d2")
    web_counters.record_delivery("standard", "accepted", "key", 1, "req-3", "d3")
    await web_counters.flush(redis)

    deliveries = [await counters.delivery_of_request(redis, id) for id in ("req-1", "req-2", "req-3", "\udcff")]

    assert ["d2", None, "d3", None] == deliveries
    keys = await redis.command("KEYS", "bell:index:requests:*")
    assert 2 == len(keys)
    assert all([9 * 86_400 - 60 < await redis.command("TTL", key) <= 19 * 86_400 for key in keys])


async def test_a_request_id_is_found_after_retention_days_became_less(redis: Redis) -> None:
    web_counters = Counters(90)
    web_counters.record_delivery("standard", "accepted", "key", 1, "req-1", "d1")
    await web_counters.flush(redis)

    assert "d1" == await counters.delivery_of_request(redis, "req-1")


async def test_many_request_ids_are_stored_in_batches(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.ledger.redis._MAX_PENDING", 1_000)
    web_counters = Counters(9)
    for number in range(3_000):
        web_counters.record_delivery("standard", "accepted", "key", 1, f"req-{number}", f"d{number}")

    await web_counters.flush(redis)

    assert "d2999" == await counters.delivery_of_request(redis, "req-2999")


@pytest.mark.parametrize("days", [9, 417, 3_650])
async def test_the_commands_of_a_search_do_not_depend_on_the_retention(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    settings = read_environment(SETTINGS | {"RETENTION_DAYS": str(days), "SECRET_KEY": "key-of-the-tests" * 2})
    web_counters = Counters(days)
    web_counters.record_delivery("standard", "accepted", "key", 1, "req-1", "d1")
    await web_counters.flush(redis)
    lists, commands, command = Lists(ledger, settings, Explain(ledger, settings)), [], ledger.redis.command

    async def record_command(*arguments: Any) -> Any:
        commands.append(arguments)
        return await command(*arguments)

    monkeypatch.setattr(ledger.redis, "command", record_command)

    assert ["d1"] == [result.id for result in await lists.search("req-1")]
    assert [] == await lists.search("ada@example.com")
    assert len(commands) <= 20


async def test_counts_are_kept_while_redis_is_down(redis: Redis) -> None:
    web_counters = Counters(9)
    web_counters.record_delivery("standard", "accepted", "key", 1, "req-1", "d1")

    await web_counters.flush(Redis(RedisAddress("redis://127.0.0.1:9/0"), 0.2))
    web_counters.count_for_hour("standard", "accepted")
    await web_counters.flush(redis)

    [(_, counts)] = await counters.hourly_counts(redis, 1)
    assert 2 == counts["standard", "accepted"]
    assert "d1" == await counters.delivery_of_request(redis, "req-1")


async def test_held_visits_are_listed_by_the_reason_of_their_circuit_now(ledger: Ledger) -> None:
    lists = Lists(ledger, settings := read_environment(SETTINGS), Explain(ledger, settings))
    await ledger.redis.command("HSET", "bell:circuit:main", "kind", "down", "since", 1)
    for visit in "AB":
        await accept(ledger, change(visit))
        await ledger.lease(visit_task(visit), "main")
    await ledger.pause("main")

    listed = {}
    for reason in ("account_paused", "api_down"):
        filter = Filter(state="held", reason=reason)
        rows = (await lists.deliveries(filter)).rows
        listed[reason] = await lists.count(filter), [(row["state"], row["reason"]) for row in rows]

    assert {"account_paused": (2, [("held", "account_paused")] * 2), "api_down": (0, [])} == listed


async def test_the_neighbors_of_a_delivery_are_right_although_older_ones_expire_meanwhile(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, command = "bell:deliveries:standard", ledger.redis.command
    await command("ZADD", key, *(part for number in range(9) for part in (number, f"d{number}")))
    lists = Lists(ledger, settings := read_environment(SETTINGS), Explain(ledger, settings))

    async def expire_after_rank(*parts: Any) -> Any:
        reply = await command(*parts)
        if parts[0] == "ZRANK":
            await command("ZREMRANGEBYSCORE", key, 0, 3)
        return reply

    monkeypatch.setattr(ledger.redis, "command", expire_after_rank)

    assert ("d5", "d7") == await lists.neighbors("standard", "d6")


# -- search --


@pytest.mark.parametrize(
    "query", ["ada@example.com", " Ada@Example.com ", "+1 555 010 0001", "(555) 010-0001", "15550100001"]
)
async def test_a_search_matches_address_and_phone_number(redis: Redis, query: str) -> None:
    await search_index.index(redis, TaskId.visit("main", "s-1"), ADA, "key", 60_000)

    assert ["visit:main/s-1"] == await search_index.lookup(redis, query, ["new", "key"])
    assert [] == await search_index.lookup(redis, query, ["another"])


async def test_no_key_of_the_index_contains_an_address_or_a_number(redis: Redis) -> None:
    await search_index.index(redis, TaskId.visit("main", "s-1"), ADA, "key", 60_000)

    keys = await redis.command("KEYS", "bell:index:*")
    entries = [entry for key in keys for entry in await redis.command("LRANGE", key, 0, -1)]
    assert 2 == len(entries)
    plain = {hashlib.sha256(text).digest()[1:12] for text in (b"ada@example.com", b"5550100001")}
    assert not any(text in entry for entry in (*keys, *entries) for text in (b"ada", b"555010", *plain))
    assert all([0 < await redis.command("PTTL", key) <= 60_000 + 10 * DAY_MS for key in keys])


async def test_a_contact_leads_to_its_newest_visits(redis: Redis) -> None:
    count = search_index.MAX_VISITS_PER_KEY
    for number in range(count + 20):
        await search_index.index(redis, TaskId.visit("main", f"s-{number}"), ADA, "key", 60_000)
    await search_index.index(redis, TaskId.visit("main", "s-30"), ADA, "key", 60_000)  # it runs again

    visits = await search_index.lookup(redis, "ada@example.com", ["key"], count)

    assert [f"visit:main/s-{number}" for number in (30, count + 19, count + 18)] == visits[:3]
    assert count == len(set(visits)) == len(visits)


# -- lists --


async def store_ignored_deliveries(redis: Redis, numbers: range, at: int | None = None) -> list[str]:
    """Store ignored deliveries, one per ms or all at one time, and return their ids, newest first."""
    ids = []
    for number in numbers:
        when = at or 1_700_000_000_000 + number
        info = DeliveryInfo("standard", "standard", when, event_name="ping", ignored="ping")
        ids.append(f"d{when:011x}{number:010x}")
        await redis.command("SET", delivery_key(ids[-1]), info.encode() + b"\n")
        await redis.command("ZADD", "bell:deliveries:standard", when, ids[-1])
    return ids[::-1]


@pytest.mark.parametrize("at", [None, 1_700_000_000_000], ids=["one a millisecond", "all in one millisecond"])
async def test_pages_show_every_delivery_once_while_more_arrive(redis: Redis, ledger: Ledger, at: int | None) -> None:
    settings = read_environment(SETTINGS)
    lists = Lists(ledger, settings, Explain(ledger, settings))
    expected = await store_ignored_deliveries(redis, range(3 * PAGE_SIZE + 120), at)

    listed: list[str] = []
    filter = Filter()
    while True:
        rows = await lists.deliveries(filter)
        assert len(rows.rows) <= PAGE_SIZE
        listed += [row["delivery"] for row in rows.rows]
        await store_ignored_deliveries(redis, range(10_000 + len(listed), 10_010 + len(listed)), 1_800_000_000_000)
        if not rows.next_cursor:
            break
        filter = Filter(cursor=rows.next_cursor)

    assert expected == listed


async def test_deliveries_of_a_removed_hook_are_listed(ledger: Ledger) -> None:
    raw, at = b"{}", datetime.now(UTC)
    delivery = Delivery("gone", "calendly", (), raw, at)
    meta = DeliveryInfo("gone", "calendly", int(at.timestamp() * 1000), ignored="ping")
    receipt = await ledger.accept(NewDelivery(delivery, meta, [], "main", dedup_id=None))
    lists = Lists(ledger, settings := read_environment(SETTINGS), Explain(ledger, settings))

    shown = [(await lists.deliveries(filter)).rows for filter in (Filter(), Filter(source="calendly"))]

    assert [[receipt.delivery_id]] * 2 == [[row["delivery"] for row in rows] for rows in shown]
    assert 1 == await lists.count(Filter())
    assert {"standard": 0, "gone": 1} == await lists.count_by_hook()


async def test_a_list_without_matches_is_truncated_with_a_cursor(redis: Redis, ledger: Ledger) -> None:
    settings = read_environment(SETTINGS)
    await store_ignored_deliveries(redis, range(1_000))

    rows = await Lists(ledger, settings, Explain(ledger, settings)).deliveries(Filter(state="applied"))

    assert ([], True) == (rows.rows, rows.truncated)
    assert rows.next_cursor


async def walk_pages(redis: Redis, lists: Lists, filter: Filter, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Follow the cursors to the end. Return how many rows there were, and the most commands that one page sent."""
    commands, most, rows = 0, 0, 0
    command, pipeline = redis.command, redis.pipeline

    async def count_command(*arguments: Any) -> Any:
        nonlocal commands
        commands += 1
        return await command(*arguments)

    async def count_pipeline(many: Sequence[tuple[Any, ...]]) -> list[Any]:
        nonlocal commands
        commands += len(many)
        return await pipeline(many)

    monkeypatch.setattr(redis, "command", count_command)
    monkeypatch.setattr(redis, "pipeline", count_pipeline)
    while True:
        commands = 0
        page = await lists.deliveries(filter)
        rows, most = rows + len(page.rows), max(most, commands)
        assert page.truncated == bool(page.next_cursor)
        if not page.next_cursor:
            return rows, most
        filter = replace(filter, cursor=page.next_cursor)


async def test_one_page_reads_a_limited_number_of_deliveries(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_SCANNED", 400)
    lists = Lists(ledger, settings := read_environment(SETTINGS), Explain(ledger, settings))
    await store_ignored_deliveries(redis, range(1_000))
    [oldest] = await store_ignored_deliveries(redis, range(1_000, 1_001), 1_600_000_000_000)
    info = DeliveryInfo("standard", "calendly", 1_600_000_000_000, ignored="ping")
    await redis.command("SET", delivery_key(oldest), info.encode() + b"\n")

    rows, most_commands = await walk_pages(ledger.redis, lists, Filter(source="calendly"), monkeypatch)

    assert 1 == rows
    assert most_commands < 400 + BATCH_SIZE + 50


@pytest.mark.parametrize("filter", [Filter(state="parked", hook="other"), Filter(state="parked", reason="bug")])
async def test_one_page_reads_a_limited_number_of_failures(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, filter: Filter
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_SCANNED", 400)
    monkeypatch.setattr("app.operators.lists.MAX_ROWS_CHECKED", 50)
    settings = read_environment(SETTINGS | {"HOOKS__OTHER__SOURCE": "standard", "HOOKS__OTHER__SECRETS": OTHER_SECRET})
    lists = Lists(ledger, settings, Explain(ledger, settings))
    for number in range(1_001):
        hook, reason = ("standard", "time_unknown") if number else ("other", "bug")
        info = DeliveryInfo(hook, "standard", 1_700_000_000_000 + number)
        id = f"d{info.received_at_ms:011x}{number:010x}"
        await redis.command("SET", delivery_key(id), info.encode() + b"\n")
        await redis.command("HSET", f"bell:event:{id}", "state", "parked", "reason", reason, "pending_since", number)
        await redis.command("ZADD", "bell:state:parked", number, f"event:{id}")

    rows, most_commands = await walk_pages(ledger.redis, lists, filter, monkeypatch)

    assert 1 == rows
    assert most_commands < 2 * (400 + BATCH_SIZE) + 50  # two for each task that its metadata excludes


async def test_the_failures_of_a_hook_are_counted_if_they_are_few(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_ROWS_CHECKED", 3)
    lists = Lists(ledger, settings := read_environment(SETTINGS), Explain(ledger, settings))
    counts = []
    for number in range(4):
        delivery = Delivery("standard", "standard", (), b"%d" % number, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(delivery.received_at.timestamp() * 1000))
        await ledger.accept(NewDelivery(delivery, meta, [], "main", dedup_id=None, event_state="parked", reason="bug"))
        counts.append(await lists.count(Filter(state="parked", hook="another")))

    assert [0, 0, 0, 4] == counts


async def test_a_count_equals_the_rows_of_its_list(redis: Redis, ledger: Ledger) -> None:
    settings = read_environment(SETTINGS | {"HOOKS__OTHER__SOURCE": "standard", "HOOKS__OTHER__SECRETS": OTHER_SECRET})
    lists = Lists(ledger, settings, Explain(ledger, settings))
    for number, hook in enumerate(["standard", "standard", "other"]):
        delivery = Delivery(hook, "standard", (), b"%d" % number, datetime.now(UTC))
        meta = DeliveryInfo(hook, "standard", int(delivery.received_at.timestamp() * 1000))
        receipt = await ledger.accept(
            NewDelivery(delivery, meta, [], "main", dedup_id=None, event_state="parked", reason="bug")
        )
    id = receipt.delivery_id  # of the hook `other`

    filters = [
        Filter(),
        Filter(hook="other"),
        Filter(source="standard"),
        Filter(source="calendly"),
        Filter(state="parked"),
        Filter(state="parked", hook="other"),
        Filter(reason="bug", hook="standard"),
        Filter(reason="no such"),
        Filter(until=(datetime.now(UTC) - timedelta(minutes=1)).isoformat()),
        Filter(search=id),
        Filter(search=id, hook="standard"),
        Filter(search=id, state="parked"),
        Filter(search=id, state="parked", reason="no such"),
        Filter(search="no such"),
        Filter(state="applied", reason="bug"),
    ]
    counted = [await lists.count(filter) for filter in filters]

    assert [3, 1, 3, 0, 3, 1, 2, 0, 0, 1, 0, 1, 0, 0, 0] == counted
    assert counted == [len((await lists.deliveries(filter)).rows) for filter in filters]


async def test_many_matches_are_counted_in_batches(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_GROUPED", 20)
    monkeypatch.setattr("app.operators.lists.REASON_BATCH", 5)
    monkeypatch.setattr("app.ledger.redis._MAX_PENDING", 20)
    settings = read_environment(SETTINGS)
    for number in range(33):
        delivery = Delivery("standard", "standard", (), b"%d" % number, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(delivery.received_at.timestamp() * 1000))
        await ledger.accept(NewDelivery(delivery, meta, [], "main", dedup_id=None, event_state="parked", reason="bug"))

    lists = Lists(ledger, settings, Explain(ledger, settings))
    filters = (
        {},
        {"hook": "standard"},
        {"reason": "bug"},
        {"source": "standard"},
        {"until": datetime.now(UTC).isoformat()},
    )

    assert [33] * 5 == [await lists.count(Filter(state="parked", **fields)) for fields in filters]
    assert [20] == [group.count for group in await lists.group_by_reason()]


# -- overview --


def test_a_pause_or_an_outage_hides_no_other_problem() -> None:
    states = dict.fromkeys(("queued", "waiting", "held"), 0) | {"parked": 35}
    view = Overview(
        states=states,
        circuits=[
            Circuit("main", ["standard"], "down", "2026-03-14T16:00:00Z", 7),
            Circuit("east", ["east"], "paused", "2026-03-14T16:00:00Z", 1),
        ],
        hooks=[
            HookStats("calcom", "calcom", None, accepted=0, rejected=1, mismatches=1),
            HookStats(
                "acuity", "acuity", None, accepted=0, rejected=0, missing=["HOOKS__ACUITY__CREDENTIALS__API_KEY"]
            ),
            HookStats("stripe", "stripe", 1.0, accepted=9, rejected=2, mismatches=2),  # two strangers
            HookStats("zoom", "zoom", 1.0, accepted=0, rejected=0, is_silent=True),
        ],
        workers=[Worker("dyno-1", 7, 0, None)],
    )
    view.backlog = Backlog({"queued": 0.0}, 0.0)

    problems = [(problem.kind, problem.hook) for problem in view.problems()]

    assert [
        ("api", ""),
        ("signatures", "calcom"),
        ("credentials", "acuity"),
        ("silent", "zoom"),
        ("paused", "east"),
        ("failures", ""),
    ] == problems
    assert ("bad", view.problems()[0].sentence) == view.status()
    assert view.to_dict()["problems"][-1]["sentence"] == "35 failures need attention."


def test_the_overview_shows_a_worse_problem_before_a_pause() -> None:
    states = dict.fromkeys(("queued", "waiting", "held", "parked"), 0) | {"queued": 1}
    view = Overview(
        states=states,
        circuits=[Circuit("main", ["standard"], "paused", "2026-03-14T16:00:00Z", 7)],
        workers=[Worker("dyno-1", 7, 0, None)],
        backlog=Backlog({"queued": 600.0}, 600.0),
    )

    assert ("bad", "Tasks are due, and no task has finished for 10 min: restart the workers.") == view.status()
    view.backlog = Backlog({"queued": 0.0}, 0.0)
    assert ("warn", "Paused by an operator: 7 changes wait for the account main. Nothing is lost.") == view.status()


# -- operations --


def test_an_operation_continues_after_the_death_of_its_worker(harness: Harness) -> None:
    harness.env |= {"CONTACT_FOR_S": "0.2"}
    harness.start_web()
    first = harness.start_worker()
    for number in range(300):
        harness.send(
            "visit.created", f"B-{number}", contact={"first_name": "Grace"}, time_scheduled="2027-03-14T16:00:00Z"
        )

    client = LedgerClient(harness.redis_url)

    def run_on_operations(step: Any) -> Any:
        return client.run(lambda ledger: step(Operations(ledger, read_environment(harness.env))))

    wait_until(
        lambda: harness.doorbell("failures", "--json", "--limit", "1000").stdout.count("contact_unknown") == 300, 60
    )
    request = OperationRequest(
        kind="replay",
        filter=Filter(state="parked"),
        actor="ada",
        expected=300,
        planned_at_ms=1_795_600_000_000,
        contacts={"": "cont_KYdl3lftgZXGRbxqoj"},
    )
    harness.inject_faults(slow_share=1, slow_s=0.1)  # so that the operation takes a while
    id = run_on_operations(lambda operations: operations.create(request))
    wait_until(lambda: run_on_operations(lambda operations: operations.get(id)).state == "running")
    first.kill()
    harness.clear_faults()
    client.command("DEL", f"bell:operation:{id}:lock")
    end_leases(client)
    harness.start_worker()

    wait_until(lambda: run_on_operations(lambda operations: operations.get(id)).state == "done", 60)
    wait_until(lambda: harness.get_from_api("/visits?limit=1")["pagination"]["total"] == 300, 60)
    assert not run_on_operations(lambda operations: operations.get(id)).is_open


async def test_a_stored_operation_equals_its_request_and_its_contacts_are_encrypted(ledger: Ledger) -> None:
    operations, with_new_key, with_another_key = (
        Operations(ledger, read_environment(SETTINGS | {"SECRET_KEY": key}))
        for key in ("the-first-secret-key", "a-new-secret-key the-first-secret-key", "another-secret-key")
    )
    filter = Filter(state="parked", reason="bug", until=(await ledger.server_time()).isoformat())
    request = OperationRequest(
        kind="discard",
        filter=filter,
        actor="ada",
        expected=7,
        planned_at_ms=1_795_600_000_000,
        contacts={"standard-1": "ada@example.com"},
        recheck=True,
    )

    id = await operations.create(request)

    assert request == (await operations.get(id)).request == (await with_new_key.get(id)).request
    assert b"example" not in await ledger.redis.command("HGET", f"bell:operation:{id}", "request")
    unreadable = await with_another_key.get(id)
    assert ({"standard-1": ""}, True) == (unreadable.request.contacts, unreadable.has_unknown_options)
    assert [id] == [operation.id for operation in await operations.newest()]


# -- redaction --


def body_text(raw: bytes, *revealed: str) -> str:
    """Return the redacted body as text."""
    pieces = redaction.redact_body(raw, revealed)
    return "".join(piece if isinstance(piece, str) else piece.value or piece.placeholder for piece in pieces)


@each(
    "raw",
    [
        b'{"email":"ada@example.com","name":"Ada Lovelace","phone":"+15550100001","nested":[{"notes":"knows Ada"}]}',
        b'{"ada@example.com":"x","5550100001":"y","id":"ada@example.com"}',
        b"email=ada%40example.com&name=Ada+Lovelace&phone=%2B15550100001",
        b"Ada Lovelace, ada@example.com, +1 555 010 0001",
        b'["Ada", "ada@example.com", 15550100001]',
    ],
)
def test_personal_data_in_a_body_is_hidden(raw: bytes) -> None:
    shown = body_text(raw)

    assert [] == re.findall(r"ada|lovelace|555|010", shown, re.IGNORECASE)
    assert "•••" in shown


def test_event_names_times_ids_and_amounts_are_shown() -> None:
    raw = b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A-1","amount":"245.00"}}'

    assert json.loads(raw) == json.loads(body_text(raw))


def test_a_large_number_is_not_rounded() -> None:
    assert "12345678901234567890123" in body_text(b'{"id": 12345678901234567890123}', "*")


@each("raw", [b"{}", b"[]", b"null", b'{"type": [], "id": {}, "end": [{}, [[]], null, true]}'])
def test_the_structure_of_a_body_is_shown(raw: bytes) -> None:
    assert json.loads(raw) == json.loads(body_text(raw))


def test_only_the_requested_field_is_revealed() -> None:
    raw = b'{"a": {"b": ["x", "y"]}, "a.b": "z", "a.b.1": "w", "ada@example.com": "v"}'

    assert ["x", "y", "z", "w", "v"] == [letter for letter in "xyzwv" if f'"{letter}"' in body_text(raw, "*")]
    assert ["y"] == [letter for letter in "xyzwv" if f'"{letter}"' in body_text(raw, "a.b.1")]
    assert ["v"] == [letter for letter in "xyzwv" if f'"{letter}"' in body_text(raw, "#3")]


@each("depth", [100, 300, 1_000])
def test_a_deeply_nested_body_is_truncated(depth: int) -> None:
    raw = b'{"a":' * depth + b"1" + b"}" * depth

    assert "too deep" in body_text(raw)
    assert raw == re.sub(rb"\s", b"", body_text(raw, "*").encode())


@each(
    "raw",
    [
        b"[" + b"1," * 130_000 + b"1]",
        b'{"a":[' + b'{"b":"x"},' * 26_000 + b"1]}",
        b"[" + b"[]," * 80_000 + b"1]",
        b"[" * 60 + b"1," * 130_000 + b"1" + b"]" * 60,
        (b'{"' + b"k" * 60 + b'":') * 60 + b"[" + b'"x",' * 60_000 + b"1]" + b"}" * 60,
    ],
    ids=["numbers", "objects", "empty lists", "deep", "long names"],
)
def test_values_above_the_limit_are_counted(raw: bytes) -> None:
    pieces = redaction.redact_body(raw)
    text = body_text(raw)

    buttons = [piece for piece in pieces if not isinstance(piece, str)]
    assert len(buttons) <= redaction.MAX_VALUES
    assert sum(len(button.path) for button in buttons) + len(text) < 1_500_000
    [omitted] = re.findall(r"\n… and ([\d,]+) more$", text)
    total = raw.count(b"1,") + raw.count(b'{"b"') * 2 + raw.count(b"[],") + raw.count(b'"x",')
    assert 0.9 * total < int(omitted.replace(",", "")) + redaction.MAX_VALUES < 1.1 * total + 200
    assert len(body_text(raw, "*")) < 2 * len(raw) + 1_000_000


def test_values_up_to_the_limit_are_all_shown() -> None:
    for count in (redaction.MAX_VALUES - 1, redaction.MAX_VALUES):
        text = body_text(b"[" + b",".join([b"true"] * count) + b"]")
        assert (min(count, redaction.MAX_VALUES - 1), count == redaction.MAX_VALUES) == (
            text.count("true"),
            "more" in text,
        )


@each(
    ("shown", "value", "event"),
    [
        (True, "repair_order.posted", ()),
        (False, "Payment made by Grace Hopper", ()),
        (False, "Payment made by Grace Hopper", ("data", "event")),
        (True, "Job Created", ("event",)),
        (False, "Order of grace@example.com", ("event",)),
    ],
)
def test_the_name_of_an_event_in_a_body_is_a_word_or_declared_by_the_source(
    shown: bool, value: str, event: tuple[str, ...]
) -> None:
    pieces = redaction.redact_body(json.dumps({"event": value}).encode(), (), event)

    assert shown == any(value in piece for piece in pieces if isinstance(piece, str))


@pytest.mark.parametrize(
    ("source", "name", "shown"),
    [
        ("tekmetric", "Payment made by Grace Hopper", ""),
        ("tekmetric", "grace@example.com", ""),
        ("tekmetric", "repair_order.posted", "repair_order.posted"),
        ("no such source", "Payment made by Grace Hopper", ""),
        ("standard", "a name that is declared", "a name that is declared"),
    ],
)
async def test_event_names_in_lists_contain_no_personal_data(
    ledger: Ledger, source: str, name: str, shown: str
) -> None:
    settings, at = read_environment(SETTINGS), datetime.now(UTC)
    meta = DeliveryInfo("standard", source, int(at.timestamp() * 1000), event_name=name)
    receipt = await ledger.accept(
        NewDelivery(
            Delivery("standard", source, (), b"{}", at),
            meta,
            [],
            "main",
            dedup_id=None,
            event_state="parked",
            reason="bug",
        )
    )
    explain = Explain(ledger, settings)
    lists = Lists(ledger, settings, explain)

    pages = [(await lists.deliveries(filter)).rows for filter in (Filter(), Filter(state="parked"))]

    assert [shown, shown] == [row["event"] for rows in pages for row in rows]
    assert shown == (await explain.delivery(receipt.delivery_id))["event"]


# -- visits with many changes --


def record_merges(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record for each merge whether it ran in the event loop."""
    calls: list[bool] = []

    def record_merge(changes: Any) -> Any:
        calls.append(threading.current_thread() is threading.main_thread())
        return merge_changes(changes)

    monkeypatch.setattr("app.operators.explain.merge_changes", record_merge)
    return calls


async def store_changes(ledger: Ledger, visit: str, numbers: range) -> None:
    for number in numbers:
        raw, at = f"{visit} {number}".encode(), datetime.now(UTC)
        meta = DeliveryInfo("standard", "standard", int(at.timestamp() * 1000), event_name="visit.updated")
        change = VisitChange(action="update", visit_id=visit, version=number, time_scheduled=at)
        await ledger.accept(
            NewDelivery(Delivery("standard", "standard", (), raw, at), meta, [change], "main", dedup_id=None)
        )


async def test_a_page_merges_each_visit_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, calls = read_environment(SETTINGS), record_merges(monkeypatch)
    await store_changes(ledger, "A", range(PAGE_SIZE))
    await store_changes(ledger, "B", range(3))
    script = ledger.redis.script
    scripts: list[Any] = []

    async def record_script(*arguments: Any) -> Any:
        scripts.append(arguments[0].script.name)
        return await script(*arguments)

    monkeypatch.setattr(ledger.redis, "script", record_script)
    rows = (await Lists(ledger, settings, Explain(ledger, settings)).deliveries(Filter())).rows

    assert PAGE_SIZE == len(rows)
    assert {"queued"} == {row["state"] for row in rows}
    assert 2 == len(calls)
    assert 2 == scripts.count("load_visit")


async def test_many_changes_are_merged_outside_the_event_loop(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, calls = read_environment(SETTINGS), record_merges(monkeypatch)
    explain, replay = Explain(ledger, settings), Replay(ledger, settings)
    await store_changes(ledger, "A", range(MAX_CHANGES_ON_LOOP + 1))

    [row] = (await Lists(ledger, settings, explain).deliveries(Filter(), 1)).rows
    await explain.delivery(row["delivery"])
    [details] = await explain.visit("standard-A")
    await explain.visit_summary("visit:main/standard-A")
    assert 1 == len([step async for step in replay.plan(Filter(ids=("standard-A",)))])

    assert MAX_CHANGES_ON_LOOP + 1 == len(details["changes"])
    assert calls
    assert not any(calls)


# -- files --


def test_vendored_files_have_the_published_digest() -> None:
    for vendored in json.loads(files("app.console").joinpath("vendored.json").read_text()):
        digest = hashlib.sha384(STATIC.joinpath(vendored["file"]).read_bytes()).digest()

        assert vendored["sha384"] == base64.b64encode(digest).decode()


def test_pages_load_nothing_from_other_hosts() -> None:
    templates = files("app.console").joinpath("templates")
    own_files = [file for folder in (templates, STATIC) for file in folder.iterdir() if file.name != "htmx.min.js"]

    urls_by_file = {
        file.name: re.findall(r"(?:src|href|url|import)\W{1,4}(?:https?:)?//", file.read_text()) for file in own_files
    }

    assert {} == {name: urls for name, urls in urls_by_file.items() if urls}
