"""What the console stands on: counts, finding, lists that do not move, redaction, and files that come from nowhere else."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import orjson
import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo
from app.ledger.redis import Redis, RedisAddress
from app.operators import redaction, search_index
from app.operators.explain import MAX_CHANGES_ON_LOOP, Explain
from app.operators.filter import Filter
from app.operators.lists import PAGE_SIZE, Lists
from app.operators.operations import OperationRequest, Operations
from app.operators.overview import Overview
from app.operators.replay import Replay
from app.settings.environment import read_environment
from app.telemetry import counters
from app.telemetry.counters import Counters
from app.telemetry.health import Backlog, Circuit, Worker
from app.visits.change import Contact, VisitChange
from app.visits.merge import merge_changes
from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import fingerprint
from tests.processes.test_crash import end_leases
from tests.processes.test_worker import LedgerClient
from tests.support.harness import Harness, wait_until

STATIC = files("app.console").joinpath("static")
OTHER_SECRET = "whsec_c2VjcmV0LW9mLXRoZS1vdGhlcg=="
SETTINGS = {"REDIS_URL": "redis://127.0.0.1/0", "HOOKS__STANDARD__SECRETS": "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="}


# -- counts --


async def test_counts_are_written_together_and_read_by_hour(redis: Redis) -> None:
    counting = Counters(30, {"standard": ("new", "old")}, ["key"])
    for _ in range(3):
        counting.record_delivery("standard", "accepted", 1, 1_700_000_000_000, "", "d1")
    counting.count_for_hour("", "rejected")

    await counting.flush(redis)
    await counting.flush(redis)

    [*_, (_, counts)] = await counters.hourly_counts(redis, 24)
    assert {("standard", "accepted"): 3, ("", "rejected"): 1} == counts
    old = fingerprint("old", ["key"])
    assert [old.encode(), b"1700000000000"] == await redis.command("HGETALL", "bell:secret-used:standard")
    assert 0 < await redis.command("TTL", f"bell:hourly:{counters.current_hour()}") <= 8 * 86_400


async def test_a_delivery_is_found_by_its_request_id_for_as_long_as_it_is_kept(redis: Redis) -> None:
    counting = Counters(9, {"standard": ("key",)})
    counting.record_delivery("standard", "accepted", 0, 1, "req-1", "d1")
    await counting.flush(redis)
    counting.record_delivery("standard", "accepted", 0, 1, "req-1", "d2")
    counting.record_delivery("standard", "accepted", 0, 1, "req-3", "d3")
    await counting.flush(redis)

    found = [await counters.delivery_of_request(redis, id) for id in ("req-1", "req-2", "req-3", "\udcff")]

    assert ["d2", None, "d3", None] == found
    keys = await redis.command("KEYS", "bell:request-index:*")
    assert 2 == len(keys)
    assert all([9 * 86_400 - 60 < await redis.command("TTL", key) <= 9 * 86_400 for key in keys])


async def test_very_many_request_ids_are_written_some_at_a_time(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.ledger.redis._MAX_PENDING", 1_000)
    counting = Counters(9, {"standard": ("key",)})
    for number in range(3_000):
        counting.record_delivery("standard", "accepted", 0, 1, f"req-{number}", f"d{number}")

    await counting.flush(redis)

    assert "d2999" == await counters.delivery_of_request(redis, "req-2999")


@pytest.mark.parametrize("days", [9, 417, 3_650])
async def test_a_search_costs_as_many_commands_however_long_deliveries_are_kept(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    settings = read_environment(SETTINGS | {"RETENTION_DAYS": str(days), "SECRET_KEY": "key-of-the-tests" * 2})
    counting = Counters(days, {"standard": ("key",)})
    counting.record_delivery("standard", "accepted", 0, 1, "req-1", "d1")
    await counting.flush(redis)
    lists, asked, command = Lists(ledger, settings, Explain(ledger, settings)), [], ledger.redis.command

    async def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return await command(*arguments)

    monkeypatch.setattr(ledger.redis, "command", counted)

    assert ["d1"] == [one.id for one in await lists.search("req-1")]
    assert [] == await lists.search("ada@example.com")
    assert len(asked) <= 20


async def test_what_redis_could_not_take_is_counted_later(redis: Redis) -> None:
    counting = Counters(9, {"standard": ("key",)})
    counting.record_delivery("standard", "accepted", 0, 1, "req-1", "d1")

    await counting.flush(Redis(RedisAddress("redis://127.0.0.1:9/0"), 0.2))
    counting.count_for_hour("standard", "accepted")
    await counting.flush(redis)

    [(_, counts)] = await counters.hourly_counts(redis, 1)
    assert 2 == counts["standard", "accepted"]
    assert "d1" == await counters.delivery_of_request(redis, "req-1")


# -- finding --


@pytest.mark.parametrize(
    "asked", ["ada@example.com", " Ada@Example.com ", "+1 555 010 0001", "(555) 010-0001", "15550100001"]
)
async def test_a_visit_is_found_by_whose_it_is(redis: Redis, asked: str) -> None:
    await search_index.index(
        redis, "visit:main/s-1", Contact(email="ada@example.com", phone="+15550100001"), "key", 60_000
    )

    assert ["visit:main/s-1"] == await search_index.lookup(redis, asked, ["new", "key"])
    assert [] == await search_index.lookup(redis, asked, ["another"])


async def test_no_index_holds_an_address_or_a_number(redis: Redis) -> None:
    await search_index.index(
        redis, "visit:main/s-1", Contact(email="ada@example.com", phone="+15550100001"), "key", 60_000
    )

    keys = await redis.command("KEYS", "*")
    assert 2 == len(keys)
    plain = {hashlib.sha256(text).hexdigest()[:32].encode() for text in (b"ada@example.com", b"5550100001")}
    assert not any(word in key for key in keys for word in (b"ada", b"555010", *plain))
    assert all([0 < await redis.command("PTTL", key) <= 60_000 for key in keys])


@pytest.mark.parametrize("lives_ms", [(60_000, 600_000), (600_000, 60_000)], ids=["longer", "shorter"])
async def test_an_address_is_known_as_long_as_the_visit_that_is_kept_longest(redis: Redis, lives_ms: list[int]) -> None:
    for number, keep_ms in enumerate(lives_ms):
        await search_index.index(redis, f"visit:main/s-{number}", Contact(email="ada@example.com"), "key", keep_ms)

    [key] = await redis.command("KEYS", "*")
    assert 590_000 < await redis.command("PTTL", key) <= 600_000


async def test_an_address_with_very_many_visits_keeps_the_newest(redis: Redis) -> None:
    for number in range(search_index.MAX_VISITS_PER_KEY + 20):
        await search_index.index(redis, f"visit:main/s-{number}", Contact(email="ada@example.com"), "key", 60_000)

    [key] = await redis.command("KEYS", "*")
    assert search_index.MAX_VISITS_PER_KEY == await redis.command("ZCARD", key)


# -- lists --


async def arrive(redis: Redis, numbers: range, at: int | None = None) -> list[str]:
    """Deliveries that were ignored, one a millisecond or all in one; newest first."""
    ids = []
    for number in numbers:
        when = at or 1_700_000_000_000 + number
        meta = {
            "hook": "standard",
            "source": "standard",
            "received_at_ms": when,
            "ignored": "ping",
            "event_name": "ping",
        }
        ids.append(f"d{when:011x}{number:010x}")
        await redis.command("SET", f"bell:delivery:{ids[-1]}", orjson.dumps(meta) + b"\n")
        await redis.command("ZADD", "bell:deliveries:standard", when, ids[-1])
    return ids[::-1]


@pytest.mark.parametrize("at", [None, 1_700_000_000_000], ids=["one a millisecond", "all in one millisecond"])
async def test_page_after_page_shows_everything_once_while_more_arrives(
    redis: Redis, ledger: Ledger, at: int | None
) -> None:
    settings = read_environment(SETTINGS)
    lists = Lists(ledger, settings, _NoStory(ledger, settings))
    expected = await arrive(redis, range(3 * PAGE_SIZE + 120), at)

    seen: list[str] = []
    filter = Filter()
    while True:
        rows = await lists.deliveries(filter)
        assert len(rows.rows) <= PAGE_SIZE
        seen += [row["delivery"] for row in rows.rows]
        await arrive(redis, range(10_000 + len(seen), 10_010 + len(seen)), 1_800_000_000_000)
        if not rows.next_cursor:
            break
        filter = Filter(cursor=rows.next_cursor)

    assert expected == seen


async def test_what_rang_at_a_hook_that_was_taken_out_of_the_settings_is_still_listed(ledger: Ledger) -> None:
    raw, at = b"{}", datetime.now(UTC)
    delivery = Delivery("gone", "calendly", (), raw, at)
    meta = DeliveryInfo("gone", "calendly", int(at.timestamp() * 1000), ignored="ping")
    written = await ledger.accept(delivery, meta, [], "main", dedup_id=None)
    lists = Lists(ledger, settings := read_environment(SETTINGS), _NoStory(ledger, settings))

    shown = [(await lists.deliveries(filter)).rows for filter in (Filter(), Filter(source="calendly"))]

    assert [[written.delivery_id]] * 2 == [[row["delivery"] for row in rows] for rows in shown]
    assert 1 == await lists.count(Filter())
    assert {"standard": 0, "gone": 1} == await lists.count_by_hook()


class _NoStory(Explain):
    """Rows as they come; their stories are told elsewhere."""

    async def rows(self, ids: Iterable[str], visits: object) -> list[dict[str, Any]]:
        return [{"delivery": id, "state": "ignored"} for id in ids]


async def test_a_list_of_what_is_rare_gives_up_and_says_where(redis: Redis, ledger: Ledger) -> None:
    settings = read_environment(SETTINGS)
    await arrive(redis, range(1_000))

    rows = await Lists(ledger, settings, _NoStory(ledger, settings)).deliveries(Filter(state="applied"))

    assert ([], True) == (rows.rows, rows.truncated)
    assert rows.next_cursor


async def test_what_a_filter_means_is_counted_as_its_list_shows_it(redis: Redis, ledger: Ledger) -> None:
    settings = read_environment(SETTINGS | {"HOOKS__OTHER__SOURCE": "standard", "HOOKS__OTHER__SECRETS": OTHER_SECRET})
    lists = Lists(ledger, settings, Explain(ledger, settings))
    for number, hook in enumerate(["standard", "standard", "other"]):
        delivery = Delivery(hook, "standard", (), b"%d" % number, datetime.now(UTC))
        meta = DeliveryInfo(hook, "standard", int(delivery.received_at.timestamp() * 1000))
        await ledger.accept(delivery, meta, [], "main", dedup_id=None, event_state="parked", reason="bug")

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
    ]
    counted = [await lists.count(filter) for filter in filters]

    assert [3, 1, 3, 0, 3, 1, 2, 0, 0] == counted
    assert counted == [len((await lists.deliveries(filter)).rows) for filter in filters]


async def test_however_much_fits_is_counted_some_at_a_time(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.operators.lists.MAX_GROUPED", 20)
    monkeypatch.setattr("app.operators.lists.REASON_BATCH", 5)
    monkeypatch.setattr("app.ledger.redis._MAX_PENDING", 20)  # at once
    settings = read_environment(SETTINGS)
    for number in range(33):
        delivery = Delivery("standard", "standard", (), b"%d" % number, datetime.now(UTC))
        meta = DeliveryInfo("standard", "standard", int(delivery.received_at.timestamp() * 1000))
        await ledger.accept(delivery, meta, [], "main", dedup_id=None, event_state="parked", reason="bug")

    lists = Lists(ledger, settings, Explain(ledger, settings))
    words = (
        {},
        {"hook": "standard"},
        {"reason": "bug"},
        {"source": "standard"},
        {"until": datetime.now(UTC).isoformat()},
    )

    assert [33] * 5 == [await lists.count(Filter(state="parked", **said)) for said in words]
    assert [20] == [group.count for group in await lists.group_by_reason()]


# -- the verdict --


def test_a_pause_hides_nothing_that_is_worse() -> None:
    states = dict.fromkeys(("queued", "waiting", "held", "parked"), 0) | {"queued": 1}
    view = Overview(
        states=states,
        circuits=[Circuit("main", "paused", "2026-03-14T16:00:00Z", 7)],
        workers=[Worker("dyno-1", 7, 0, None)],
        backlog=Backlog({"queued": 600.0}, 600.0),
    )

    assert ("bad", "Tasks are due, and none has ended for 10 min: restart the workers.") == view.status()
    view.backlog = Backlog({"queued": 0.0}, 0.0)
    assert ("warn", "Paused by an operator: 7 changes wait for the account main. Nothing is lost.") == view.status()


# -- operations --


def test_an_operation_outlives_the_worker_that_carries_it_out(harness: Harness) -> None:
    harness.env |= {"CONTACT_FOR_S": "0.2"}
    harness.start_web()
    first = harness.start_worker()
    for number in range(300):
        harness.send(
            "visit.created", f"B-{number}", contact={"first_name": "Grace"}, time_scheduled="2027-03-14T16:00:00Z"
        )

    client = LedgerClient(harness.redis_url)

    def ask(step: Any) -> Any:
        return client.run(lambda ledger: step(Operations(ledger, read_environment(harness.env))))

    wait_until(
        lambda: harness.doorbell("failures", "--json", "--limit", "1000").stdout.count("contact_unknown") == 300, 60
    )
    order = OperationRequest(
        kind="replay",
        filter=Filter(state="parked"),
        actor="ada",
        expected=300,
        planned_at_ms=1_795_600_000_000,
        contact="cont_KYdl3lftgZXGRbxqoj",
    )
    harness.inject_faults(slow_share=1, slow_s=0.1)  # so that it lasts
    id = ask(lambda operations: operations.create(order))
    wait_until(lambda: ask(lambda operations: operations.get(id)).state == "running")
    first.kill()
    harness.clear_faults()
    client.command("DEL", f"bell:operation:{id}:lock")
    end_leases(client)
    harness.start_worker()

    wait_until(lambda: ask(lambda operations: operations.get(id)).state == "done", 60)
    wait_until(lambda: harness.get_from_api("/visits?limit=1")["pagination"]["total"] == 300, 60)
    assert not ask(lambda operations: operations.get(id)).is_open


async def test_what_was_ordered_is_read_back_as_it_was_said(ledger: Ledger) -> None:
    operations = Operations(ledger, read_environment(SETTINGS))
    filter = Filter(state="parked", reason="bug", until=(await ledger.server_time()).isoformat())
    order = OperationRequest(
        kind="discard",
        filter=filter,
        actor="ada",
        expected=7,
        planned_at_ms=1_795_600_000_000,
        contact="cont_x",
        recheck=True,
    )

    id = await operations.create(order)

    assert order == (await operations.get(id)).request
    assert [id] == [one.id for one in await operations.newest()]


# -- redaction --


def told(raw: bytes, *revealed: str) -> str:
    """As it is read: what is hidden by what is told of it."""
    pieces = redaction.redact_body(raw, revealed)
    return "".join(piece if isinstance(piece, str) else piece.value or piece.placeholder for piece in pieces)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"email":"ada@example.com","name":"Ada Lovelace","phone":"+15550100001","nested":[{"notes":"knows Ada"}]}',
        b'{"ada@example.com":"x","5550100001":"y","id":"ada@example.com"}',
        b"email=ada%40example.com&name=Ada+Lovelace&phone=%2B15550100001",
        b"Ada Lovelace, ada@example.com, +1 555 010 0001",
        b'["Ada", "ada@example.com", 15550100001]',
    ],
)
def test_of_a_body_nothing_personal_is_shown(raw: bytes) -> None:
    shown = told(raw)

    assert [] == re.findall(r"ada|lovelace|555|010", shown, re.IGNORECASE)
    assert "•••" in shown


def test_of_a_body_it_is_shown_what_happened_and_when() -> None:
    raw = b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A-1","amount":"245.00"}}'

    assert json.loads(raw) == json.loads(told(raw))


def test_a_large_number_stays_as_it_was_written() -> None:
    assert "12345678901234567890123" in told(b'{"id": 12345678901234567890123}', "*")


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"null", b'{"type": [], "id": {}, "end": [{}, [[]], null, true]}'])
def test_a_body_is_laid_out_as_it_is(raw: bytes) -> None:
    assert json.loads(raw) == json.loads(told(raw))


def test_one_field_is_revealed_and_no_other() -> None:
    raw = b'{"a": {"b": ["x", "y"]}, "a.b": "z", "a.b.1": "w", "ada@example.com": "v"}'

    assert ["x", "y", "z", "w", "v"] == [one for one in "xyzwv" if f'"{one}"' in told(raw, "*")]
    assert ["y"] == [one for one in "xyzwv" if f'"{one}"' in told(raw, "a.b.1")]
    assert ["v"] == [one for one in "xyzwv" if f'"{one}"' in told(raw, "#3")]


@pytest.mark.parametrize("depth", [100, 300, 1_000])
def test_a_body_that_is_too_deep_is_not_shown_and_no_defect(depth: int) -> None:
    raw = b'{"a":' * depth + b"1" + b"}" * depth

    assert "too deep" in told(raw)
    assert raw == re.sub(rb"\s", b"", told(raw, "*").encode())


@pytest.mark.parametrize(
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
def test_of_very_many_values_some_are_laid_out_and_the_rest_is_counted(raw: bytes) -> None:
    pieces = redaction.redact_body(raw)
    text = told(raw)

    buttons = [piece for piece in pieces if not isinstance(piece, str)]
    assert len(buttons) <= redaction.MAX_VALUES
    assert sum(len(button.path) for button in buttons) + len(text) < 1_500_000
    [more] = re.findall(r"\n… and ([\d,]+) more$", text)
    everything = raw.count(b"1,") + raw.count(b'{"b"') * 2 + raw.count(b"[],") + raw.count(b'"x",')
    assert 0.9 * everything < int(more.replace(",", "")) + redaction.MAX_VALUES < 1.1 * everything + 200
    assert len(told(raw, "*")) < 2 * len(raw) + 1_000_000


def test_as_many_values_as_are_laid_out_lack_none() -> None:
    for count in (redaction.MAX_VALUES - 1, redaction.MAX_VALUES):
        text = told(b"[" + b",".join([b"true"] * count) + b"]")
        assert (min(count, redaction.MAX_VALUES - 1), count == redaction.MAX_VALUES) == (
            text.count("true"),
            "more" in text,
        )


@pytest.mark.parametrize(
    ("shown", "value", "event"),
    [
        (True, "repair_order.posted", ()),
        (False, "Payment made by Grace Hopper", ()),
        (False, "Payment made by Grace Hopper", ("data", "event")),
        (True, "Job Created", ("event",)),
        (False, "Order of grace@example.com", ("event",)),
    ],
)
def test_the_name_of_an_event_is_a_word_or_what_the_source_declares(
    shown: bool, value: str, event: tuple[str, ...]
) -> None:
    pieces = redaction.redact_body(json.dumps({"event": value}).encode(), (), event)

    assert shown == any(value in piece for piece in pieces if isinstance(piece, str))


@pytest.mark.parametrize(
    ("source", "name", "shown"),
    [
        ("tekmetric", "Payment made by Grace Hopper", ""),  # as an older version kept it
        ("tekmetric", "grace@example.com", ""),
        ("tekmetric", "repair_order.posted", "repair_order.posted"),
        ("no such source", "Payment made by Grace Hopper", ""),
        ("standard", "a name that is declared", "a name that is declared"),
    ],
)
async def test_in_lists_the_name_of_an_event_names_nobody(ledger: Ledger, source: str, name: str, shown: str) -> None:
    settings, at = read_environment(SETTINGS), datetime.now(UTC)
    meta = DeliveryInfo("standard", source, int(at.timestamp() * 1000), event_name=name)
    written = await ledger.accept(
        Delivery("standard", source, (), b"{}", at), meta, [], "main", dedup_id=None, event_state="parked", reason="bug"
    )
    explain = Explain(ledger, settings)
    lists = Lists(ledger, settings, explain)

    pages = [(await lists.deliveries(filter)).rows for filter in (Filter(), Filter(state="parked"))]

    assert [shown, shown] == [row["event"] for rows in pages for row in rows]
    assert shown == (await explain.delivery(written.delivery_id))["event"]


# -- a visit with very many changes --


def folds(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each fold whether it kept the event loop."""
    calls: list[bool] = []

    def counted(said: Any) -> Any:
        calls.append(threading.current_thread() is threading.main_thread())
        return merge_changes(said)

    monkeypatch.setattr("app.operators.explain.merge_changes", counted)
    return calls


async def speak(ledger: Ledger, visit: str, numbers: range) -> None:
    for number in numbers:
        raw, at = f"{visit} {number}".encode(), datetime.now(UTC)
        meta = DeliveryInfo("standard", "standard", int(at.timestamp() * 1000), event_name="visit.updated")
        said = VisitChange(action="update", visit_id=visit, version=number, time_scheduled=at)
        await ledger.accept(Delivery("standard", "standard", (), raw, at), meta, [said], "main", dedup_id=None)


async def test_a_page_folds_a_visit_once_however_many_rows_speak_of_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, calls = read_environment(SETTINGS), folds(monkeypatch)
    await speak(ledger, "A", range(PAGE_SIZE))
    await speak(ledger, "B", range(3))
    asked = ledger.redis.script
    families: list[Any] = []

    async def counted(*arguments: Any) -> Any:
        families.append(arguments[0])
        return await asked(*arguments)

    monkeypatch.setattr(ledger.redis, "script", counted)
    rows = (await Lists(ledger, settings, Explain(ledger, settings)).deliveries(Filter())).rows

    assert PAGE_SIZE == len(rows)
    assert {"queued"} == {row["state"] for row in rows}
    assert 2 == len(calls)
    assert families.count("look") <= 2


async def test_very_many_changes_are_folded_beside_the_event_loop(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, calls = read_environment(SETTINGS), folds(monkeypatch)
    explain, replay = Explain(ledger, settings), Replay(ledger, settings)
    await speak(ledger, "A", range(MAX_CHANGES_ON_LOOP + 1))

    [row] = (await Lists(ledger, settings, explain).deliveries(Filter(), 1)).rows
    await explain.delivery(row["delivery"])
    [story] = await explain.visit("standard-A")
    await explain.visit_summary("visit:main/standard-A")
    assert 1 == len([step async for step in replay.plan(Filter(ids=("standard-A",)))])

    assert MAX_CHANGES_ON_LOOP + 1 == len(story["changes"])
    assert calls
    assert not any(calls)


# -- files --


def test_what_is_vendored_is_what_its_maker_published() -> None:
    for vendored in json.loads(files("app.console").joinpath("vendored.json").read_text()):
        digest = hashlib.sha384(STATIC.joinpath(vendored["file"]).read_bytes()).digest()

        assert vendored["sha384"] == base64.b64encode(digest).decode()


def test_nothing_comes_from_anywhere_else() -> None:
    templates = files("app.console").joinpath("templates")
    ours = [file for folder in (templates, STATIC) for file in folder.iterdir() if file.name != "htmx.min.js"]

    found = {file.name: re.findall(r"(?:src|href|url|import)\W{1,4}(?:https?:)?//", file.read_text()) for file in ours}

    assert {} == {name: places for name, places in found.items() if places}
