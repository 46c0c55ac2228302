"""A history through the part that computes: believe, translate, fold, wanted. No I/O, so there can be many; what is fetched
is the record of some moment after its event."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from app.settings.model import Hook
from app.visits.change import VisitChange, encode_change, external_id
from app.visits.merge import DesiredVisit, RecordedChange, desired_visit, merge_changes
from app.webhooks.delivery import Delivery, Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.source import Ignored
from app.webhooks.translation import parse_event
from tests.histories import SOME_TIME, Life, Ring, Visit
from tests.histories.run import life_of, named, settings_for

HOOKS = settings_for("redis://127.0.0.1", "http://127.0.0.1", "http://127.0.0.1").active_hooks
ORDERS = 4
Changes = list[tuple[str, VisitChange]]


def problems(source: str, seed: int, ties: bool = False) -> list[str]:
    """What is wrong with what a seed's history becomes; with ties, only whether the order of arrival matters."""
    life, steps = life_of(source, seed, ties)
    changes = [*_changes(HOOKS[source], life, steps, Random(f"{source} {seed} pure"))]
    dice = Random(seed)
    found = [_visits(source, changes)]
    for _ in range(ORDERS):
        arrived = changes + dice.choices(changes, k=3) if changes else []
        dice.shuffle(arrived)
        found.append(_visits(source, arrived))
    wrong = [f"another order, another visit: {one} {found[0]}" for one in found if one != found[0]]
    expected = {external_id(source, visit.id): visit for visit in life.visits}
    if not ties:
        wrong += [f"{id} is no visit" for id in found[0].keys() - expected.keys() if _is_made(found[0][id])]
        wrong += itertools.chain.from_iterable(_unlike(visit, found[0].get(id)) for id, visit in expected.items())
    return [f"{source} {seed}: {each}" for each in wrong]


def _changes(hook: Hook, life: Life, steps: int, dice: Random) -> Iterator[tuple[str, VisitChange]]:
    """All that is said, with who said it. A fetch comes at any time after its event, some twice."""
    waiting: list[tuple[int, Ring]] = []
    clock, number, rings_again = datetime(2026, 11, 1, tzinfo=UTC), 0, not life.tells_all
    listed: dict[str, list[str]] = {}
    while steps or waiting or rings_again:
        if not (steps or waiting):
            waiting, rings_again = [(number + again, ring) for again, ring in enumerate(life.rung)], False
        elif steps and (not waiting or dice.random() < 0.6):
            steps -= 1
            for ring in life.step():
                waiting += [(number, ring)] * dice.choice((1, 1, 1, 2))
                number += 1
            continue
        if not waiting:
            continue
        origin, ring = waiting.pop(dice.randrange(len(waiting)))
        clock += timedelta(microseconds=dice.randrange(1, 10**8))
        yield from ((f"d{origin}.{part}", each) for part, each in enumerate(_said(hook, life, ring, clock, listed)))


def _said(hook: Hook, life: Life, ring: Ring, clock: datetime, listed: dict[str, list[str]]) -> list[VisitChange]:
    headers = tuple((name.encode(), value.encode()) for name, value in ring.headers.items())
    event = parse_event(hook.source, Delivery(hook.name, hook.name, headers, ring.body, clock), hook.settings.zone)
    tool, said = load_sources()[hook.name], list[VisitChange]()
    for get in (tool.fetch(event) if tool.fetch else []) or [None]:
        meaning = tool.translate(with_people(hook, _looked(event, life, get, clock), listed) if get else event)
        said += [] if isinstance(meaning, Ignored) else meaning
    return said


def _looked(event: Event, life: Life, get: RecordRequest, clock: datetime) -> Event:
    """The event with its record, and with what else is fetched for that."""

    def answer(get: RecordRequest) -> Any:
        keys = [get.variables["id"]] if get.query else named(get.path, get.params)
        return next((life.answer(key) for key in keys if life.owns(key)), None)

    record = answer(get)
    others = get.follow_up(Payload(record)) if record is not None else {}
    return event.with_record(record, clock, {name: answer(other) for name, other in others.items()}, get.path)


def with_people(hook: Hook, event: Event, listed: dict[str, list[str]]) -> Event:
    """As the ledger remembers them."""
    if hook.source.people is None:
        return event
    visit_id, people = hook.source.people(event)
    everybody = listed.setdefault(visit_id, [])
    everybody += [person for person in people if person not in everybody]
    return replace(event, people=tuple(everybody))


def _visits(source: str, changes: Changes) -> dict[str, DesiredVisit]:
    """The visits by their first names. How often an id was renamed is counted along its links."""
    before = {
        change.external_id(source): external_id(source, change.previous_visit_id)
        for _, change in changes
        if change.previous_visit_id
    }

    def line(name: str) -> list[str]:
        return [name, *line(before[name])] if name in before else [name]

    said: dict[str, list[RecordedChange]] = {}
    for origin, change in changes:
        *later, first = line(change.external_id(source))
        said.setdefault(first, []).append(RecordedChange.decode(origin, encode_change(change), len(later)))
    return {first: desired_visit(merge_changes(those)) for first, those in said.items()}


def _is_made(want: DesiredVisit) -> bool:
    """Whatever only keeps something from being a visit is none."""
    return want.has_date and not want.is_cancelled


def _unlike(visit: Visit, want: DesiredVisit | None) -> Iterator[str]:
    can_be_made = bool(want and want.has_date and (want.contact.id or want.contact.email))
    if visit.is_gone:
        if not want or not want.is_cancelled:
            yield f"{visit.id} is gone and yet wanted: {want}"
        return
    if can_be_made != visit.can_be_made and not visit.is_off:
        yield f"{visit.id} can be made: {can_be_made}, and should: {visit.can_be_made}"
    if want and (visit.can_be_made or not visit.is_off):
        yield from _fields(visit, want)


def _fields(visit: Visit, want: DesiredVisit) -> Iterator[str]:
    shown: dict[str, Any] = visit.shown()
    for name in shown.keys() | want.fields.keys():
        is_said = want.fields.get(name)
        if is_said != shown.get(name) and not (is_said and shown.get(name) == SOME_TIME):
            yield f"{visit.id}: {name} is {is_said}, and should be {shown.get(name)}"
    whose = visit.who and (visit.who.id or visit.who.email)
    if (want.contact.id or want.contact.email) != whose:
        yield f"{visit.id} is {want.contact.id or want.contact.email}'s, and should be {whose}'s"
