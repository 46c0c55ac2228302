"""Decides what follows a failed call: another attempt after a delay, an operator, or an open circuit. Pure."""

from dataclasses import dataclass, replace

from app.ledger.reasons import REASONS
from app.ledger.records import CircuitSignal
from app.visits.client import (
    ClientError,
    ConnectionFailed,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    Unauthorized,
    VisitsApiError,
)

#: While a write may still be in progress, no run of the visit begins (lease.lua): a second visit, or an old value that
#: arrives after the new one, is worse than a delay. Applies even if RETRY_CAP_S is shorter.
IN_FLIGHT_WAIT_S = 5.0
#: Pause after a 429 without Retry-After.
RATE_LIMIT_WAIT_S = 15.0
#: The longest pause of a circuit except after a 429, so that a recovered API is noticed within it. lib/circuit.lua shortens
#: the first pauses while the API is down.
MAX_PAUSE_S = 30.0
#: The circuit opens when this many different visits fail for the first time, and hardly any succeed.
CIRCUIT_THRESHOLD = 3
#: The time after which rejected credentials of a tool are tried again.
CREDENTIALS_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The settings RETRY_FIRST_S, RETRY_CAP_S and RETRY_FOR_S."""

    first_s: float
    cap_s: float
    for_s: float

    def delay_s(self, failed_attempts: int, jitter: float) -> float:
        """Return the delay, which doubles with each failed attempt up to the cap.

        failed_attempts: from 1. jitter: 0 to 1; full jitter, so that many tasks do not retry at the same time.
        """
        return jitter * min(self.cap_s, self.first_s * 2.0 ** min(failed_attempts - 1, 40))

    def is_over(self, failing_for_s: float) -> bool:
        return failing_for_s >= self.for_s


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows a failed call.

    retry_in_s: None parks the task for an operator. failed_attempts: including this one, if it counts; None without
    failures. is_held: the task is held until the circuit closes; retry_in_s is not used. in_flight_s: how long the failed
    call may still take effect.
    """

    retry_in_s: float | None
    failed_attempts: int | None
    reason: str
    circuit_signal: CircuitSignal | None = None
    is_held: bool = False
    in_flight_s: float = 0


def outcome_is_unknown(error: VisitsApiError) -> bool:
    """Whether a write had no response, or one that may come from a proxy."""
    has_no_response = isinstance(error, OutcomeUnknown) or error.status in (408, 502, 504)
    return has_no_response and not error.call.startswith("GET")


def decide(
    error: VisitsApiError, schedule: Schedule, failed_attempts: int, failing_for_s: float, jitter: float
) -> Decision:
    """Decide after a failed call to the Visits API.

    failed_attempts: before this one. failing_for_s: since the first of them. jitter: 0 to 1, random.
    """
    reason = str(error)
    match error:
        case ClientError():
            return Decision(None, failed_attempts + 1, reason, CircuitSignal(kind="ok"))
        case Unauthorized():
            signal = CircuitSignal(kind="unauthorized", pause_s=MAX_PAUSE_S * (0.5 + jitter / 2))
            return Decision(0, failed_attempts, reason, signal, is_held=True)
        case RateLimited():
            wait_s = RATE_LIMIT_WAIT_S * (0.5 + jitter / 2) if error.wait_s is None else error.wait_s
            signal = CircuitSignal(kind="rate_limited", pause_s=wait_s)
            return Decision(0, failed_attempts, reason, signal, is_held=True)
    assert isinstance(error, ServerError | ConnectionFailed | OutcomeUnknown)
    in_flight_s = IN_FLIGHT_WAIT_S if outcome_is_unknown(error) else 0
    if schedule.is_over(failing_for_s):
        return Decision(None, failed_attempts + 1, reason, in_flight_s=in_flight_s)
    # A Retry-After cannot exceed RETRY_CAP_S, or the retries would not be spread over RETRY_FOR_S.
    retry_after_s = min(error.wait_s or 0.0, schedule.cap_s)
    retry_in_s = max(schedule.delay_s(failed_attempts + 1, jitter), retry_after_s, in_flight_s)
    signal = CircuitSignal(kind="down", pause_s=min(MAX_PAUSE_S, schedule.cap_s), threshold=CIRCUIT_THRESHOLD)
    return Decision(retry_in_s, failed_attempts + 1, reason, signal, in_flight_s=in_flight_s)


def decide_fetch(
    error: VisitsApiError, schedule: Schedule, failed_attempts: int, failing_for_s: float, jitter: float
) -> Decision:
    """Decide after a failed call to a tool's API. There is no circuit: every event is retried by itself."""
    match error:
        case Unauthorized() if schedule.is_over(failing_for_s):
            return Decision(None, failed_attempts + 1, "credentials_rejected")
        case Unauthorized():
            retry_in_s = CREDENTIALS_RETRY_S * (0.5 + jitter / 2)
            return Decision(retry_in_s, failed_attempts, "credentials_rejected")
        case RateLimited():
            attempts = failed_attempts if failing_for_s else None
            return Decision((error.wait_s or RATE_LIMIT_WAIT_S) + jitter, attempts, str(error))
    return replace(decide(error, schedule, failed_attempts, failing_for_s, jitter), circuit_signal=None, in_flight_s=0)


_STATUS_CLASSES = {
    "connection_failed": "network",
    "outcome_unknown": "timeout",
    "429": "rate_limited",
    "401": "unauthorized",
    "403": "unauthorized",
}


def reason_class(reason: str) -> str:
    """Return the label of a reason for metrics: `POST /visits: 422` is `http_4xx`."""
    name, status = reason.partition(":")[0], reason.rpartition(": ")[2]
    if not reason:
        return "none"
    if name in REASONS:
        return name
    if status in _STATUS_CLASSES:
        return _STATUS_CLASSES[status]
    return f"http_{status[0]}xx" if len(status) == 3 and status.isdecimal() else "other"
