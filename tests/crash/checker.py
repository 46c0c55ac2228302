"""Compares the ledger, the API's visits and the journal of all calls with the webhooks that were sent."""

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

#: The sorted sets of tasks that are not done.
OPEN_SETS = (
    "bell:state:queued",
    "bell:state:running",
    "bell:state:waiting",
    "bell:state:held:main",
    "bell:state:parked",
)


class UnfinishedTask(NamedTuple):
    """A delivery, and a task in which some of its changes were neither applied nor superseded."""

    delivery: str
    task: str
    state: str

    def __str__(self) -> str:
        return f"{self.delivery}: {self.task} is {self.state}"


@dataclass
class Breaches:
    """Sentences about broken promises. lost: deliveries with a 202 response that had no effect."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.wrong]


async def open_tasks(url: str) -> dict[str, str]:
    """Return the tasks that are not done, with the key of their set."""
    redis, tasks = Redis(RedisAddress(url)), {}
    try:
        for key in OPEN_SETS:
            tasks |= {task.decode(): key for task in await redis.command("ZRANGE", key, 0, -1)}
    finally:
        await redis.close()
    return tasks


async def missing_deliveries(url: str, deliveries: Iterable[str]) -> set[str]:
    """Return the deliveries that are not in the ledger."""
    redis = Redis(RedisAddress(url))
    try:
        infos = zip(ids := [*deliveries], await Ledger(redis, 30).load_delivery_infos(ids), strict=True)
        return {id for id, info in infos if info is None}
    finally:
        await redis.close()


async def unfinished_tasks(url: str, deliveries: Iterable[str]) -> list[UnfinishedTask]:
    """Return the tasks of these deliveries that are not done, or do not have their changes."""
    redis, unfinished = Redis(RedisAddress(url)), []
    ledger = Ledger(redis, retention_days=30)
    try:
        for id in deliveries:
            try:
                meta, _ = await ledger.load_delivery(id)
                tasks = [await ledger.load_task(task_id) for task_id in meta.task_ids]
                visits = [await ledger.load_task(task_id) for task in tasks for task_id in task.targets]
            except NotFound as error:
                unfinished.append(UnfinishedTask(id, str(error), "not found"))
                continue
            for task in (*tasks, *visits):
                has_changes = any(origin.startswith(f"{id}.") for origin in task.changes)
                if (
                    task.state != "done"
                    or task.applied_count != task.change_count
                    or not (has_changes or task.task_id.startswith("event:"))
                ):
                    state = f"{task.state}, {task.applied_count} of {task.change_count} changes applied"
                    unfinished.append(UnfinishedTask(id, task.task_id, state))
    finally:
        await redis.close()
    return unfinished


def visits_of(file: Path) -> list[dict[str, Any]]:
    """Return the visits in the sandbox's file, with the e-mail addresses of their contacts."""
    query = "SELECT visits.*, contacts.email FROM visits LEFT JOIN contacts ON contacts.id = visits.contact_id"
    with closing(sqlite3.connect(file)) as store:
        store.row_factory = sqlite3.Row
        return [dict(row) for row in store.execute(query)]


def contacts_of(file: Path) -> Counter[str]:
    """Return the number of contacts with each address."""
    with closing(sqlite3.connect(file)) as store:
        return Counter(dict(store.execute("SELECT email, count(*) FROM contacts GROUP BY 1")))


def duplicated_visits(journal: Iterable[dict[str, Any]]) -> list[str]:
    """Return a sentence for each visit that was created while another one had its external_id."""
    existing: Counter[str] = Counter()
    duplicates = []
    for call in journal:
        if not call["committed"]:
            continue
        if call["route"] == "POST /visits":
            existing[call["external_id"]] += 1
            if existing[call["external_id"]] > 1:
                duplicates.append(f"{call['external_id']} was created twice, in call {call['number']} at {call['at']}")
        elif call["route"] == "DELETE /visits/:id":
            existing[call["external_id"]] -= 1
    return duplicates


def compare(
    scenarios: Iterable[Scenario], visits: list[dict[str, Any]], uncertain: frozenset[str]
) -> tuple[list[str], list[str]]:
    """Return sentences about duplicate visits and about wrong ones.

    uncertain: scenarios of which a delivery may be lost. Their visits may have any value that an event contained, and any
    of their ids, because the lost delivery may have linked the ids.
    """
    by_id: dict[str, list[dict[str, Any]]] = {}
    for visit in visits:
        by_id.setdefault(visit["external_id"], []).append(visit)
    duplicates = [f"{id}: {len(group)} visits" for id, group in by_id.items() if len(group) > 1]
    expected = {scenario.external_id: scenario for scenario in scenarios}
    excused = {id for scenario in expected.values() if scenario.external_id in uncertain for id in scenario.aliases}
    wrong = [f"{id}: it should not exist" for id in by_id.keys() - expected.keys() - excused]
    for id, scenario in expected.items():
        wrong += _differences(scenario, by_id.get(id, [None])[0], id in uncertain)
    return duplicates, wrong


def _differences(scenario: Scenario, visit: dict[str, Any] | None, is_uncertain: bool) -> list[str]:
    id, expected = scenario.external_id, scenario.expected_fields()
    if visit is None:
        # A visit that is cancelled before it is created is never created.
        return [] if is_uncertain or expected.get("date_cancelled") else [f"{id}: there is no such visit"]
    # The contact of a cancelled visit is not updated.
    fields = FIELDS if expected.get("date_cancelled") else (*FIELDS, "email")
    return [
        f"{id}: {field} is {visit[field]}, not {expected.get(field)}"
        for field in fields
        if not _fits(scenario, field, visit[field], is_uncertain)
    ]


def _fits(scenario: Scenario, field: str, value: str | None, is_uncertain: bool) -> bool:
    allowed = scenario.possible_values(field) if is_uncertain else {scenario.expected_fields().get(field)}
    return value in allowed or (SOME_TIME in allowed and value is not None)
