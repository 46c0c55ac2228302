"""Erasure: Redis contains no personal data of the person afterwards, and later events still match the visits."""

import asyncio
import hmac
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.ledger.compression import decompress
from app.ledger.ids import TaskId, delivery_key
from app.ledger.ledger import LEASE_S, Ledger
from app.ledger.records import Attempt, DeliveryInfo, Lease, NewDelivery, NotFound, Outcome
from app.ledger.redis import Redis
from app.ledger.scripts import Call
from app.operators import search_index
from app.operators.activity_log import ActivityLog
from app.operators.erasure import Erasure, mentions, resolve_emails
from app.operators.explain import Explain
from app.operators.filter import ActivityFilter, Filter
from app.operators.operations import OperationRequest, Operations
from app.settings.environment import read_environment
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery
from tests.support.cases import each
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
from tests.support.ledger import accept, change, done, newest_delivery_ids, start_run, visit_task

EMAIL = "ada@example.com"
#: In the formats of `standard` and of Acuity.
TRACES = (b"ada@example.com", b"ada%40example.com", b"5550100001", b"lovelace", b'"ada"')
GRACE = {"email": "grace@example.com", "first_name": "Grace", "last_name": "Hopper", "phone": "+15550100002"}


async def redis_contents(redis: Redis) -> dict[str, bytes]:
    """Return every key with its value as text, decompressed."""
    contents = {}
    for key in await redis.command("KEYS", "*"):
        kind = (await redis.command("TYPE", key)).decode()
        commands: dict[str, tuple[Any, ...]] = {
            "string": ("GET", key),
            "hash": ("HGETALL", key),
            "zset": ("ZRANGE", key, 0, -1),
            "set": ("SMEMBERS", key),
            "list": ("LRANGE", key, 0, -1),
            "stream": ("XRANGE", key, "-", "+"),
        }
        if kind in commands:  # else it has expired
            contents[key.decode()] = key + b" " + flat(await redis.command(*commands[kind]) or b"")
    return contents


def flat(value: Any) -> bytes:
    if isinstance(value, list):
        return b" ".join(map(flat, value))
    start = value.find(b"\x28\xb5\x2f\xfd")
    if start < 0:
        return bytes(value)
    if value[start - 5 : start - 4] == b"\x02":  # the name of its dictionary is before it
        start -= 5
    return bytes(value[:start]) + decompress(value[start:])


async def find_traces(redis: Redis) -> dict[str, list[bytes]]:
    contents = await redis_contents(redis)
    return {
        key: matches
        for key, text in contents.items()
        if (matches := [trace for trace in TRACES if trace in text.lower()])
    }


def erase(harness: Harness, *options: str, **env: str) -> dict[str, Any]:
    done = harness.doorbell("erase", EMAIL, "--json", "--yes", *options, **env)
    assert done.returncode == 0, done
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_an_erasure_removes_all_personal_data_from_redis(harness: Harness) -> None:
    with acuity_api() as url:
        configure(harness, url)
        harness.start_web()
        harness.start_worker()
        send_deliveries(harness)
        harness.send("visit.created", "G", contact=GRACE, time_scheduled=SOON)
        harness.send("visit.updated", "A", contact={"phone": "+15550100001", "first_name": "Ada"})
        wait_until(lambda: harness.visit("standard-G"))
        wait_for_workers(harness)
        traces_before = run_with_redis(harness.redis_url, find_traces)
        plan = harness.doorbell("erase", EMAIL, "--dry-run", "--json")
        traces_after_plan = run_with_redis(harness.redis_url, find_traces)

        report = erase(harness)

    assert {kind.split(":")[1] for kind in traces_before} >= {"delivery", "visit"}
    assert (0, traces_before.keys()) == (plan.returncode, traces_after_plan.keys() | traces_before.keys())
    assert {} == run_with_redis(harness.redis_url, find_traces)
    assert ["visit:main/acuity-123456789", "visit:main/standard-A"] == report["visits"]
    assert (report["visits"], report["deliveries"]) == tuple(
        json.loads(plan.stdout)[name] for name in ("visits", "deliveries")
    )
    assert (5, 0) == (len(report["deliveries"]), len(report["shared"]))  # four of A, one of Acuity
    contents = run_with_redis(harness.redis_url, redis_contents)
    assert b"grace@example.com" in contents["bell:visit:main/standard-G"]
    assert b"erased person" in contents["bell:activity"]
    assert [] == run_with_redis(harness.redis_url, expiry_problems)


def wait_for_workers(harness: Harness) -> None:
    async def open_tasks(redis: Redis) -> int:
        return int(await redis.command("ZCARD", "bell:state:queued")) + int(
            await redis.command("ZCARD", "bell:state:running")
        )

    wait_until(lambda: not run_with_redis(harness.redis_url, open_tasks))


def test_later_events_of_an_erased_visit_match_the_same_visit(harness: Harness) -> None:
    # The visit had another customer before: the current one must not change.
    harness.env["SECRET_KEY"] = KEY
    harness.start_web()
    harness.start_worker()
    start = datetime.now(UTC) - timedelta(minutes=10)
    harness.send("visit.created", "A", start, contact=GRACE, time_scheduled=SOON)
    wait_until(lambda: harness.visit("standard-A"))
    harness.send("visit.updated", "A", start + timedelta(minutes=1), contact=ADA)
    original = wait_until(lambda: visit_with_contact(harness, EMAIL))
    wait_for_workers(harness)

    report = erase(harness)
    harness.send("visit.updated", "A", start + timedelta(minutes=2), amount_collected="245.00")
    after = wait_until(
        lambda: next((visit for visit in harness.visits() if visit.get("amount_collected") == "245.00"), None)
    )
    harness.send("visit.updated", "A", start + timedelta(minutes=3), contact=ADA)
    wait_for_workers(harness)

    assert ["visit:main/standard-A"] == report["visits"]
    assert (original["id"], original["contact_id"]) == (after["id"], after["contact_id"])
    assert [original["id"]] == [visit["id"] for visit in harness.visits()]
    harness.send("visit.updated", "A", start + timedelta(minutes=4), contact=GRACE)
    assert wait_until(lambda: visit_with_contact(harness, "grace@example.com"))


def visit_with_contact(harness: Harness, email: str) -> Any:
    visit = harness.visit("standard-A")
    contacts = harness.get_from_api(f"/contacts?email={email}")["data"]
    return visit if visit and contacts and visit["contact_id"] == contacts[0]["id"] else None


def test_a_replay_shows_that_the_body_was_erased(harness: Harness) -> None:
    harness.start_web()
    harness.start_worker()
    id = harness.send("visit.created", "A", contact=ADA, time_scheduled=SOON).json()["delivery"]
    wait_until(lambda: harness.visit("standard-A"))
    wait_for_workers(harness)
    erase(harness)

    replayed = harness.doorbell("replay", id, "--retranslate", "--dry-run")
    repeat = harness.doorbell("replay", id, "--recheck", "--yes")
    output = harness.doorbell("show", id, "--show-personal-data", "--json")

    assert "its body was erased at 20" in replayed.stdout
    assert 0 == repeat.returncode
    assert "its body was erased at 20" in json.loads(output.stdout)["body"]
    assert "erased_at" in harness.doorbell("visit", "standard-A", "--json").stdout
    wait_for_workers(harness)
    assert 1 == len(harness.visits())


def test_a_repeat_of_an_erased_delivery_is_answered_200(harness: Harness) -> None:
    harness.start_web()
    raw = standard_body("visit.created", "A", contact=ADA)
    headers = sign_standard(raw)
    first = harness.post(raw, headers)
    erase(harness)

    repeat = harness.post(raw, headers)

    assert (200, first.json()["delivery"]) == (repeat.status_code, repeat.json()["delivery"])
    assert {} == run_with_redis(harness.redis_url, find_traces)


def test_an_erased_visit_that_was_not_created_is_parked(harness: Harness) -> None:
    harness.env["CONTACT_FOR_S"] = "0.2"
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA, time_scheduled=SOON)
    report = erase(harness)
    harness.start_worker()

    wait_until(lambda: "contact_unknown" in harness.doorbell("failures").stdout)

    assert ["visit:main/standard-A"] == report["unfinished"]
    assert [] == harness.visits()


def test_an_erased_delivery_that_mentions_another_person_keeps_their_visit(harness: Harness) -> None:
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    id = harness.send("visit.created", "G", contact=GRACE, note=f"a friend of {EMAIL.upper()}").json()["delivery"]

    report = erase(harness)

    assert [id] == report["shared"]
    assert ["visit:main/standard-A"] == report["visits"]
    assert {} == run_with_redis(harness.redis_url, find_traces)
    assert b"grace@example.com" in run_with_redis(harness.redis_url, redis_contents)["bell:visit:main/standard-G"]


def test_bodies_with_a_lost_key_are_reported(harness: Harness) -> None:
    harness.start_web(BODY_KEYS="a-key-that-will-be-lost")
    harness.send("visit.created", "G", contact=GRACE)

    searches = [
        harness.doorbell("erase", EMAIL, option, BODY_KEYS="another-key-of-the-tests")
        for option in ("--dry-run", "--yes")
    ]

    assert [6, 6] == [result.returncode for result in searches]
    note = "1 bodies cannot be searched: they are encrypted with keys that BODY_KEYS lacks"
    assert [f"nothing was found about this person; {note}\n"] * 2 == [result.stderr for result in searches]


def test_nothing_is_erased_without_confirmation(harness: Harness) -> None:
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    # The web process stores its counters every few seconds.
    wait_until(
        lambda: (
            {"bell:metrics", "bell:secret-used:standard"} <= run_with_redis(harness.redis_url, redis_contents).keys()
        )
    )
    contents_before = run_with_redis(harness.redis_url, redis_contents)

    statuses = [
        harness.doorbell("erase", *arguments).returncode
        for arguments in ((EMAIL,), (EMAIL, "--dry-run"), ("ada", "--yes"))
    ]

    assert [2, 0, 2] == statuses
    assert 5 == harness.doorbell("erase", "nobody@example.com", "--yes").returncode
    assert contents_before == run_with_redis(harness.redis_url, redis_contents)


async def test_an_erasure_waits_for_the_lease_of_a_worker(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    lease = await ledger.lease("visit:main/standard-A")
    assert not isinstance(lease, str)
    task = await ledger.load_task("visit:main/standard-A")

    busy = await ledger.redact(task.task_id, task.change_count, b"", {})
    await redis.command("ZINCRBY", "bell:state:running", -LEASE_S * 1000, task.task_id)  # it died
    moved = await ledger.redact(task.task_id, task.change_count - 1, b"", {})
    erased = await Erasure(ledger, read_environment(harness.env), EMAIL).execute()

    assert ("busy", "moved") == (busy, moved)
    assert [] == erased.incomplete_notes
    assert {"visit:main/standard-A"} == erased.visits
    assert set() == erased.busy
    assert {} == await find_traces(redis)


def test_an_erasure_is_safe_while_workers_run(harness: Harness, sandbox: Server) -> None:
    harness.env |= {"SECRET_KEY": KEY, "CONTACT_FOR_S": "0.2"}
    harness.start_web()
    harness.inject_faults(slow_share=0.5, slow_s=0.2)
    for number in range(60):
        harness.send("visit.created", f"V-{number}", contact=ADA if number % 2 else GRACE, time_scheduled=SOON)
    workers = [harness.start_worker(), harness.start_worker()]
    wait_until(lambda: len(harness.visits()) > 5)

    report = erase(harness)
    wait_for_workers(harness)

    assert 30 == len(report["visits"])
    assert {} == run_with_redis(harness.redis_url, find_traces)
    external_ids = [visit["external_id"] for visit in harness.visits()]
    assert len(external_ids) == len(set(external_ids))
    assert {f"standard-V-{number}" for number in range(0, 60, 2)} <= set(external_ids)
    assert all(worker.process.poll() is None for worker in workers)


@pytest.mark.parametrize("first", ["erase", "retranslate"])
async def test_a_concurrent_retranslation_does_not_restore_an_erased_body(
    harness: Harness, redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The second operation runs completely between the read and the write of the first."""
    harness.start_web()
    harness.send("visit.created", "A", contact=ADA)
    [id] = await newest_delivery_ids(ledger, "standard")
    await ledger.complete(await start_run(ledger, "A"), done())
    erasure, script = Erasure(ledger, read_environment(harness.env), EMAIL), redis.script
    results: list[str] = []

    async def retranslate() -> None:
        try:
            results.append(await ledger.retranslate(id))
        except NotFound:
            results.append("expired")

    async def interleaved(call: Call) -> Any:
        if call.script.name == ("retranslate" if first == "erase" else "redact"):
            monkeypatch.setattr(redis, "script", script)
            await (erasure.execute() if first == "erase" else retranslate())
        return await script(call)

    monkeypatch.setattr(redis, "script", interleaved)
    await (retranslate() if first == "erase" else erasure.execute())

    assert {} == await find_traces(redis)
    assert (await ledger.load_delivery_info(id)).erased_at_ms
    assert ["expired" if first == "erase" else "queued"] == results


async def test_the_digest_of_an_old_key_is_kept(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    """After a key rotation, the digest in the remote state of the visit replaces the address."""
    old_digest = hmac.digest(b"an old key", b"doorbell.contact\n" + EMAIL.encode(), "sha256").hex()[:32]
    await accept(ledger, change("A", contact=Contact(**ADA)))
    remote = {"contact_id": "cont_1", "contact": old_digest}
    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): remote}))

    settings = read_environment(harness.env).model_copy(update={"secret_key": ("a new key", "an old key")})
    await Erasure(ledger, settings, EMAIL).execute()

    [recorded] = (await ledger.load_task(visit_task("A"))).recorded_changes()
    assert {"email": f"erased:{old_digest}"} == recorded.contact


async def test_an_erased_visit_is_not_in_the_search_index(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    harness.env["SECRET_KEY"] = KEY
    await accept(ledger, change("A", contact=Contact(**ADA)))
    for name in ("A", "B"):
        await search_index.index(
            redis,
            TaskId(visit_task(name)),
            Contact(email=EMAIL if name == "A" else None, phone=ADA["phone"], last_name=ADA["last_name"]),
            KEY,
            60_000,
        )

    await Erasure(ledger, read_environment(harness.env), EMAIL).execute()

    assert [] == await search_index.lookup(redis, EMAIL, [KEY])
    assert [visit_task("B")] == await search_index.lookup(redis, ADA["phone"], [KEY])
    assert [visit_task("B")] == await search_index.lookup_name(redis, ADA["last_name"], [KEY])


async def test_a_rescheduled_visit_is_erased_under_its_first_id_too(redis: Redis, ledger: Ledger) -> None:
    """The first id has the state of the visit and its entries in the search index, here no contact."""
    settings = read_environment(SETTINGS)
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A", contact=Contact(**ADA)))
    await ledger.complete(await start_run(ledger, "A"), done())
    await search_index.index(redis, TaskId(visit_task("A")), Contact(**ADA), KEY, 60_000)

    await Erasure(ledger, settings, EMAIL).execute()

    assert [] == await search_index.lookup(redis, ADA["phone"], [KEY])
    assert [] == await search_index.lookup_name(redis, ADA["last_name"], [KEY])
    [visit] = await Explain(ledger, settings).visit("standard-A")
    assert visit["erased_at"]


async def test_an_erasure_removes_all_digests_of_an_address(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    """Also those of visits that have expired, in all periods."""
    harness.env["SECRET_KEY"] = KEY
    for number in range(300):
        visit, keep_ms = TaskId.visit("main", f"standard-{number}"), 86_400_000 * (1 + number)
        await search_index.index(redis, visit, Contact(email=EMAIL), KEY, keep_ms)
    await search_index.index(redis, TaskId.visit("main", "standard-G"), Contact(email="grace@example.com"), KEY, 60_000)

    report = await Erasure(ledger, read_environment(harness.env), EMAIL).execute()

    assert 1 == len(report.digests)
    lists = await redis.command("KEYS", "bell:index:contacts:*")
    assert [b"main/standard-G"] == [(await redis.command("LRANGE", name, 0, -1))[0][11:] for name in lists]


async def test_a_shared_phone_number_matches_all_its_people(harness: Harness, redis: Redis, ledger: Ledger) -> None:
    harness.env["SECRET_KEY"] = KEY
    for name, email in (("A", EMAIL), ("B", "byron@example.com")):
        contact = Contact(email=email, phone=ADA["phone"])
        await accept(ledger, change(name, contact=contact))
        await search_index.index(redis, TaskId(visit_task(name)), contact, KEY, 60_000)

    reports = [
        json.loads(harness.doorbell("erase", person, "--dry-run", "--json").stdout) for person in (EMAIL, ADA["phone"])
    ]

    assert [1, 2] == [report["people"] for report in reports]
    assert [1, 2] == [len(report["visits"]) for report in reports]
    assert re.search(
        r" 2  people: those with this address, or",
        harness.doorbell("erase", ADA["phone"], "--dry-run").stdout,
    )


async def test_a_phone_number_leads_to_the_address_of_an_old_visit_too(redis: Redis, ledger: Ledger) -> None:
    """Many people may share a number, such as that of a company."""
    settings = read_environment(SETTINGS)
    for number in range(search_index.MAX_VISITS_PER_KEY + 1):
        contact = Contact(email=GRACE["email"] if number else EMAIL, phone=ADA["phone"])
        await accept(ledger, change(str(number), contact=contact))
        await search_index.index(redis, TaskId(visit_task(str(number))), contact, KEY, 60_000)

    assert {EMAIL, GRACE["email"]} == {*await resolve_emails(ledger, settings, ADA["phone"])}


async def test_a_running_visit_is_found_again_by_its_phone_number(redis: Redis, ledger: Ledger) -> None:
    settings, contact = read_environment(SETTINGS), Contact(email=EMAIL, phone=ADA["phone"])
    for name in ("A", "B"):
        await accept(ledger, change(name, contact=contact))
        await search_index.index(redis, TaskId(visit_task(name)), contact, KEY, 60_000)
    assert not isinstance(await ledger.lease(visit_task("A")), str)

    erased = await Erasure(ledger, settings, EMAIL, busy_timeout_s=0).execute()

    assert ({visit_task("A")}, {visit_task("B")}) == (erased.busy, erased.visits)
    assert [f"not erased, because these tasks run, or their account moves to another cell: {visit_task('A')}"] == (
        erased.incomplete_notes
    )
    assert [visit_task("A")] == await search_index.lookup(redis, ADA["phone"], [KEY])


async def test_an_erasure_reports_data_that_keeps_arriving(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(ledger, change("A", contact=Contact(email=EMAIL)))
    remove_email = search_index.remove_email

    async def remove_email_and_receive(*args: Any) -> None:
        await remove_email(*args)
        await accept(ledger, change("A", version=2, contact=Contact(email=EMAIL)))

    monkeypatch.setattr(search_index, "remove_email", remove_email_and_receive)

    erased = await Erasure(ledger, read_environment(SETTINGS), EMAIL, busy_timeout_s=0).execute()

    [note] = erased.incomplete_notes
    assert {visit_task("A")} <= erased.late
    assert set() == erased.visits
    assert note.startswith("not erased, because new data of the person arrived meanwhile: ")


def test_a_phone_number_needs_a_secret_key(harness: Harness) -> None:
    refused = harness.doorbell("erase", ADA["phone"], "--dry-run")

    assert (3, "") == (refused.returncode, refused.stdout)
    assert "a phone number needs SECRET_KEY; give the e-mail address" in refused.stderr
    assert 5 == harness.doorbell("erase", EMAIL, "--dry-run").returncode


def test_a_phone_number_leads_to_the_address(harness: Harness) -> None:
    harness.env |= {"SECRET_KEY": KEY}
    harness.start_web()
    harness.start_worker()
    harness.send("visit.created", "A", contact=ADA, time_scheduled=SOON)
    harness.send("visit.created", "G", contact=GRACE, time_scheduled=SOON)
    wait_until(lambda: harness.visit("standard-A") and harness.visit("standard-G"))
    wait_for_workers(harness)

    unknown = harness.doorbell("erase", "+1 555 010 9999", "--yes")
    plan = harness.doorbell("erase", "(555) 010-0001", "--dry-run", "--json")
    done = harness.doorbell("erase", "(555) 010-0001", "--yes")

    assert (5, True) == (unknown.returncode, "no visit in the search index has this phone number" in unknown.stderr)
    assert "only visits that also have an e-mail address can be found by phone number" in " ".join(
        unknown.stderr.split()
    )
    assert ["visit:main/standard-A"] == json.loads(plan.stdout)["visits"]
    assert 0 == done.returncode
    outputs = [harness.doorbell("visit", f"standard-{id}", "--show-personal-data").stdout for id in "AG"]
    assert [False, True] == ["@example.com" in output for output in outputs]


async def test_the_filter_of_an_operation_is_erased_after_it_ends(
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
    assert ([f"not erased, because these operations have not ended: {id}"], set()) == (
        during.incomplete_notes,
        during.operations,
    )
    assert ("(removed)", "grace") == ((request := (await operations.get(id)).request).filter.reason, request.actor)


async def test_the_contacts_of_an_operation_are_found_until_it_ends(
    harness: Harness, redis: Redis, ledger: Ledger
) -> None:
    settings = read_environment(harness.env)
    operations, contacts = Operations(ledger, settings), {"standard-A": EMAIL}
    id = await operations.create(
        OperationRequest(kind="replay", filter=Filter(), actor="grace", expected=1, planned_at_ms=0, contacts=contacts)
    )

    during = await Erasure(ledger, settings, EMAIL).execute()
    await operations.cancel(id)
    after = await Erasure(ledger, settings, EMAIL).plan()

    assert ({f"operation:{id}"}, True) == (during.busy, after.is_empty)
    assert {"standard-A": ""} == (await operations.get(id)).request.contacts


async def test_the_people_of_a_booking_expire_with_the_visit_of_an_erased_person(
    harness: Harness, redis: Redis, ledger: Ledger
) -> None:
    now = datetime.now(UTC)
    for booking in ("standard-5-1", "standard-5-2"):
        await ledger.add_people("main", booking, now, ["101", "102"])
    for visit, email in (("5-1.102", EMAIL), ("5-2", "grace@example.com")):
        await accept(ledger, change(visit, contact=Contact(email=email)))
        await ledger.complete(await start_run(ledger, visit), done())

    await Erasure(ledger, read_environment(harness.env), EMAIL).execute()

    of_visit, of_booking, of_other = [
        await redis.command("PTTL", key)
        for key in (
            "bell:visit:main/standard-5-1.102",
            "bell:people:main/standard-5-1",
            "bell:people:main/standard-5-2",
        )
    ]
    assert 0 <= of_visit - of_booking < 5_000 or 0 <= of_booking - of_visit < 5_000
    assert of_other > 700 * 86_400_000


async def test_the_activity_log_contains_no_address_of_a_search(redis: Redis) -> None:
    await ActivityLog(Ledger(redis, 30)).record(
        "grace", "operator", "started a replay", "reason=ada%40example.com&state=parked ada@example.com"
    )

    [activity] = (await ActivityLog(Ledger(redis, 30)).newest(ActivityFilter())).rows
    assert "reason=•••&state=parked •••" == activity.target


@each(
    ("raw", "is_match"),
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
def test_an_address_matches_in_every_encoding(raw: bytes, is_match: bool) -> None:
    assert is_match == mentions(EMAIL)(raw)


def test_an_address_in_a_form_matches_in_any_case() -> None:
    assert mentions("äda@example.com")("email=Äda@example.com".encode())
    assert mentions("äda@example.com")(b"email=%C3%84da%40example.com")


SETTINGS = {"REDIS_URL": "redis://127.0.0.1/0", "SECRET_KEY": KEY}


def test_a_body_of_backslashes_is_searched_to_its_end() -> None:
    """A search that restarts at each backslash would take an hour."""
    raw = b"\\" * 1_000_000 + b"x" + b"\\" * 1_000_000 + EMAIL.encode()

    assert mentions(EMAIL)(raw)


async def test_bodies_are_searched_outside_the_event_loop(
    redis: Redis, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set[bool]()

    def recording_mentions(email: str) -> Any:
        is_match = mentions(email)

        def record_thread(raw: bytes) -> bool:
            threads.add(threading.current_thread() is threading.main_thread())
            return is_match(raw)

        return record_thread

    monkeypatch.setattr("app.operators.erasure.mentions", recording_mentions)
    raw = b'{"email":"ada@example.com"}'
    change = VisitChange(action="create", visit_id="A", version=1, contact=Contact(email="grace@example.com"))
    delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
    await ledger.accept(NewDelivery(delivery, DeliveryInfo("standard", "standard", 1), [change], "main", dedup_id=None))

    report = await Erasure(ledger, read_environment(SETTINGS), EMAIL).plan()

    assert 1 == len(report.deliveries)
    assert {False} == threads


async def test_a_large_search_does_not_block_the_event_loop(redis: Redis, ledger: Ledger) -> None:
    for number in range(60):
        raw = b'{"note":"%b","n":%d}' % (b"\\\\" * 100_000, number)
        delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
        await ledger.accept(
            NewDelivery(delivery, DeliveryInfo("standard", "standard", 1, ignored="x"), [], "main", dedup_id=None)
        )
    loop_turns = 0

    async def count_loop_turns() -> None:
        nonlocal loop_turns
        while True:
            await asyncio.sleep(0)
            loop_turns += 1

    counter = asyncio.create_task(count_loop_turns())
    report = await Erasure(ledger, read_environment(SETTINGS), EMAIL).plan()
    counter.cancel()

    assert report.is_empty
    assert loop_turns > 60


async def test_an_address_is_found_wherever_its_value_is_cut(redis: Redis, ledger: Ledger) -> None:
    """Redis has long values of a visit in pieces of 64 bytes."""
    emails = {f"{'a' * length}@example.com": visit_task(str(length)) for length in range(1, 65)}
    for email, task in emails.items():
        visit = VisitChange(action="update", visit_id=task.rpartition("-")[2], version=1, contact=Contact(email=email))
        await accept(ledger, visit)

    reports = [await Erasure(ledger, read_environment(SETTINGS), email).plan() for email in emails]

    assert [{task} for task in emails.values()] == [report.visits for report in reports]


async def run_event(ledger: Ledger, raw: bytes) -> tuple[str, Lease]:
    """Accept a delivery that a worker translates, and lease it."""
    delivery = (await accept(ledger, raw=raw, event_state="queued")).delivery_id
    lease = await ledger.lease(TaskId.event(delivery))
    assert isinstance(lease, Lease)
    return delivery, lease


@pytest.mark.parametrize("is_expired", [False, True])
async def test_what_a_tool_answered_about_a_record_is_erased(redis: Redis, ledger: Ledger, is_expired: bool) -> None:
    """The delivery has only the id of the record. A failure is stored longer than its delivery."""
    delivery, lease = await run_event(ledger, b'{"id":5}')
    answer = Attempt(1, 1, "parked: GET /records: 422", [["GET /records", 422]], f'{{"detail":"{EMAIL} was merged"}}')
    await ledger.complete(lease, Outcome(state="parked", attempt=answer, reason="GET /records: 422"))
    if is_expired:
        await redis.command("DEL", delivery_key(delivery))

    erased = await Erasure(ledger, read_environment(SETTINGS), EMAIL).execute()

    assert {delivery} == erased.deliveries
    assert {} == await find_traces(redis)


async def test_a_body_is_erased_whose_changes_no_longer_count(redis: Redis, ledger: Ledger) -> None:
    """The body has no address, and leads to the visit of a person by the event that translated it."""
    delivery, lease = await run_event(ledger, b'{"customer":"Ada Lovelace"}')
    await ledger.record_changes(lease, "standard", "main", [change("A")], Attempt(1, 1, "translated"))
    newer = await accept(ledger, change("A", version=2, contact=Contact(email=EMAIL)))
    run = await start_run(ledger, "A")
    await ledger.compact(run, run.primary, [f"{delivery}.0"])
    await ledger.complete(run, done())

    erased = await Erasure(ledger, read_environment(SETTINGS), EMAIL).execute()

    assert {delivery, newer.delivery_id} == erased.deliveries
    assert {} == await find_traces(redis)


async def test_names_of_events_are_erased(redis: Redis, ledger: Ledger) -> None:
    sentence = "Payment made by Ada Lovelace"
    change = VisitChange(action="create", visit_id="A", version=1, contact=Contact(email=EMAIL))
    delivery = Delivery("standard", "standard", (), b"{}", datetime.now(UTC))
    meta = DeliveryInfo("standard", "standard", 1, event_name=sentence, ignored=f"no: {sentence}")
    receipt = await ledger.accept(NewDelivery(delivery, meta, [change], "main", dedup_id=None))

    await Erasure(ledger, read_environment(SETTINGS), EMAIL).execute()

    after = await ledger.load_delivery_info(receipt.delivery_id)
    assert ("", "removed") == (after.event_name, after.ignored)
    assert after.erased_at_ms
    assert b"Lovelace" not in flat(await redis.command("GET", delivery_key(receipt.delivery_id)))
    assert (await Erasure(ledger, read_environment(SETTINGS), EMAIL).plan()).is_empty
