"""What came of it: the ledger, the API's visits and the journal of every call, against what was rung."""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.ledger.redis import Redis, RedisAddress
from tests.crash.scenarios import FIELDS, SOME_TIME, Scenario

#: The states of work that is not at rest, as the ledger's sorted sets.
OPEN_SETS = ("bell:queued", "bell:running", "bell:waiting", "bell:held:main", "bell:parked")


class UnfinishedTask(NamedTuple):
    """A delivery, and the work in which not all of it was applied or superseded."""

    delivery: str
    task: str
    state: str

    def __str__(self) -> str:
        return f"{self.delivery}: {self.task} is {self.state}"


@dataclass
class Breaches:
    """Each is a sentence. lost: deliveries that were answered 202 and came to nothing."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.wrong]


async def open_tasks(url: str) -> dict[str, str]:
    """What is not at rest, and its state."""
    redis, found = Redis(RedisAddress(url)), {}
    try:
        for key in OPEN_SETS:
            found |= {work.decode(): key for work in await redis.command("ZRANGE", key, 0, -1)}
    finally:
        await redis.close()
    return found


async def missing_deliveries(url: str, deliveries: Iterable[str]) -> set[str]:
    """The deliveries that the ledger has no record of."""
    redis = Redis(RedisAddress(url))
    try:
        return {id for id in deliveries if not await redis.command("EXISTS", f"bell:delivery:{id}")}
    finally:
        await redis.close()


async def unfinished_tasks(url: str, deliveries: Iterable[str]) -> list[UnfinishedTask]:
    """The deliveries of which the ledger does not say that all of it was applied or superseded."""
    redis, found = Redis(RedisAddress(url)), []
    ledger = Ledger(redis, retention_days=30)
    try:
        for id in deliveries:
            try:
                meta, _ = await ledger.load_delivery(id)
                works = [await ledger.load_task(work) for work in meta.task_ids]
                visits = [await ledger.load_task(name) for work in works for name in work.targets]
            except NotFound as gone:
                found.append(UnfinishedTask(id, str(gone), "not known"))
                continue
            for work in (*works, *visits):
                told = work.task_id.startswith("event:") or any(origin.startswith(f"{id}.") for origin in work.changes)
                if work.state != "done" or work.applied_count != work.change_count or not told:
                    found.append(
                        UnfinishedTask(
                            id, work.task_id, f"{work.state}, {work.applied_count} of {work.change_count} changes seen"
                        )
                    )
    finally:
        await redis.close()
    return found


def visits_of(file: Path) -> list[dict[str, Any]]:
    """The API's visits, with their customer's address, from its own file."""
    asked = "SELECT visits.*, contacts.email FROM visits LEFT JOIN contacts ON contacts.id = visits.contact_id"
    with closing(sqlite3.connect(file)) as store:
        store.row_factory = sqlite3.Row
        return [dict(row) for row in store.execute(asked)]


def contacts_of(file: Path) -> Counter[str]:
    """How many contacts each address has."""
    with closing(sqlite3.connect(file)) as store:
        return Counter(dict(store.execute("SELECT email, count(*) FROM contacts GROUP BY 1")))


def duplicated_visits(journal: Iterable[dict[str, Any]]) -> list[str]:
    """The ids under which a visit was made while one stood, at any time."""
    standing: Counter[str] = Counter()
    found = []
    for call in journal:
        if not call["committed"]:
            continue
        if call["route"] == "POST /visits":
            standing[call["external_id"]] += 1
            if standing[call["external_id"]] > 1:
                found.append(f"{call['external_id']} was made twice, in call {call['number']} at {call['at']}")
        elif call["route"] == "DELETE /visits/:id":
            standing[call["external_id"]] -= 1
    return found


def compare(
    scenarios: Iterable[Scenario], visits: list[dict[str, Any]], uncertain: frozenset[str]
) -> tuple[list[str], list[str]]:
    """What is there twice, and what is not as it was said. uncertain: scenarios of which a delivery may have been lost: any
    value that was once said will do, and any of the visit's names, since the link between them may be what was lost."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for visit in visits:
        by_name.setdefault(visit["external_id"], []).append(visit)
    doubled = [f"{name}: {len(found)} visits" for name, found in by_name.items() if len(found) > 1]
    told = {scenario.external_id: scenario for scenario in scenarios}
    excused = {name for scenario in told.values() if scenario.external_id in uncertain for name in scenario.aliases}
    wrong = [f"{name}: it should not be there" for name in by_name.keys() - told.keys() - excused]
    for name, scenario in told.items():
        wrong += _differences(scenario, by_name.get(name, [None])[0], name in uncertain)
    return doubled, wrong


def _differences(scenario: Scenario, visit: dict[str, Any] | None, is_uncertain: bool) -> list[str]:
    name, stands = scenario.external_id, scenario.expected_fields()
    if visit is None:
        # What was off before anybody made it is not made.
        return [] if is_uncertain or stands.get("date_cancelled") else [f"{name}: there is no such visit"]
    # Whose visit it is, is not put right any more while it is off.
    fields = FIELDS if stands.get("date_cancelled") else (*FIELDS, "email")
    return [
        f"{name}: {field} is {visit[field]}, not {stands.get(field)}"
        for field in fields
        if not _fits(scenario, field, visit[field], is_uncertain)
    ]


def _fits(scenario: Scenario, field: str, value: str | None, is_uncertain: bool) -> bool:
    allowed = scenario.possible_values(field) if is_uncertain else {scenario.expected_fields().get(field)}
    return value in allowed or (SOME_TIME in allowed and value is not None)
