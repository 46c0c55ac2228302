"""Runs a task of either kind: lease, span, execute, outcome, complete, metrics, log."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import random
from typing import Any, ClassVar, Literal

from app.ledger.ids import TaskId
from app.ledger.locks import LockContended
from app.ledger.records import Attempt, Lease, LeaseLost, Outcome, RecordOutdated, VisitLimitReached
from app.ledger.redis import RedisUnavailable
from app.telemetry.logs import log
from app.telemetry.metric_names import TASK_RUNS, TASKS_FINISHED
from app.telemetry.tracing import start_span
from app.visits.client import OutcomeUnknown, VisitsApiError
from app.webhooks.delivery import UnreadableBody
from app.webhooks.payload import Untranslatable
from jobs.context import Context, RunTimer
from jobs.errors import (
    BodyNotReadable,
    DeadlinePassed,
    NeedsOperator,
    RateLimitedLocally,
    RecordNotReadable,
    TooManyFetches,
)
from jobs.retry import Decision, reason_class

#: The delay between two attempts to complete a run while Redis is down.
COMPLETE_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Rule:
    """The next state of a task whose run ended with an exception.

    reason: {} is the text of the exception. delay_s: until the next run, and the maximum of the random addition.
    attempts: "count" if the run counts as a failed attempt, "keep" if it does not, "reset" if it also ends the earlier ones.
    summary: for the operator.
    """

    state: Literal["waiting", "held", "parked"]
    reason: str
    delay_s: tuple[float, float] = (0.0, 0.0)
    attempts: Literal["count", "keep", "reset"] = "keep"
    summary: str = ""


#: The first rule whose class matches applies. `TaskRun.decide` handles the exceptions of a failed call.
RULES: dict[type[Exception], Rule] = {
    RateLimitedLocally: Rule("held", "rate_limited_locally"),
    DeadlinePassed: Rule("waiting", "deadline_passed", (1.0, 1.0)),
    LockContended: Rule("waiting", "lock_contention", (1.0, 4.0)),
    TooManyFetches: Rule("waiting", "too_many_fetches", (1.0, 4.0)),
    BodyNotReadable: Rule("waiting", "{}", (10.0, 10.0)),
    RecordNotReadable: Rule("waiting", "record_not_found_yet", (10.0, 0.0)),
    RecordOutdated: Rule("waiting", "record_not_found_yet", (10.0, 0.0)),
    RedisUnavailable: Rule("waiting", "redis_down", (1.0, 1.0)),
    NeedsOperator: Rule("parked", "{}", attempts="reset"),
    VisitLimitReached: Rule(
        "parked", "{}", attempts="count", summary="the visit accepts no more changes until an operator acts"
    ),
    Untranslatable: Rule("parked", "untranslatable: {}", attempts="count"),
    UnreadableBody: Rule("parked", "untranslatable: {}", attempts="count"),
    Exception: Rule(
        "parked", "internal_error", attempts="count", summary="a bug in Doorbell; the log has its location"
    ),
}


class TaskRun(ABC):
    """One execution of a task under its lease."""

    kind: ClassVar[Literal["visit", "event"]]

    def __init__(self, context: Context, lease: Lease) -> None:
        self.context, self.lease = context, lease
        self.task = lease.primary
        self.timer = RunTimer()
        #: The calls of this run with their statuses, for the record of the attempt.
        self.calls: list[list[Any]] = []
        #: The visit as the Visits API last returned it, by task.
        self.remote: dict[str, dict[str, Any] | None] = {}

    @property
    @abstractmethod
    def labels(self) -> dict[str, str]:
        """Return the fields that identify the task in spans and logs."""

    @property
    @abstractmethod
    def timeout_s(self) -> float: ...

    @abstractmethod
    async def execute(self) -> Outcome:
        """Execute the task. Raises the exceptions of RULES, VisitsApiError, LeaseLost."""

    @abstractmethod
    def decide(self, error: VisitsApiError) -> Decision:
        """Decide what follows a failed call."""

    @abstractmethod
    def log_finished(self, level: int, fields: Mapping[str, Any]) -> None: ...

    async def complete(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the state that was stored."""
        return await complete(self.context, self.lease, outcome)

    def record_metrics(self, outcome: Outcome) -> None:
        counters = self.context.counters
        counters.increment(TASK_RUNS, self.kind, outcome.state, reason_class(outcome.reason))
        if outcome.state == "parked":
            counters.increment(TASKS_FINISHED, self.kind, "parked")
        elif outcome.state == "done" and outcome.attempt:
            counters.increment(TASKS_FINISHED, self.kind, outcome.attempt.outcome.partition(":")[0])

    async def outcome(self) -> Outcome:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self.execute()
        except LeaseLost:
            raise
        except VisitsApiError as error:
            return self._after_api_error(error)
        except TimeoutError:
            return self._after_api_error(OutcomeUnknown("run", response_text=f"not done within {self.timeout_s:.0f} s"))
        except Exception as error:
            return self._after_exception(error)

    def _after_api_error(self, error: VisitsApiError) -> Outcome:
        decision = self.decide(error)
        state = "parked" if decision.retry_in_s is None else "held" if decision.is_held else "waiting"
        return Outcome(
            state=state,  # type: ignore[arg-type]
            attempt=self._failed_attempt(state, decision.reason, error.response_text),
            reason=decision.reason,
            retry_in_s=decision.retry_in_s or 0,
            in_flight_s=decision.in_flight_s,
            failed_attempts=None if decision.is_held else decision.failed_attempts,
            remote=self.remote,
            circuit_signal=decision.circuit_signal,
        )

    def _after_exception(self, error: Exception) -> Outcome:
        rule = next(rule for kind, rule in RULES.items() if isinstance(error, kind))
        summary = error.summary if isinstance(error, NeedsOperator) else rule.summary
        if rule is RULES[Exception]:
            log.exception("unhandled_exception", **self.labels)
        reason = rule.reason.format(error)
        delay_s, jitter_s = rule.delay_s
        return Outcome(
            state=rule.state,
            # A run that was held before its first call is not an attempt.
            attempt=None
            if rule.state == "held" and not self.calls
            else self._failed_attempt(rule.state, reason, summary),
            reason=reason,
            is_applied=isinstance(error, NeedsOperator) and error.is_applied,
            retry_in_s=delay_s + jitter_s * random(),
            failed_attempts={
                "count": self.task.failed_attempts + 1,
                "keep": self.task.failed_attempts if self.task.failing_since_ms else None,
                "reset": None,
            }[rule.attempts],
            remote=self.remote,
        )

    def _failed_attempt(self, state: str, reason: str, summary: str) -> Attempt:
        return self.attempt(f"parked: {reason}" if state == "parked" else reason_class(reason), summary)

    def attempt(self, outcome: str, summary: str = "") -> Attempt:
        return self.timer.attempt(outcome, self.calls, summary)


async def run(kind: type[TaskRun], context: Context, task: TaskId, account: str = "") -> str:
    """Run the task once, if it can be leased. Return its state, or the reason why there was no lease.

    account: the account whose circuit and rate limit apply.
    """
    is_paced = bool(account) and context.settings.visits_api_rate is not None
    lease = await context.ledger.lease(task, account, is_paced)
    if isinstance(lease, str):
        return lease
    task_run = kind(context, lease)
    try:
        with start_span(kind.kind, "CONSUMER", lease.request_context.traceparent, **task_run.labels):
            outcome = await task_run.outcome()
        outcome = await task_run.complete(outcome)
    except LeaseLost:
        log.warning("lease_lost", task=task)
        return "lost"
    task_run.record_metrics(outcome)
    _log_finished(task_run, outcome)
    return outcome.state


async def complete(context: Context, lease: Lease, outcome: Outcome, account: str = "") -> Outcome:
    """End the lease with an outcome. Return it with the state that was stored. Raises LeaseLost.

    Retries while Redis is down and the lease lasts; afterwards maintenance requeues the task.
    """
    while True:
        try:
            state = await context.ledger.complete(lease, outcome, account)
            return replace(outcome, state=state)  # type: ignore[arg-type]
        except RedisUnavailable:
            if lease.remaining_s() < 1:
                raise
            await asyncio.sleep(COMPLETE_RETRY_S)


def _log_finished(task_run: TaskRun, outcome: Outcome) -> None:
    lease = task_run.lease
    fields = {
        "state": outcome.state,
        "delivery": lease.request_context.delivery_id,
        **task_run.labels,
        "attempt": lease.primary.failed_attempts + 1,
        "outcome": outcome.attempt.outcome.partition(":")[0] if outcome.attempt else reason_class(outcome.reason),
        **({"reason": outcome.reason} if outcome.reason else {}),
        "calls": len(task_run.calls),
        "took_ms": task_run.timer.took_ms,
        **lease.request_context.log_fields,
    }
    task_run.log_finished(logging.WARNING if outcome.state == "parked" else logging.INFO, fields)
