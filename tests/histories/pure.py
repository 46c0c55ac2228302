"""Runs a history through the pure functions: parse, translate, merge. A record is fetched some time after its event."""

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
from tests.histories import SOME_TIME, ToolModel, Visit, Webhook
from tests.histories.run import create_model, histories_settings, record_keys

HOOKS = histories_settings("redis://127.0.0.1", "http://127.0.0.1", "http://127.0.0.1").active_hooks
ORDERS = 4
Changes = list[tuple[str, VisitChange]]


def problems(source: str, seed: int, ties: bool = False) -> list[str]:
    """Return the errors in the visits of a seed's history; with ties, only the effects of the order of arrival."""
    model, steps = create_model(source, seed, ties)
    changes = [*_changes(HOOKS[source], model, steps, Random(f"{source} {seed} pure"))]
    rng = Random(seed)
    results = [merged_visits(source, changes)]
    for _ in range(ORDERS):
        arrived = changes + rng.choices(changes, k=3) if changes else []
        rng.shuffle(arrived)
        results.append(merged_visits(source, arrived))
    errors = [f"another order, another visit: {result} {results[0]}" for result in results if result != results[0]]
    expected = {external_id(source, visit.id): visit for visit in model.visits}
    if not ties:
        errors += [f"{id} is unexpected" for id in results[0].keys() - expected.keys() if _is_created(results[0][id])]
        errors += itertools.chain.from_iterable(_compare(visit, results[0].get(id)) for id, visit in expected.items())
    return [f"{source} {seed}: {error}" for error in errors]


def _changes(hook: Hook, model: ToolModel, steps: int, rng: Random) -> Iterator[tuple[str, VisitChange]]:
    """Yield all changes with their origins. A fetch happens at any time after its event, sometimes twice."""
    waiting: list[tuple[int, Webhook]] = []
    clock, number, is_redelivered = datetime(2026, 11, 1, tzinfo=UTC), 0, not model.announces_all
    listed: dict[str, list[str]] = {}
    while steps or waiting or is_redelivered:
        if not (steps or waiting):
            waiting, is_redelivered = [(number + n, webhook) for n, webhook in enumerate(model.emitted)], False
        elif steps and (not waiting or rng.random() < 0.6):
            steps -= 1
            for webhook in model.step():
                waiting += [(number, webhook)] * rng.choice((1, 1, 1, 2))
                number += 1
            continue
        if not waiting:
            continue
        origin, webhook = waiting.pop(rng.randrange(len(waiting)))
        clock += timedelta(microseconds=rng.randrange(1, 10**8))
        yield from (
            (f"d{origin}.{part}", change)
            for part, change in enumerate(_changes_of(hook, model, webhook, clock, listed))
        )


def _changes_of(
    hook: Hook, model: ToolModel, webhook: Webhook, clock: datetime, listed: dict[str, list[str]]
) -> list[VisitChange]:
    headers = tuple((name.encode(), value.encode()) for name, value in webhook.headers.items())
    event = parse_event(hook.source, Delivery(hook.name, hook.name, headers, webhook.body, clock), hook.settings.zone)
    source, changes = load_sources()[hook.name], list[VisitChange]()
    for request in (source.fetch(event) if source.fetch else []) or [None]:
        translated = source.translate(
            with_people(hook, _with_record(event, model, request, clock), listed) if request else event
        )
        changes += [] if isinstance(translated, Ignored) else translated
    return changes


def _with_record(event: Event, model: ToolModel, request: RecordRequest, clock: datetime) -> Event:
    """Return the event with its record and the related records."""

    def fetch(request: RecordRequest) -> Any:
        keys = [request.variables["id"]] if request.query else record_keys(request.path, request.params)
        return next((model.answer(key) for key in keys if model.owns(key)), None)

    record = fetch(request)
    follow_up = request.follow_up(Payload(record)) if record is not None else {}
    related = {name: fetch(related_request) for name, related_request in follow_up.items()}
    return event.with_record(record, clock, related, request.path)


def with_people(hook: Hook, event: Event, listed: dict[str, list[str]]) -> Event:
    """Add all people that were ever listed, as the ledger does."""
    if hook.source.people is None:
        return event
    visit_id, people = hook.source.people(event)
    all_people = listed.setdefault(visit_id, [])
    all_people += [person for person in people if person not in all_people]
    return replace(event, people=tuple(all_people))


def merged_visits(source: str, changes: Changes) -> dict[str, DesiredVisit]:
    """Merge the changes by the first id of each visit. The number of links is the alias depth."""
    previous_ids = {
        change.external_id(source): external_id(source, change.previous_visit_id)
        for _, change in changes
        if change.previous_visit_id
    }

    def ancestors(name: str) -> list[str]:
        return [name, *ancestors(previous_ids[name])] if name in previous_ids else [name]

    recorded: dict[str, list[RecordedChange]] = {}
    for origin, change in changes:
        *later, first = ancestors(change.external_id(source))
        recorded.setdefault(first, []).append(RecordedChange.decode(origin, encode_change(change), len(later)))
    return {first: desired_visit(merge_changes(of_visit)) for first, of_visit in recorded.items()}


def _is_created(desired: DesiredVisit) -> bool:
    """Return whether a visit is created: changes that only cancel it do not create one."""
    return desired.has_date and not desired.is_cancelled


def _compare(visit: Visit, desired: DesiredVisit | None) -> Iterator[str]:
    can_be_created = bool(desired and desired.has_date and (desired.contact.id or desired.contact.email))
    if visit.is_gone:
        if not desired or not desired.is_cancelled:
            yield f"{visit.id} is gone and yet wanted: {desired}"
        return
    if can_be_created != visit.can_be_created and not visit.is_off:
        yield f"{visit.id} can be made: {can_be_created}, and should: {visit.can_be_created}"
    if desired and (visit.can_be_created or not visit.is_off):
        yield from _fields(visit, desired)


def _fields(visit: Visit, desired: DesiredVisit) -> Iterator[str]:
    expected_fields: dict[str, Any] = visit.expected_fields()
    for name in expected_fields.keys() | desired.fields.keys():
        actual = desired.fields.get(name)
        if actual != expected_fields.get(name) and not (actual and expected_fields.get(name) == SOME_TIME):
            yield f"{visit.id}: {name} is {actual}, and should be {expected_fields.get(name)}"
    owner = visit.who and (visit.who.id or visit.who.email)
    if (desired.contact.id or desired.contact.email) != owner:
        yield f"{visit.id} is {desired.contact.id or desired.contact.email}'s, and should be {owner}'s"
