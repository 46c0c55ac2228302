"""After trouble: try again in so many seconds, never, or nobody tries for a while. Pure: chance and clock are arguments."""

from dataclasses import dataclass

from app.ledger.reasons import REASONS
from app.ledger.records import CircuitSignal
from app.visits.client import Broken, RateLimited, Refused, Unanswered, Unauthorized, Unreachable, VisitsApiTrouble

#: While a write may still be under way, nothing else is done to the visit: twice made, or an old value that arrives after
#: the new one, is worse than late. Whatever RETRY_CAP_S says.
IN_FLIGHT_WAIT_S = 5.0
#: Without a Retry-After.
RATE_LIMIT_WAIT_S = 15.0
#: How long nobody tries at most: an API that is back is noticed within this. The first pauses are shorter (ledger.lua).
MAX_PAUSE_S = 30.0
#: So many different visits must fail for the first time, while hardly any succeed, before everybody waits.
CIRCUIT_THRESHOLD = 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """Waits of RETRY_FIRST_S, doubling up to RETRY_CAP_S, for RETRY_FOR_S in all; each is a chance share of its length."""

    first_s: float
    cap_s: float
    for_s: float

    def delay_s(self, failed_attempts: int, jitter: float) -> float:
        """tries: made so far, from 1. chance: 0 to 1; full jitter, so that a crowd does not come back as one."""
        return jitter * min(self.cap_s, self.first_s * 2.0 ** min(failed_attempts - 1, 40))

    def is_over(self, failing_for_s: float) -> bool:
        return failing_for_s >= self.for_s


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes after a failed run.

    due_s: seconds until the next try; None: an operator's turn. tries: how many count so far. verdict: what everybody
    learns from it.
    """

    retry_in_s: float | None
    failed_attempts: int
    reason: str
    circuit_signal: CircuitSignal | None = None
    opens_circuit: bool = False


def outcome_is_unknown(error: VisitsApiTrouble) -> bool:
    """A write without an answer, or with one that only a proxy gave."""
    is_silent = isinstance(error, Unanswered) or error.status in (408, 502, 504)
    return is_silent and not error.call.startswith("GET")


def decide(
    error: VisitsApiTrouble, schedule: Schedule, failed_attempts: int, failing_for_s: float, jitter: float
) -> Decision:
    """What the trouble with one call means for this visit, and for all.

    tries: how many failed before this one. failing_for_s: since the first of them.
    """
    reason = str(error)
    if isinstance(error, Refused):
        return Decision(None, failed_attempts + 1, reason, CircuitSignal(kind="ok"))
    if isinstance(error, Unauthorized):
        return Decision(
            0,
            failed_attempts,
            reason,
            CircuitSignal(kind="unauthorized", pause_s=MAX_PAUSE_S * (0.5 + jitter / 2)),
            opens_circuit=True,
        )
    if isinstance(error, RateLimited):
        wait_s = RATE_LIMIT_WAIT_S * (0.5 + jitter / 2) if error.wait_s is None else error.wait_s
        return Decision(
            0, failed_attempts, reason, CircuitSignal(kind="rate_limited", pause_s=wait_s), opens_circuit=True
        )
    assert isinstance(error, Broken | Unreachable | Unanswered)
    if schedule.is_over(failing_for_s):
        return Decision(None, failed_attempts + 1, reason)
    retry_in_s = max(schedule.delay_s(failed_attempts + 1, jitter), error.wait_s or 0.0)
    if outcome_is_unknown(error):
        retry_in_s = max(retry_in_s, IN_FLIGHT_WAIT_S)
    pause_s = min(MAX_PAUSE_S, schedule.cap_s)
    return Decision(
        retry_in_s,
        failed_attempts + 1,
        reason,
        CircuitSignal(kind="down", pause_s=pause_s, threshold=CIRCUIT_THRESHOLD),
    )


_REASON_CLASSES = {"unreachable": "network", "unanswered": "timeout", "429": "rate_limited", "401": "unauthorized"}
_REASON_CLASSES |= {"403": "unauthorized"}


def reason_class(reason: str) -> str:
    """The kind of a reason, of which there are few: `POST /visits: 422` is `http_4xx`."""
    name, status = reason.partition(":")[0], reason.rpartition(": ")[2]
    if not reason:
        return "none"
    if name in REASONS:
        return name
    if status in _REASON_CLASSES:
        return _REASON_CLASSES[status]
    return f"http_{status[0]}xx" if len(status) == 3 and status.isdecimal() else "other"
