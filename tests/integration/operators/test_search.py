"""Search by names, beginnings of ids, and whole ids."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.operators import search_index
from app.operators.search import MAX_HITS, Search
from app.settings.environment import read_environment
from app.visits.change import UNSET, Contact
from tests.support.ledger import accept, change, done, start_run, visit_task

KEY = "key-of-the-search-tests-0123"
ENVIRONMENT = {"REDIS_URL": "redis://127.0.0.1/0", "HOOKS__STANDARD__SECRETS": "whsec_c2VjcmV0LXNlY3JldC1z"}
SETTINGS = read_environment(ENVIRONMENT | {"SECRET_KEY": KEY})
NOON = datetime(2031, 3, 14, 12, tzinfo=UTC)


async def book(ledger: Ledger, visit: str, name: str = "", **fields: Any) -> str:
    """Accept a visit, index its contact as a worker does, and return the delivery."""
    delivery = await accept(ledger, change(visit, **{"time_scheduled": NOON} | fields))
    first, _, last = name.partition(" ")
    contact = Contact(first_name=first or None, last_name=last or None)
    await search_index.index(ledger.redis, TaskId(visit_task(visit)), contact, KEY, 60_000)
    return delivery.delivery_id


async def ids(ledger: Ledger, text: str) -> list[str]:
    return [row["id"].removeprefix("standard-") for row in (await Search(ledger, SETTINGS).find(text)).rows]


@pytest.mark.parametrize(
    "text", ["lovelace", "Lovelace", "LOVELACE, ada", "Ada Lovelace", " ada  lovelace ", "Adá", "Ada-Lovelace"]
)
async def test_a_visit_is_found_by_words_of_the_name(ledger: Ledger, text: str) -> None:
    await book(ledger, "1", "Ada Lovelace")
    await book(ledger, "2", "Grace Hopper")

    assert ["1"] == await ids(ledger, text)


@pytest.mark.parametrize(
    ("name", "text"), [("José Muñoz", "munoz"), ("Юлия Ким", "ким"), ("Łukasz Ångström", "angstrom")]
)
async def test_accents_and_scripts_do_not_matter(ledger: Ledger, name: str, text: str) -> None:
    await book(ledger, "1", name)

    assert ["1"] == await ids(ledger, text)


@pytest.mark.parametrize("text", ["Ada Hopper", "love", "a", "example"])
async def test_all_words_must_match_as_a_whole(ledger: Ledger, text: str) -> None:
    await book(ledger, "1", "Ada Lovelace", contact=Contact(email="ada@example.com"))
    await book(ledger, "2", "Grace Hopper")

    assert [] == await ids(ledger, text)


async def test_the_visit_nearest_to_now_is_the_first_hit(ledger: Ledger) -> None:
    now = datetime.now(UTC)
    for visit, days in (("next-month", 30), ("tomorrow", 1), ("last-week", -7)):
        await book(ledger, visit, "Ada Lovelace", time_scheduled=now + timedelta(days))
    await book(ledger, "without-a-time", "Ada Lovelace", time_scheduled=UNSET)

    assert ["tomorrow", "last-week", "next-month", "without-a-time"] == await ids(ledger, "lovelace")


async def test_redis_has_only_keyed_digests_of_a_name(ledger: Ledger, redis: Redis) -> None:
    await book(ledger, "1", "Ada Lovelace")

    stored = [key.lower() for key in await redis.command("KEYS", "*")]
    for key in await redis.command("KEYS", "bell:index:contacts:*"):
        stored += [entry.lower() for entry in await redis.command("LRANGE", key, 0, -1)]
    assert 2 == len([entry for entry in stored if entry.endswith(b"main/standard-1") and b":visit:" not in entry])
    assert [] == [entry for entry in stored if b"ada" in entry or b"lovelace" in entry]
    assert [] == await search_index.lookup_name(redis, "Ada", ["another key"])


async def test_names_are_found_with_an_older_key_too(ledger: Ledger) -> None:
    await book(ledger, "1", "Ada Lovelace")
    rotated = read_environment(ENVIRONMENT | {"SECRET_KEY": f"newer-key-of-the-tests-4567 {KEY}"})

    assert ["standard-1"] == [row["id"] for row in (await Search(ledger, rotated).find("Ada")).rows]


@pytest.mark.parametrize("text", ["10", "1042", "standard-10", "STANDARD-1", "standard"])
async def test_visits_are_found_by_the_beginning_of_an_id(ledger: Ledger, text: str) -> None:
    await book(ledger, "1042-a")
    await book(ledger, "1042-b", time_scheduled=NOON + timedelta(days=40))
    await book(ledger, "x-1042")

    expected = {"1042-a", "1042-b"} | ({"x-1042"} if text == "standard" else set())
    assert expected == set(await ids(ledger, text))


async def test_a_whole_id_wins_over_beginnings(ledger: Ledger) -> None:
    await book(ledger, "10")
    await book(ledger, "100")

    assert ["10"] == await ids(ledger, "10")


async def test_deliveries_are_found_by_the_beginning_of_an_id(ledger: Ledger) -> None:
    delivery = await book(ledger, "1")

    assert [delivery] == await ids(ledger, delivery[:12])
    assert delivery in await ids(ledger, delivery[:5])
    assert [] == await ids(ledger, f"{delivery[:12]}zz")


async def test_a_hit_has_title_time_tool_and_state(ledger: Ledger) -> None:
    await book(ledger, "1042", amount_collected=Decimal(80), date_cancelled=NOON)
    remote = {visit_task("1042"): {"id": 15, "time_scheduled": "2031-03-14T12:00:00Z"}}
    await ledger.complete(await start_run(ledger, "1042"), done(start="2031-03-14T12:00", remote=remote))
    unapplied = await book(ledger, "1043")

    visit, other = (await Search(ledger, SETTINGS).find("104")).rows
    [delivery] = (await Search(ledger, SETTINGS).find(unapplied)).rows

    assert visit == {
        "kind": "visit",
        "id": "standard-1042",
        "title": "Visit #15",
        "at": "2031-03-14T12:00:00Z",
        "cancelled": True,
        "source": "standard",
        "state": "done",
        "amount_collected": "80.00",
        "currency": None,
        "account": "main",
    }
    assert ("Visit, not in Review Rover", "queued") == (other["title"], other["state"])
    assert ("delivery", "standard", "queued") == (delivery["kind"], delivery["source"], delivery["state"])


async def test_there_is_a_limit_of_hits(ledger: Ledger) -> None:
    await accept(ledger, *(change(f"many-{number}", time_scheduled=NOON) for number in range(MAX_HITS + 5)))

    assert MAX_HITS == len(await ids(ledger, "many"))


async def test_an_empty_result_says_what_was_searched(ledger: Ledger) -> None:
    with_key = await Search(ledger, SETTINGS).find("nothing of that kind")
    without_key = await Search(ledger, read_environment(ENVIRONMENT)).find("nothing")

    assert [] == with_key.rows
    assert "e-mail address, phone number or name" in with_key.searched[-1]
    assert "no customers: SECRET_KEY is not set" == without_key.searched[-1]
