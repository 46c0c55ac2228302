"""What comes after trouble, as a table. The numbers are those of the design: 5 s, doubling to 1 h, for 3 days."""

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

SCHEDULE = Schedule(first_s=5, cap_s=3_600, for_s=259_200)
CALL = "PUT /visits/:id"
TRANSIENT = [
    pytest.param(ServerError(CALL, 500), id="500"),
    pytest.param(ServerError(CALL, 503), id="503"),
    pytest.param(ServerError(CALL, 408), id="408"),
    pytest.param(ServerError(CALL, 425), id="425"),
    pytest.param(ConnectionFailed(CALL), id="unreachable"),
    pytest.param(OutcomeUnknown(CALL), id="unanswered"),
    pytest.param(OutcomeUnknown(CALL, 200), id="unreadable"),
]


def after(trouble: VisitsApiError, tries: int = 0, failing_for_s: float = 0, chance: float = 1.0) -> Decision:
    return decide(trouble, SCHEDULE, tries, failing_for_s, chance)


@pytest.mark.parametrize(
    ("tries", "longest_s"),
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
def test_the_longest_wait_doubles_up_to_the_cap(tries: int, longest_s: float) -> None:
    assert longest_s == SCHEDULE.delay_s(tries, 1.0)


@pytest.mark.parametrize(("chance", "wait_s"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 40)])
def test_a_wait_is_a_chance_share_of_the_longest_one(chance: float, wait_s: float) -> None:
    assert wait_s == SCHEDULE.delay_s(4, chance)


@pytest.mark.parametrize("trouble", TRANSIENT)
@pytest.mark.parametrize(("tries", "due_s"), [(0, 5), (1, 10), (2, 20), (9, 2_560), (50, 3_600)])
def test_what_may_pass_is_tried_again_on_the_schedule(trouble: VisitsApiError, tries: int, due_s: float) -> None:
    decision = after(trouble, tries)

    assert (due_s, tries + 1, False) == (decision.retry_in_s, decision.failed_attempts, decision.opens_circuit)


@pytest.mark.parametrize("trouble", TRANSIENT)
@pytest.mark.parametrize(
    ("failing_for_s", "goes_on"),
    [(0, True), (259_199, True), (259_200, False), (10**9, False)],
)
def test_after_three_days_it_is_an_operators_turn(trouble: VisitsApiError, failing_for_s: float, goes_on: bool) -> None:
    decision = after(trouble, 80, failing_for_s)

    assert goes_on == (decision.retry_in_s is not None)
    assert (81, str(trouble)) == (decision.failed_attempts, decision.reason)


@pytest.mark.parametrize("trouble", TRANSIENT)
def test_trouble_that_may_be_everybodys_is_told_as_such(trouble: VisitsApiError) -> None:
    verdict = after(trouble).circuit_signal

    assert verdict is not None
    assert ("down", 3) == (verdict.kind, verdict.threshold)


@pytest.mark.parametrize("trouble", TRANSIENT)
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tries", [0, 3, 40])
def test_an_api_that_is_back_is_noticed_within_half_a_minute(
    trouble: VisitsApiError, tries: int, chance: float
) -> None:
    verdict = after(trouble, tries, chance=chance).circuit_signal

    assert verdict is not None
    assert 0 < verdict.pause_s <= 30


def test_a_503_with_retry_after_is_retried_after_that_time() -> None:
    assert 120 == after(ServerError(CALL, 503, wait_s=120), chance=0.0).retry_in_s


@pytest.mark.parametrize("jitter", [0.0, 1.0])
@pytest.mark.parametrize("retry_after_s", [3_601, 86_400])
def test_a_503_with_retry_after_is_retried_no_later_than_the_cap(retry_after_s: float, jitter: float) -> None:
    error = ServerError(CALL, 503, wait_s=retry_after_s)

    assert 3_600 == after(error, 11, chance=jitter).retry_in_s


def test_a_503_that_names_a_short_time_does_not_shorten_the_schedule() -> None:
    assert 40 == after(ServerError(CALL, 503, wait_s=1), tries=3).retry_in_s


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.9])
def test_what_may_still_be_under_way_gets_time_to_settle(chance: float) -> None:
    due_s = after(OutcomeUnknown("POST /visits"), chance=chance).retry_in_s

    assert due_s is not None
    assert due_s >= 5


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("failing_for_s", [0, 10**9])
def test_a_refused_token_holds_everybody_and_costs_no_try(status: int, chance: float, failing_for_s: float) -> None:
    decision = after(Unauthorized(CALL, status), 4, failing_for_s, chance)

    assert (True, 4, 0) == (decision.opens_circuit, decision.failed_attempts, decision.retry_in_s)
    assert decision.circuit_signal is not None
    assert ("unauthorized", 1) == (decision.circuit_signal.kind, decision.circuit_signal.threshold)
    assert 0 < decision.circuit_signal.pause_s <= 30


@pytest.mark.parametrize("asked_s", [0, 0.5, 7, 86_400])
@pytest.mark.parametrize("failing_for_s", [0, 10**9])
def test_a_429_holds_everybody_as_long_as_it_asks_and_costs_no_try(asked_s: float, failing_for_s: float) -> None:
    decision = after(RateLimited(CALL, 429, wait_s=asked_s), 4, failing_for_s)

    assert (True, 4, 0) == (decision.opens_circuit, decision.failed_attempts, decision.retry_in_s)
    assert decision.circuit_signal is not None
    assert ("rate_limited", asked_s, 1) == (
        decision.circuit_signal.kind,
        decision.circuit_signal.pause_s,
        decision.circuit_signal.threshold,
    )


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_a_429_that_names_no_time_holds_everybody_for_some_seconds(chance: float) -> None:
    verdict = after(RateLimited(CALL, 429), chance=chance).circuit_signal

    assert verdict is not None
    assert 1 <= verdict.pause_s <= 60


@pytest.mark.parametrize("status", [400, 402, 404, 409, 410, 413, 418, 422, 451])
@pytest.mark.parametrize("tries", [0, 7])
def test_any_other_refusal_is_parked_at_once_with_the_answers_status(status: int, tries: int) -> None:
    decision = after(ClientError(CALL, status, "who@example.com is not an address"), tries)

    # It answered, so the way to the API is free: everybody else goes on.
    assert Decision(None, tries + 1, f"PUT /visits/:id: {status}", CircuitSignal(kind="ok")) == decision


@pytest.mark.parametrize("trouble", [*TRANSIENT, pytest.param(RateLimited(CALL, 429), id="429")])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_no_wait_of_our_own_is_longer_than_the_cap_that_is_set(trouble: VisitsApiError, chance: float) -> None:
    decision = decide(trouble, replace(SCHEDULE, first_s=0.2, cap_s=1), 30, 0, chance)

    assert decision.retry_in_s is not None
    under_way = isinstance(trouble, OutcomeUnknown) or trouble.status in (408, 502, 504)  # a write: it comes first
    assert decision.retry_in_s <= (5 if under_way else 1)


@pytest.mark.parametrize("trouble", TRANSIENT)
def test_the_reason_quotes_nothing_that_was_answered(trouble: VisitsApiError) -> None:
    trouble.response_text = "ada@example.com"

    assert "ada" not in after(trouble).reason


@pytest.mark.parametrize(
    ("reason", "kind"),
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
def test_reasons_are_counted_by_a_few_kinds(reason: str, kind: str) -> None:
    assert kind == reason_class(reason)


@pytest.mark.parametrize(
    ("trouble", "expected"),
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
def test_only_a_write_without_an_answer_of_the_api_may_be_under_way(trouble: VisitsApiError, expected: bool) -> None:
    assert expected == outcome_is_unknown(trouble)


@pytest.mark.parametrize(("chance", "wait_s"), [(0.0, 15), (0.5, 22.5), (1.0, 30)])
def test_after_a_refused_token_everybody_waits_at_least_half_of_the_longest_pause(chance: float, wait_s: float) -> None:
    verdict = CircuitSignal(kind="unauthorized", pause_s=wait_s)

    assert Decision(0, 4, f"{CALL}: 401", verdict, opens_circuit=True) == after(
        Unauthorized(CALL, 401), 4, chance=chance
    )


@pytest.mark.parametrize(("chance", "wait_s"), [(0.0, 7.5), (0.5, 11.25), (1.0, 15)])
def test_a_429_that_names_no_time_holds_everybody_for_half_of_15_seconds_or_more(chance: float, wait_s: float) -> None:
    verdict = CircuitSignal(kind="rate_limited", pause_s=wait_s)

    assert Decision(0, 4, f"{CALL}: 429", verdict, opens_circuit=True) == after(
        RateLimited(CALL, 429), 4, chance=chance
    )


def test_trouble_of_the_api_is_tried_again_after_a_chance_share_and_may_hold_everybody_for_half_a_minute() -> None:
    verdict = CircuitSignal(kind="down", pause_s=30, threshold=3)

    assert Decision(0, 1, f"{CALL}: 503", verdict) == after(ServerError(CALL, 503), chance=0)
    assert Decision(5, 1, f"{CALL}: 503", verdict) == after(ServerError(CALL, 503), chance=1)
    assert (
        replace(verdict, pause_s=7)
        == decide(ServerError(CALL, 503), replace(SCHEDULE, cap_s=7), 0, 0, 1).circuit_signal
    )


def test_the_status_is_the_last_word_of_a_reason() -> None:
    assert "http_5xx" == reason_class("GET /visits: again: 503")
