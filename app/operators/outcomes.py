"""Outcomes of replays and discards in plain words."""

from app.ledger.reasons import REASONS, find_reason
from app.operators.operations import FAILED

#: What became of a task of an operation, except failures.
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


def skip_title(skip_reason: str) -> str:
    """Return why a task is skipped: a key of _SKIP_TITLES, a reason of a task, or a sentence."""
    if skip_reason.partition(":")[0] in REASONS:
        return find_reason(skip_reason).title
    return _SKIP_TITLES.get(skip_reason, skip_reason)
