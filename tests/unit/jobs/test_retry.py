"""Retries of failed calls. By default the delays double from 5 s to 1 h, for 3 days."""

from dataclasses import replace

import pytest

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
from jobs.retry import Decision, Schedule, decide, outcome_is_unknown, reason_class
from tests.support.cases import each

SCHEDULE = Schedule(first_s=5, cap_s=3_600, for_s=259_200)
CALL = "PUT /visits/:id"
TRANSIENT = [
    pytest.param(ServerError(CALL, 500), id="500"),
    pytest.param(ServerError(CALL, 503), id="503"),
    pytest.param(ServerError(CALL, 408), id="408"),
    pytest.param(ServerError(CALL, 425), id="425"),
    pytest.param(ConnectionFailed(CALL), id="unreachable"),
    pytest.param(OutcomeUnknown(CALL), id="no-response"),
    pytest.param(OutcomeUnknown(CALL, 200), id="unreadable"),
]


def after(error: VisitsApiError, failed_attempts: int = 0, failing_for_s: float = 0, jitter: float = 1.0) -> Decision:
    return decide(error, SCHEDULE, failed_attempts, failing_for_s, jitter)


@each(
    ("failed_attempts", "longest_s"),
    [
        (1, 5),
        (2, 10),
        (3, 20),
        (4, 40),
        (5, 80),
        (10, 2_560),  # 5 * 2 ** 9
        (11, 3_600),  # 5,120 is over the cap
        (12, 3_600),
        (100, 3_600),
        (100_000, 3_600),  # 2.0 ** 100_000 would overflow
    ],
)
def test_the_longest_delay_doubles_up_to_the_cap(failed_attempts: int, longest_s: float) -> None:
    assert longest_s == SCHEDULE.delay_s(failed_attempts, 1.0)


@each(("jitter", "delay_s"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_the_jitter_scales_the_longest_delay(jitter: float, delay_s: float) -> None:
    assert delay_s == SCHEDULE.delay_s(4, jitter)


@each("error", TRANSIENT)
@each(("failed_attempts", "due_s"), [(0, 5), (1, 10), (2, 20), (9, 2_560), (50, 3_600)])
def test_a_transient_error_is_retried_on_the_schedule(
    error: VisitsApiError, failed_attempts: int, due_s: float
) -> None:
    decision = after(error, failed_attempts)

    assert (due_s, failed_attempts + 1, False) == (
        decision.retry_in_s,
        decision.failed_attempts,
        decision.is_held,
    )


@each("error", TRANSIENT)
@each(
    ("failing_for_s", "is_retried"),
    [(0, True), (259_199, True), (259_200, False), (10**9, False)],
)
def test_a_transient_error_is_parked_after_three_days(
    error: VisitsApiError, failing_for_s: float, is_retried: bool
) -> None:
    decision = after(error, 80, failing_for_s)

    assert is_retried == (decision.retry_in_s is not None)
    assert (81, str(error)) == (decision.failed_attempts, decision.reason)


@each("error", TRANSIENT)
def test_a_transient_error_signals_a_possible_outage(error: VisitsApiError) -> None:
    signal = after(error).circuit_signal

    assert signal is not None
    assert ("down", 3) == (signal.kind, signal.threshold)


@each("error", TRANSIENT)
@each("jitter", [0.0, 0.5, 1.0])
@each("failed_attempts", [0, 3, 40])
def test_a_recovered_api_is_detected_within_half_a_minute(
    error: VisitsApiError, failed_attempts: int, jitter: float
) -> None:
    signal = after(error, failed_attempts, jitter=jitter).circuit_signal

    assert signal is not None
    assert 0 < signal.pause_s <= 30


def test_a_503_with_retry_after_is_retried_after_that_time() -> None:
    assert 120 == after(ServerError(CALL, 503, wait_s=120), jitter=0.0).retry_in_s


@each("jitter", [0.0, 1.0])
@each("retry_after_s", [3_601, 86_400])
def test_a_503_with_retry_after_is_retried_no_later_than_the_cap(retry_after_s: float, jitter: float) -> None:
    error = ServerError(CALL, 503, wait_s=retry_after_s)

    assert 3_600 == after(error, 11, jitter=jitter).retry_in_s


def test_a_503_with_a_short_retry_after_does_not_shorten_the_schedule() -> None:
    assert 40 == after(ServerError(CALL, 503, wait_s=1), failed_attempts=3).retry_in_s


@each("jitter", [0.0, 0.1, 0.9])
def test_a_write_without_a_response_is_retried_after_five_seconds_or_more(jitter: float) -> None:
    due_s = after(OutcomeUnknown("POST /visits"), jitter=jitter).retry_in_s

    assert due_s is not None
    assert due_s >= 5


@each("status", [401, 403])
@each("jitter", [0.0, 0.5, 1.0])
@each("failing_for_s", [0, 10**9])
def test_a_rejected_token_opens_the_circuit_and_counts_no_attempt(
    status: int, jitter: float, failing_for_s: float
) -> None:
    decision = after(Unauthorized(CALL, status), 4, failing_for_s, jitter)

    assert (True, 4, 0) == (decision.is_held, decision.failed_attempts, decision.retry_in_s)
    assert decision.circuit_signal is not None
    assert ("unauthorized", 1) == (decision.circuit_signal.kind, decision.circuit_signal.threshold)
    assert 0 < decision.circuit_signal.pause_s <= 30


@each("retry_after_s", [0, 0.5, 7, 86_400])
@each("failing_for_s", [0, 10**9])
def test_a_429_opens_the_circuit_for_retry_after_and_counts_no_attempt(
    retry_after_s: float, failing_for_s: float
) -> None:
    decision = after(RateLimited(CALL, 429, wait_s=retry_after_s), 4, failing_for_s)

    assert (True, 4, 0) == (decision.is_held, decision.failed_attempts, decision.retry_in_s)
    assert decision.circuit_signal is not None
    assert ("rate_limited", retry_after_s, 1) == (
        decision.circuit_signal.kind,
        decision.circuit_signal.pause_s,
        decision.circuit_signal.threshold,
    )


@each("jitter", [0.0, 0.5, 1.0])
def test_a_429_without_retry_after_opens_the_circuit_for_some_seconds(jitter: float) -> None:
    signal = after(RateLimited(CALL, 429), jitter=jitter).circuit_signal

    assert signal is not None
    assert 1 <= signal.pause_s <= 60


@each("status", [400, 402, 404, 409, 410, 413, 418, 422, 451])
@each("failed_attempts", [0, 7])
def test_any_other_4xx_is_parked_at_once_with_its_status(status: int, failed_attempts: int) -> None:
    decision = after(ClientError(CALL, status, "who@example.com is not an address"), failed_attempts)

    # The API responded, so other visits may call it.
    assert Decision(None, failed_attempts + 1, f"PUT /visits/:id: {status}", CircuitSignal(kind="ok")) == decision


@each("error", [*TRANSIENT, pytest.param(RateLimited(CALL, 429), id="429")])
@each("jitter", [0.0, 1.0])
def test_no_delay_exceeds_the_configured_cap(error: VisitsApiError, jitter: float) -> None:
    decision = decide(error, replace(SCHEDULE, first_s=0.2, cap_s=1), 30, 0, jitter)

    assert decision.retry_in_s is not None
    is_unknown = isinstance(error, OutcomeUnknown) or error.status in (408, 502, 504)  # a write waits for at least 5 s
    assert decision.retry_in_s <= (5 if is_unknown else 1)


@each("error", TRANSIENT)
def test_the_reason_does_not_quote_the_response(error: VisitsApiError) -> None:
    error.response_text = "ada@example.com"

    assert "ada" not in after(error).reason


@each(
    ("reason", "expected"),
    [
        ("", "none"),
        ("POST /visits: 422", "http_4xx"),
        ("GET /visits/:id: 503", "http_5xx"),
        ("GET /visits/:id: 429", "rate_limited"),
        ("PUT /visits/:id: 403", "unauthorized"),
        ("GET /contacts: connection_failed", "network"),
        ("POST /visits: outcome_unknown", "timeout"),
        ("contact_unknown", "contact_unknown"),
        ("untranslatable: zebediah", "untranslatable"),
        ("internal_error", "internal_error"),
        ("zebediah@example.com", "other"),
        ("zebediah: 1234", "other"),
    ],
)
def test_a_reason_has_one_of_a_few_classes(reason: str, expected: str) -> None:
    assert expected == reason_class(reason)


@each(
    ("error", "expected"),
    [
        (OutcomeUnknown("POST /visits"), True),
        (OutcomeUnknown("POST /visits", 200), True),
        (ServerError("PUT /visits/:id", 408), True),
        (ServerError("PUT /visits/:id", 502), True),
        (ServerError("PUT /visits/:id", 504), True),
        (ServerError("PUT /visits/:id", 500), False),
        (ServerError("PUT /visits/:id", 503), False),
        (ConnectionFailed("POST /visits"), False),
        (OutcomeUnknown("GET /visits"), False),
        (ServerError("GET /visits/:id", 504), False),
    ],
    ids=str,
)
def test_only_a_write_without_a_response_of_the_api_has_an_unknown_outcome(
    error: VisitsApiError, expected: bool
) -> None:
    assert expected == outcome_is_unknown(error)


@each(("jitter", "delay_s"), [(0.0, 15), (0.5, 22.5), (1.0, 30)])
def test_a_rejected_token_pauses_for_half_of_30_seconds_or_more(jitter: float, delay_s: float) -> None:
    signal = CircuitSignal(kind="unauthorized", pause_s=delay_s)

    assert Decision(0, 4, f"{CALL}: 401", signal, is_held=True) == after(Unauthorized(CALL, 401), 4, jitter=jitter)


@each(("jitter", "delay_s"), [(0.0, 7.5), (0.5, 11.25), (1.0, 15)])
def test_a_429_without_retry_after_pauses_for_half_of_15_seconds_or_more(jitter: float, delay_s: float) -> None:
    signal = CircuitSignal(kind="rate_limited", pause_s=delay_s)

    assert Decision(0, 4, f"{CALL}: 429", signal, is_held=True) == after(RateLimited(CALL, 429), 4, jitter=jitter)


def test_a_server_error_is_retried_with_jitter_and_may_open_the_circuit_for_half_a_minute() -> None:
    signal = CircuitSignal(kind="down", pause_s=30, threshold=3)

    assert Decision(0, 1, f"{CALL}: 503", signal) == after(ServerError(CALL, 503), jitter=0)
    assert Decision(5, 1, f"{CALL}: 503", signal) == after(ServerError(CALL, 503), jitter=1)
    assert (
        signal._replace(pause_s=7) == decide(ServerError(CALL, 503), replace(SCHEDULE, cap_s=7), 0, 0, 1).circuit_signal
    )


def test_the_class_of_a_reason_is_read_from_its_end() -> None:
    assert "http_5xx" == reason_class("GET /visits: again: 503")
