"""A person is forgotten: nothing of them is left in Redis, and what was decided stays decided."""

import asyncio
import hmac
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import zstandard

from app.ledger.ledger import LEASE_S, Ledger
from app.ledger.records import DeliveryInfo, NotFound
from app.ledger.redis import Redis
from app.ledger.scripts import Call
from app.operators import search_index
from app.operators.activity_log import ActivityLog
from app.operators.erasure import Erasure, mentions
from app.operators.filter import Filter
from app.operators.operations import OperationRequest, Operations
from app.settings.environment import read_environment
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery
from tests.support.every_key import (
    ADA,
    KEY,
    SOON,
    acuity_api,
    configure,
    expiry_problems,
    run_with_redis,
    send_deliveries,
)
from tests.support.harness import Harness, Server, sign_standard, standard_body, wait_until
from tests.support.ledger import accept, change, done, start_run, visit_task

EMAIL = "ada@example.com"
#: As they are written, by `standard` and by Acuity.
TRACES = (b"ada@example.com", b"ada%40example.com", b"5550100001", b"lovelace", b'"ada"')
GRACE = {"email": "grace@example.com", "first_name": "Grace", "last_name": "Hopper", "phone": "+15550100002"}


async def whole(redis: Redis) -> dict[str, bytes]:
    """All of Redis as text: every key with its value, and what is compressed in it laid open."""
    found = {}
    for key in await redis.command("KEYS", "*"):
        kind = (await redis.command("TYPE", key)).decode()
        asked: dict[str, tuple[Any, ...]] = {
            "string": ("GET", key),
            "hash": ("HGETALL", key),
            "zset": ("ZRANGE", key, 0, -1),
            "set": ("SMEMBERS", key),
            "list": ("LRANGE", key, 0, -1),
            "stream": ("XRANGE", key, "-", "+"),
        }
        if kind in asked:  # else it went meanwhile
            found[key.decode()] = key + b" " + flat(await redis.command(*asked[kind]) or b"")
    return found


def flat(value: Any) -> bytes:
    if isinstance(value, list):
        return b" ".join(map(flat, value))
    start = value.find(b"\x28\xb5\x2f\xfd")
    return value if start < 0 else value[:start] + zstandard.decompress(value[start:])


async def traces(redis: Redis) -> dict[str, list[bytes]]:
    kept = await whole(redis)
    return {key: found for key, text in kept.items() if (found := [trace for trace in TRACES if trace in text.lower()])}


def forgotten(harness: Harness, *options: str, **env: str) -> dict[str, Any]:
    done = harness.doorbell("erase", EMAIL, "--json", "--yes", *options, **env)
    assert done.returncode == 0, done
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_after_it_nothing_of_the_person_is_anywhere_in_redis(harness: Harness) -> None:
    with acuity_api() as url:
        configure(harness, url)
        harness.start_web()
        harness.start_worker()
        send_deliveries(harness)
        harness.send("visit.created", "G", contact=GRACE, time_scheduled=SOON)
        harness.send("visit.updated", "A", contact={"phone": "+15550100001", "first_name": "Ada"})
        wait_until(lambda: harness.visit("standard-G"))
        quiet(harness)
        before = run_with_redis(harness.redis_url, traces)
        plan = harness.doorbell("erase", EMAIL, "--dry-run", "--json")
        untouched = run_with_redis(harness.redis_url, traces)

        told = forgotten(harness)

    assert {kind.split(":")[1] for kind in before} >= {"delivery", "visit"}
    assert (0, before.keys()) == (plan.returncode, untouched.keys() | before.keys())
    assert {} == run_with_redis(harness.redis_url, traces)
    assert ["visit:main/acuity-123456789", "visit:main/standard-A"] == told["visits"]
    assert (told["visits"], told["deliveries"]) == tuple(
        json.loads(plan.stdout)[what] for what in ("visits", "deliveries")
    )
    assert (5, 0) == (len(told["deliveries"]), len(told["shared"]))  # four of A, one of Acuity
    kept = run_with_redis(harness.redis_url, whole)
    assert b"grace@example.com" in kept["bell:visit:main/standard-G"]
    assert b"erased person" in kept["bell:activity"]
    assert [] == run_with_redis(harness.redis_url, expiry_problems)


def quiet(harness: Harness) -> None:
    async def open_work(redis: Redis) -> int:
        return int(await redis.command("ZCARD", "bell:queued")) + int(await redis.command("ZCARD", "bell:running"))

    wait_until(lambda: not run_with_redis(harness.redis_url, open_work))


def test_later_events_of_a_forgotten_visit_make_no_wrong_and_no_second_one(harness: Harness) -> None:
    """It was another customer's once: whose it is now stays decided."""
    harness.env["SECRET_KEY"] = KEY
    harness.start_web()
    harness.start_worker()
    start = datetime.now(UTC) - timedelta(minutes=10)
    harness.send("visit.created", "A", start, contact=GRACE, time_scheduled=SOON)
    wait_until(lambda: harness.visit("standard-A"))
    harness.send("visit.updated", "A", start + timedelta(minutes=1), contact=ADA)
    stood = wait_until(lambda: contact_is(harness, EMAIL))
    quiet(harness)

    told = forgotten(harness)
    harness.send("visit.updated", "A", start + timedelta(minutes=2), amount_collected="245.00")
    after = wait_until(lambda: next((one for one in harness.visits() if one.get("amount_collected") == "245.00"), None))
    harness.send("visit.updated", "A", start + timedelta(minutes=3), contact=ADA)
    quiet(harness)

    assert ["visit:main/standard-A"] == told["visits"]
    assert (stood["id"], stood["contact_id"]) == (after["id"], after["contact_id"])
    assert 1 == len(harness.visits())
    assert 1 == len([visit for visit in harness.visits() if visit["id"] == stood["id"]])
    harness.send("visit.updated", "A", start + timedelta(minutes=4), contact=GRACE)
    assert wait_until(lambda: contact_is(harness, "grace@example.com"))


def contact_is(harness: Harness, email: str) -> Any:
    visit = harness.visit("standard-A")
    contacts = harness.get_from_api(f"/contacts?email={email}")["data"]
    return visit if visit and contacts and visit["contact_id"] == contacts[0]["id"] else None


def test_a_replay_says_that_the_body_was_removed(harness: Harness) -> None:
    harness.start_web()
    harness.start_worker()
    id = harness.send("visit.created", "A", contact=ADA, time_scheduled=SOON).json()["delivery"]
    wait_until(lambda: harness.visit("standard-A"))
    quiet(harness)
    forgotten(harness)

    replayed = harness.doorbell("replay", id, "--retranslate", "--dry-run")
    again = harness.doorbell("replay", id, "--recheck", "--yes")
    shown = harness.doorbell("show", id, "--show-personal-data")

    assert "its body was erased at 20" in replayed.stdout
    assert 0 == again.returncode
    assert "its body was erased at 20" in json.loads(shown.stdout)["body"]
    assert "erased_at" in harness.doorbell("visit", "standard-A").stdout
    quiet(harness)
    assert 1 == len(harness.visits())


def test_a_repeat_of_what_was_forgotten_is_still_a_repeat(harness: Harness) -> None:
    harness.start_web()
    raw = standard_body("visit.created", "A", contact=ADA)
    headers = sign_standard(raw)
    first = harness.post(raw, headers)
    forgotten(harness)

    again = harness.post(raw, headers)

    assert (200, first.json()["delivery"]) == (again.status_code, again.json()["delivery"])
    assert {} == run_with_redis(harness.redis_url, traces)


def test_a_visit_that_was_never_made_waits_for_an_operator_and_is_not_made_for_somebody_else(harness: Harness) -> None:
    harness.env["CONTACT_FOR_S"] = "0.2"
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA, time_scheduled=SOON)
    told = forgotten(harness)
    harness.start_worker()

    wait_until(lambda: "contact_unknown" in harness.doorbell("failures").stdout)

    assert ["visit:main/standard-A"] == told["unfinished"]
    assert [] == harness.visits()


def test_of_a_delivery_that_speaks_of_several_the_body_goes_and_the_others_visits_stay(harness: Harness) -> None:
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    id = harness.send("visit.created", "G", contact=GRACE, note=f"a friend of {EMAIL.upper()}").json()["delivery"]

    told = forgotten(harness)

    assert [id] == told["shared"]
    assert ["visit:main/standard-A"] == told["visits"]
    assert {} == run_with_redis(harness.redis_url, traces)
    assert b"grace@example.com" in run_with_redis(harness.redis_url, whole)["bell:visit:main/standard-G"]


def test_what_is_encrypted_with_a_lost_key_is_reported(harness: Harness) -> None:
    harness.start_web(BODY_KEYS="a-key-that-will-be-lost")
    harness.send("visit.created", "G", contact=GRACE)

    asked = harness.doorbell("erase", EMAIL, "--dry-run", BODY_KEYS="another-key-of-the-tests")

    assert "1 bodies cannot be searched: they are encrypted with keys that BODY_KEYS lacks" in asked.stderr


def test_nothing_is_removed_without_a_word(harness: Harness) -> None:
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    # The door's counts, which it writes every few seconds.
    wait_until(lambda: {"bell:metrics", "bell:secret-used:standard"} <= run_with_redis(harness.redis_url, whole).keys())
    before = run_with_redis(harness.redis_url, whole)

    statuses = [
        harness.doorbell("erase", *words).returncode for words in ((EMAIL,), (EMAIL, "--dry-run"), ("ada", "--yes"))
    ]

    assert [2, 0, 2] == statuses
    assert 5 == harness.doorbell("erase", "nobody@example.com", "--yes").returncode
    assert before == run_with_redis(harness.redis_url, whole)


async def test_what_a_worker_has_in_its_hands_is_waited_for(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    hold = await ledger.lease("visit:main/standard-A")
    assert not isinstance(hold, str)
    member = await ledger.load_task("visit:main/standard-A")

    busy = await ledger.redact(member.task_id, member.change_count, b"", {})
    await redis.command("ZINCRBY", "bell:running", -LEASE_S * 1000, member.task_id)  # it died
    moved = await ledger.redact(member.task_id, member.change_count - 1, b"", {})
    removed = await Erasure(ledger, read_environment(harness.env), EMAIL).execute()

    assert ("busy", "moved") == (busy, moved)
    assert {"visit:main/standard-A"} == removed.visits
    assert set() == removed.busy
    assert {} == await traces(redis)


def test_it_is_safe_while_workers_run_and_hooks_ring(harness: Harness, sandbox: Server) -> None:
    harness.env |= {"SECRET_KEY": KEY, "CONTACT_FOR_S": "0.2"}
    harness.start_web()
    harness.inject_faults(slow_share=0.5, slow_s=0.2)
    for number in range(60):
        harness.send("visit.created", f"V-{number}", contact=ADA if number % 2 else GRACE, time_scheduled=SOON)
    workers = [harness.start_worker(), harness.start_worker()]
    wait_until(lambda: len(harness.visits()) > 5)

    told = forgotten(harness)
    quiet(harness)

    assert 30 == len(told["visits"])
    assert {} == run_with_redis(harness.redis_url, traces)
    names = [visit["external_id"] for visit in harness.visits()]
    assert len(names) == len(set(names))
    assert {f"standard-V-{number}" for number in range(0, 60, 2)} <= set(names)
    assert all(worker.process.poll() is None for worker in workers)


@pytest.mark.parametrize("first", ["forget", "rederive"])
async def test_a_delivery_that_is_to_be_translated_anew_meanwhile_gets_its_body_back_by_no_order(
    harness: Harness, redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Between what the one reads and what it writes, the other does all of its work."""
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    [id] = await ledger.newest_delivery_ids(["standard"], 1)
    await ledger.complete(await start_run(ledger, "A"), done())
    forget, script = Erasure(ledger, read_environment(harness.env), EMAIL), redis.script
    came_of_it: list[str] = []

    async def rederive() -> None:
        try:
            came_of_it.append(await ledger.retranslate(id))
        except NotFound:
            came_of_it.append("gone")

    async def interleaved(call: Call) -> Any:
        if call.script.name == ("retranslate" if first == "forget" else "redact"):
            monkeypatch.setattr(redis, "script", script)
            await (forget.execute() if first == "forget" else rederive())
        return await script(call)

    monkeypatch.setattr(redis, "script", interleaved)
    await (rederive() if first == "forget" else forget.execute())

    assert {} == await traces(redis)
    assert (await ledger.load_delivery_info(id)).erased_at_ms
    assert ["gone" if first == "forget" else "queued"] == came_of_it


async def test_whose_visit_it_is_stays_known_under_the_key_of_its_time(
    harness: Harness, redis: Redis, ledger: Ledger
) -> None:
    """The keys were changed since: what stands in the visit decides which digest stays."""
    then = hmac.digest(b"an old key", b"doorbell.contact\n" + EMAIL.encode(), "sha256").hex()[:32]
    await accept(ledger, change("A", contact=Contact(**ADA)))
    stands = {"contact_id": "cont_1", "contact": then}
    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): stands}))

    settings = read_environment(harness.env).model_copy(update={"secret_key": ("a new key", "an old key")})
    await Erasure(ledger, settings, EMAIL).execute()

    [said] = (await ledger.load_task(visit_task("A"))).recorded_changes()
    assert {"email": f"erased:{then}"} == said.contact


async def test_it_is_not_found_by_address_or_number_any_more(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    harness.env["SECRET_KEY"] = KEY
    await accept(ledger, change("A", contact=Contact(**ADA)))
    for name in ("A", "B"):
        await search_index.index(
            redis, visit_task(name), Contact(email=EMAIL if name == "A" else None, phone=ADA["phone"]), KEY, 60_000
        )

    await Erasure(ledger, read_environment(harness.env), EMAIL).execute()

    assert [] == await search_index.lookup(redis, EMAIL, [KEY])
    assert [visit_task("B")] == await search_index.lookup(redis, ADA["phone"], [KEY])


async def test_of_a_number_that_several_have_all_are_meant_and_it_is_told_how_many(
    harness: Harness, redis: Redis, ledger: Ledger
) -> None:
    harness.env["SECRET_KEY"] = KEY
    for name, email in (("A", EMAIL), ("B", "byron@example.com")):
        contact = Contact(email=email, phone=ADA["phone"])
        await accept(ledger, change(name, contact=contact))
        await search_index.index(redis, visit_task(name), contact, KEY, 60_000)

    told = [json.loads(harness.doorbell("erase", whom, "--dry-run", "--json").stdout) for whom in (EMAIL, ADA["phone"])]

    assert [1, 2] == [one["people"] for one in told]
    assert [1, 2] == [len(one["visits"]) for one in told]
    assert re.search(
        r"people +2 +e-mail addresses; a phone number", harness.doorbell("erase", ADA["phone"], "--dry-run").stdout
    )


def test_a_number_leads_to_the_address_and_forgets_whose_it_is(harness: Harness) -> None:
    harness.env |= {"SECRET_KEY": KEY}
    harness.start_web()
    harness.start_worker()
    harness.send("visit.created", "A", contact=ADA, time_scheduled=SOON)
    harness.send("visit.created", "G", contact=GRACE, time_scheduled=SOON)
    wait_until(lambda: harness.visit("standard-A") and harness.visit("standard-G"))
    quiet(harness)

    unknown = harness.doorbell("erase", "+1 555 010 9999", "--yes")
    plan = harness.doorbell("erase", "(555) 010-0001", "--dry-run", "--json")
    done = harness.doorbell("erase", "(555) 010-0001", "--yes")

    assert (5, True) == (unknown.returncode, "a phone number matches only" in unknown.stderr)
    assert ["visit:main/standard-A"] == json.loads(plan.stdout)["visits"]
    assert 0 == done.returncode
    shown = [harness.doorbell("visit", f"standard-{one}", "--show-personal-data").stdout for one in "AG"]
    assert [False, True] == ["@example.com" in story for story in shown]


async def test_what_an_operation_looked_for_goes_once_it_is_over(
    harness: Harness, redis: Redis, ledger: Ledger
) -> None:
    settings = read_environment(harness.env)
    operations = Operations(ledger, settings)
    filter = Filter(state="parked", reason=f"about {EMAIL}")
    id = await operations.create(
        OperationRequest(kind="replay", filter=filter, actor="grace", expected=1, planned_at_ms=0)
    )

    during = await Erasure(ledger, settings, EMAIL).execute()
    await operations.cancel(id)
    after = await Erasure(ledger, settings, EMAIL).execute()

    assert ({f"operation:{id}"}, set()) == (during.busy, after.busy)
    assert ("(removed)", "grace") == ((order := (await operations.get(id)).request).filter.reason, order.actor)


async def test_the_audit_log_holds_no_address_that_somebody_looked_for(redis: Redis) -> None:
    await ActivityLog(redis).record(
        "grace", "operator", "started a replay", "reason=ada%40example.com&state=parked ada@example.com"
    )

    [line] = await ActivityLog(redis).newest()
    assert "reason=•••&state=parked •••" == line.target


@pytest.mark.parametrize(
    ("raw", "speaks"),
    [
        (b'{"email": "Ada@Example.com"}', True),
        (b"name=Ada&email=ada%40example.com&x=1", True),
        (b'{"email": "ada\\u0040example.com"}', True),
        (b'{"data": "{\\"email\\": \\"ada@example.com\\"}"}', True),
        (b'{"note": "write to\\nada@example.com"}', True),
        (b"payload=%7B%22email%22%3A%22ada%5Cu0040example.com%22%7D", True),
        (b"eyJhbGciOiJIUzI1NiJ9.eyJlbWFpbCI6ImFkYUBleGFtcGxlLmNvbSJ9.c2ln", True),
        (b'{"email": "not-ada@example.com"}', False),
        (b'{"email": "ada@example.com.au"}', False),
        (b'{"email": "grace@example.com"}', False),
        (b"\xff\xfe", False),
    ],
)
def test_an_address_is_seen_however_it_is_written(raw: bytes, speaks: bool) -> None:
    assert speaks == mentions(EMAIL)(raw)


SETTINGS = {"REDIS_URL": "redis://127.0.0.1/0", "SECRET_KEY": KEY}


def test_a_body_of_backslashes_is_searched_to_its_end() -> None:
    """In a moment; a search that begins again at each of them would take an hour."""
    raw = b"\\" * 1_000_000 + b"x" + b"\\" * 1_000_000 + EMAIL.encode()

    assert mentions(EMAIL)(raw)


async def test_what_is_kept_is_looked_through_beside_the_event_loop(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[bool]()

    def watched(email: str) -> Any:
        speaks = mentions(email)

        def watching(raw: bytes) -> bool:
            threads.add(threading.current_thread() is threading.main_thread())
            return speaks(raw)

        return watching

    monkeypatch.setattr("app.operators.erasure.mentions", watched)
    raw = b'{"email":"ada@example.com"}'
    said = VisitChange(action="create", visit_id="A", version=1, contact=Contact(email="grace@example.com"))
    delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
    await ledger.accept(delivery, DeliveryInfo("standard", "standard", 1), [said], "main", dedup_id=None)

    found = await Erasure(ledger, read_environment(SETTINGS), EMAIL).plan()

    assert 1 == len(found.deliveries)
    assert {False} == threads


async def test_the_event_loop_goes_on_while_very_much_is_looked_through(redis: Redis, ledger: Ledger) -> None:
    for number in range(60):
        raw = b'{"note":"%b","n":%d}' % (b"\\\\" * 100_000, number)
        delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
        await ledger.accept(delivery, DeliveryInfo("standard", "standard", 1, ignored="x"), [], "main", dedup_id=None)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    found = await Erasure(ledger, read_environment(SETTINGS), EMAIL).plan()
    counting.cancel()

    assert found.is_empty
    assert turns > 60


@pytest.mark.parametrize("removed", [0, 1_700_000_000_000], ids=["now", "by an older version"])
async def test_names_of_events_go_too_since_they_may_be_sentences(redis: Redis, ledger: Ledger, removed: int) -> None:
    sentence = "Payment made by Ada Lovelace"
    said = VisitChange(action="create", visit_id="A", version=1, contact=Contact(email=EMAIL))
    delivery = Delivery("standard", "standard", (), b"{}", datetime.now(UTC))
    meta = DeliveryInfo("standard", "standard", 1, event_name=sentence, ignored=f"no: {sentence}", erased_at_ms=removed)
    written = await ledger.accept(delivery, meta, [said], "main", dedup_id=None)

    await Erasure(ledger, read_environment(SETTINGS), EMAIL).execute()

    after = await ledger.load_delivery_info(written.delivery_id)
    assert ("", "removed") == (after.event_name, after.ignored)
    assert after.erased_at_ms
    assert b"Lovelace" not in flat(await redis.command("GET", f"bell:delivery:{written.delivery_id}"))
    assert (await Erasure(ledger, read_environment(SETTINGS), EMAIL).plan()).is_empty
