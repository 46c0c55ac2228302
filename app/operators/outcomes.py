"""Plans and outcomes of replays and discards in plain words."""

from collections.abc import Iterator
from typing import NamedTuple

from app.ledger.reasons import REASONS, find_reason
from app.operators.operations import FAILED, OperationKind
from app.operators.replay import PlanSummary

#: The outcomes of a task of an operation, except failures.
OUTCOMES = {
    "succeeded": "Succeeded",
    "pending": "Pending",
    "discarded": "Discarded",
    "replayed": "Replayed again later",
}
#: Why a task is skipped, by skip_reason.
_SKIP_TITLES = {
    "applied": "already applied",
    "superseded": "newer changes decide every field",
    "unchanged": "the translation is the same as before",
    "discarded": "discarded before",
    "expired": "expired",
    "queued": "queued already",
    "running": "running now",
    "unknown": "no such visit or delivery",
    "nothing_to_discard": "nothing to discard",
    "changed_since_plan": "changed since the plan",
    "record_not_fetchable": "it has no record that could be fetched",
}


def outcome_title(outcome: str) -> str:
    if outcome.startswith(FAILED):
        return f"Failed again: {find_reason(outcome.removeprefix(FAILED)).title}"
    return OUTCOMES.get(outcome, outcome)


#: What a call to the Visits API does.
_CALL_TITLES = {
    "POST /visits": "create the visit",
    "PUT /visits/:id": "update the visit",
    "DELETE /visits/:id": "delete the visit",
    "GET /visits/:id, then the fields that differ": "read the visit, then send the fields that differ",
    "GET /visits/:id: none should exist": "check that Review Rover does not have the visit",
    "DELETE and POST /visits: another contact": "delete the visit, and create it for the other customer",
    "GET /contacts, then the fields that differ": "look up the customer, then send the fields that differ",
}


def call_title(call: str) -> str:
    return _CALL_TITLES.get(call, call)


def skip_title(skip_reason: str) -> str:
    """Return why a task is skipped: a key of _SKIP_TITLES, a reason of a task, or a sentence."""
    if skip_reason.partition(":")[0] in REASONS:
        return find_reason(skip_reason).title
    return _SKIP_TITLES.get(skip_reason, skip_reason)


class PlanCount(NamedTuple):
    """The number of tasks with the same expected outcome. tone: `good`, `bad` or `off`."""

    number: int
    text: str
    tone: str


def plan_counts(summary: PlanSummary, kind: OperationKind) -> list[PlanCount]:
    """Return what an operation would do, by outcome."""
    return [count for count in _plan_counts(summary, kind) if count.number]


def _plan_counts(summary: PlanSummary, kind: OperationKind) -> Iterator[PlanCount]:
    if kind == "discard":
        yield PlanCount(summary.actionable, "would be discarded", "off")
    else:
        yield PlanCount(summary.sent - summary.rejected, "would be sent to Review Rover", "good")
        yield PlanCount(summary.rejected, "would be sent to Review Rover, with values that it rejected before", "off")
        yield PlanCount(summary.fetched, "would be fetched again from the tool", "good")
        for (reason, is_same), count in summary.obstacles.most_common():
            way = "would fail the same way" if is_same else "would fail"
            yield PlanCount(count, f"{way}: {find_reason(reason).title}", "bad")
        yield PlanCount(summary.idle, "would send nothing: Review Rover is up to date", "off")
    for skip_reason, count in summary.skipped.most_common():
        yield PlanCount(count, f"would be skipped: {skip_title(skip_reason)}", "off")
