"""Events that only point at a record: fetch it, translate, and land what it means. A replayed event goes this way too."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from app.ledger.jobs_contract import event_task_id
from app.ledger.records import (
    BodyUnavailable,
    DeliveryInfo,
    Lease,
    LeaseLost,
    NotFound,
    Outcome,
    RecordOutdated,
    VisitLimitReached,
)
from app.ledger.redis import RedisUnavailable
from app.settings.model import Entrance
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.metric_names import TASK_RUNS, TASKS_FINISHED
from app.telemetry.tracing import start_span
from app.visits.change import VisitChange, external_id
from app.visits.client import RateLimited, Unanswered, Unauthorized, VisitsApiTrouble
from app.webhooks.delivery import Event, UnreadableBody
from app.webhooks.payload import Untranslatable
from app.webhooks.source import RECORD_GONE, Ignored, PartlyTranslatable
from app.webhooks.translation import FOREIGN_TENANT, is_foreign_tenant, parse_event
from jobs.apply_visit import complete
from jobs.context import RUN_TIMEOUT_S, Context, RunTimer, chance, seconds_since
from jobs.records import FetchedRecord, NeedsOperator, Records
from jobs.retry import RATE_LIMIT_WAIT_S, decide, reason_class
from jobs.tokens import InProgressElsewhere

#: A record may not be readable yet when its event rings: until then its absence means nothing.
READ_LAG_S = 60.0
READ_LAG_RETRY_S = 10.0
#: After finding the tool's API, or the record, in others' hands.
CONTENTION_RETRY_S = 4.0
#: Between two looks whether a refused credential has been put right.
CREDENTIALS_RETRY_S = 60.0


class RecordNotReadable(Exception):
    """A record is not there, and the event is young."""


def _record_may_appear(meaning: list[VisitChange] | Ignored, found: FetchedRecord) -> bool:
    """Is the record missing, or whose visit it is? A cancel needs neither."""
    if isinstance(meaning, Ignored):
        return meaning == RECORD_GONE
    return not found.is_complete and any(change.action != "cancel" for change in meaning)


async def event_job(ctx: dict[str, Any], subject: str) -> None:
    """arq's job. subject: the delivery's id."""
    await run_event(ctx["context"], subject)


async def run_event(context: Context, delivery_id: str) -> str:
    """Fetch what the event points at, translate it and land the changes; what came of it, in a word."""
    hold = await context.ledger.lease(event_task_id(delivery_id))
    if isinstance(hold, str):
        return hold
    run = EventRun(context, hold, delivery_id)
    with start_span("event", "CONSUMER", hold.request_context.traceparent, delivery=delivery_id):
        outcome = await run.outcome()
    if outcome is not None:
        await complete(context, hold, outcome)
    record_metrics(context.counters, outcome)
    came_of_it = outcome.reason or outcome.state if outcome else "translated"
    log.info(
        "event_run_finished",
        delivery=delivery_id,
        attempt=hold.primary.failed_attempts + 1,
        outcome=came_of_it,
        calls=len(run.calls),
        took_ms=run.clock.took_ms,
        **hold.request_context.log_fields,
    )
    return came_of_it


def record_metrics(tally: Counters, outcome: Outcome | None) -> None:
    """A run over an event."""
    state, reason = (outcome.state, outcome.reason) if outcome else ("settled", "")
    tally.increment(TASK_RUNS, "event", state, reason_class(reason))
    if state in ("settled", "parked"):
        tally.increment(
            TASKS_FINISHED, "event", "translated" if outcome is None else "ignored" if state == "settled" else "parked"
        )


@dataclass
class EventRun:
    """One run over one event, under a lease."""

    context: Context
    hold: Lease
    delivery_id: str
    clock: RunTimer = field(default_factory=RunTimer)
    calls: list[list[object]] = field(default_factory=list)

    async def outcome(self) -> Outcome | None:
        """None: the changes landed, and with them the event is settled."""
        root = self.hold.primary
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                meta, entrance, event = await self._load_event()
                parked, meaning = await self._translate(entrance, event)
            word = f"ignored: {meaning.reason}" if isinstance(meaning, Ignored) else "translated"
            attempt = self.clock.attempt(word, self.calls)
            # Translated anew, an event that means nothing takes back what it said; a record that is gone is no meaning.
            if isinstance(meaning, Ignored) and (meaning == RECORD_GONE or not root.replaces_changes):
                return Outcome(state="settled", attempt=attempt)
            changes = [] if isinstance(meaning, Ignored) else meaning
            await self.context.ledger.record_changes(self.hold, meta.source, entrance.account, changes, attempt, parked)
            return None
        except VisitsApiTrouble as failed:
            return self._on_api_error(failed)
        except TimeoutError:
            return self._on_api_error(Unanswered("fetch", said=f"not done within {RUN_TIMEOUT_S:.0f} s"))
        except InProgressElsewhere:
            return self._wait("lock_contention", 1 + CONTENTION_RETRY_S * chance(), root.failed_attempts or None)
        except (RecordNotReadable, RecordOutdated):
            return self._wait("record_not_found_yet", READ_LAG_RETRY_S, root.failed_attempts or None)
        except LeaseLost:
            log.warning("lease_lost", task=root.task_id)
            return None
        except (NeedsOperator, Untranslatable, UnreadableBody) as reason:
            word = "" if isinstance(reason, NeedsOperator) else "untranslatable: "
            return self._park(f"{word}{reason}")
        except VisitLimitReached as bound:
            return self._park(str(bound), "the visit takes no more until an operator looks at it")
        except RedisUnavailable:
            return self._wait("redis_down", 1 + chance(), root.failed_attempts or None)
        except Exception:
            log.exception("unhandled_exception", delivery=self.delivery_id)
            return self._park("internal_error", "a defect of Doorbell; its log has the place")

    async def _load_event(self) -> tuple[DeliveryInfo, Entrance, Event]:
        try:
            meta, raw = await self.context.ledger.load_delivery(self.delivery_id)
        except NotFound:
            raise NeedsOperator("delivery_expired") from None
        except BodyUnavailable as error:
            raise NeedsOperator(f"{error.reason}: {error}") from None
        entrance = self.context.settings.entrances.get(meta.hook)
        if entrance is None:
            raise NeedsOperator("hook_not_configured")
        return meta, entrance, parse_event(entrance.tool, meta.to_delivery(raw), entrance.hook.zone)

    async def _translate(self, entrance: Entrance, event: Event) -> tuple[str, list[VisitChange] | Ignored]:
        """What the event means, behind the reason why an operator is needed for the rest of it, or nothing."""
        try:
            return "", await self._translate_records(entrance, event)
        except PartlyTranslatable as partly:
            log.warning("event_parked", delivery=self.delivery_id, reason=str(partly))
            return f"untranslatable: {partly}", partly.changes

    async def _translate_records(self, entrance: Entrance, event: Event) -> list[VisitChange] | Ignored:
        """What the event means, with its records. Ignored only if every part of it is."""
        tool = entrance.tool
        if is_foreign_tenant(tool, event, entrance.hook.tenants):
            return Ignored(FOREIGN_TENANT)
        gets = tool.fetch(event) if tool.fetch else []
        if not gets:
            return tool.translate(event)
        changes: list[VisitChange] = []
        ignored, reason = Ignored("nothing"), ""
        records = Records(self.context, entrance, self.hold.primary.last_event_at_ms or 0, self.calls)
        for get in gets:
            found = await records.find(get)
            looked = event.with_record(found.record, found.fetched_at, found.related, get.path)
            looked = await self._with_people(entrance, looked, found)
            try:
                meaning = tool.translate(looked)
            except PartlyTranslatable as partly:
                meaning, reason = partly.changes, str(partly)
            if (
                _record_may_appear(meaning, found)
                and seconds_since(int(event.received_at.timestamp() * 1000)) < READ_LAG_S
            ):
                raise RecordNotReadable
            if isinstance(meaning, Ignored):
                ignored = meaning
            else:
                changes += meaning
        if reason:
            raise PartlyTranslatable(reason, changes)
        return changes or ignored

    async def _with_people(self, entrance: Entrance, event: Event, found: FetchedRecord) -> Event:
        """The event with everybody whom the records of its booking ever listed. Raises Outdated."""
        if entrance.tool.people is None:
            return event
        visit_id, people = entrance.tool.people(event)
        name = external_id(event.source, visit_id)
        everybody = await self.context.ledger.add_people(entrance.account, name, found.fetched_at, people)
        return replace(event, people=everybody)

    # -- what comes of trouble --

    def _on_api_error(self, failed: VisitsApiTrouble) -> Outcome:
        """As for the Visits API, but every event by itself: a tool's API that is down holds up its own events only."""
        root = self.hold.primary
        failing_for_s = seconds_since(root.failing_since_ms)
        if isinstance(failed, Unauthorized):
            if self.context.schedule.is_over(failing_for_s):
                return self._park("credentials_refused", failed.said)
            return self._wait(
                "credentials_refused", CREDENTIALS_RETRY_S * (0.5 + chance() / 2), root.failed_attempts, failed.said
            )
        if isinstance(failed, RateLimited):
            return self._wait(
                str(failed), (failed.wait_s or RATE_LIMIT_WAIT_S) + chance(), root.failed_attempts or None, failed.said
            )
        decision = decide(failed, self.context.schedule, root.failed_attempts, failing_for_s, chance())
        if decision.retry_in_s is None:
            return self._park(decision.reason, failed.said)
        return self._wait(decision.reason, decision.retry_in_s, decision.failed_attempts, failed.said)

    def _wait(self, reason: str, due_s: float, tries: int | None, said: str = "") -> Outcome:
        attempt = self.clock.attempt("waiting", self.calls, said)
        return Outcome(state="waiting", attempt=attempt, reason=reason, retry_in_s=due_s, failed_attempts=tries)

    def _park(self, reason: str, said: str = "") -> Outcome:
        log.warning("event_parked", delivery=self.delivery_id, reason=reason)
        attempt = self.clock.attempt("parked", self.calls, said)
        return Outcome(
            state="parked", attempt=attempt, reason=reason, failed_attempts=self.hold.primary.failed_attempts + 1
        )
