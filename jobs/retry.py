"""After trouble: try again in so many seconds, never, or nobody tries for a while. Pure: chance and clock are arguments."""

from dataclasses import dataclass

from app.ledger.records import Verdict
from app.visits.client import Broken, RateLimited, Refused, Unanswered, Unauthorized, Unreachable, VisitsApiTrouble

#: While a write may still be under way, nothing else is done to the visit: twice made, or an old value that arrives after
#: the new one, is worse than late. Whatever RETRY_CAP_S says.
SETTLING_S = 5.0
#: Without a Retry-After.
RATE_LIMITED_S = 15.0
#: How long nobody tries at most: an API that is back is noticed within this. The first pauses are shorter (ledger.lua).
PAUSE_CAP_S = 30.0
#: So many different visits must fail for the first time, while hardly any succeed, before everybody waits.
ENOUGH = 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """Waits of RETRY_FIRST_S, doubling up to RETRY_CAP_S, for RETRY_FOR_S in all; each is a chance share of its length."""

    first_s: float
    cap_s: float
    for_s: float

    def wait_s(self, tries: int, chance: float) -> float:
        """tries: made so far, from 1. chance: 0 to 1; full jitter, so that a crowd does not come back as one."""
        return chance * min(self.cap_s, self.first_s * 2.0 ** min(tries - 1, 40))

    def is_over(self, failing_for_s: float) -> bool:
        return failing_for_s >= self.for_s


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes after a failed run.

    due_s: seconds until the next try; None: an operator's turn. tries: how many count so far. verdict: what everybody
    learns from it.
    """

    due_s: float | None
    tries: int
    reason: str
    verdict: Verdict | None = None
    held: bool = False


def may_be_under_way(trouble: VisitsApiTrouble) -> bool:
    """A write without an answer, or with one that only a proxy gave."""
    is_silent = isinstance(trouble, Unanswered) or trouble.status in (408, 502, 504)
    return is_silent and not trouble.call.startswith("GET")


def decide(trouble: VisitsApiTrouble, schedule: Schedule, tries: int, failing_for_s: float, chance: float) -> Decision:
    """What the trouble with one call means for this visit, and for all.

    tries: how many failed before this one. failing_for_s: since the first of them.
    """
    reason = str(trouble)
    if isinstance(trouble, Refused):
        return Decision(None, tries + 1, reason, Verdict(why="ok"))
    if isinstance(trouble, Unauthorized):
        return Decision(
            0, tries, reason, Verdict(why="unauthorized", wait_s=PAUSE_CAP_S * (0.5 + chance / 2)), held=True
        )
    if isinstance(trouble, RateLimited):
        wait_s = RATE_LIMITED_S * (0.5 + chance / 2) if trouble.wait_s is None else trouble.wait_s
        return Decision(0, tries, reason, Verdict(why="rate_limited", wait_s=wait_s), held=True)
    assert isinstance(trouble, Broken | Unreachable | Unanswered)
    if schedule.is_over(failing_for_s):
        return Decision(None, tries + 1, reason)
    due_s = max(schedule.wait_s(tries + 1, chance), trouble.wait_s or 0.0)
    if may_be_under_way(trouble):
        due_s = max(due_s, SETTLING_S)
    pause_s = min(PAUSE_CAP_S, schedule.cap_s)
    return Decision(due_s, tries + 1, reason, Verdict(why="down", wait_s=pause_s, enough=ENOUGH))


#: Reasons that are one word; of others only the kind is counted.
_WORDS = {"", "bug", "busy", "rate", "redis_down", "token_missing", "contact_unknown", "time_unknown"}
_WORDS |= {"untranslatable", "credentials_missing", "credentials_refused"}
_WORDS |= {"too_many_changes", "too_many_payments", "too_many_reschedules", "crashed_repeatedly", "several_people"}
_KINDS = {"unreachable": "network", "unanswered": "timeout", "429": "rate_limited", "401": "unauthorized"}
_KINDS |= {"403": "unauthorized"}


def why(reason: str) -> str:
    """The kind of a reason, of which there are few: `POST /visits: 422` is `http_4xx`."""
    word, said = reason.partition(":")[0], reason.rpartition(": ")[2]
    if word in _WORDS:
        return word or "none"
    if said in _KINDS:
        return _KINDS[said]
    return f"http_{said[0]}xx" if len(said) == 3 and said.isdecimal() else "other"
