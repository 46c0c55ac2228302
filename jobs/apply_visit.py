"""One visit, from its facts to the API: the difference between what should stand and what the API last answered."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.ledger.jobs_contract import visit_work
from app.ledger.ledger import future_ms, rang_ms
from app.ledger.records import Hold, Lost, Member, Outcome, TooMany, Verdict
from app.ledger.redis import RedisDown
from app.operators.search_index import remember
from app.telemetry import tracing
from app.telemetry.counters import Tally
from app.telemetry.logs import log
from app.telemetry.metric_names import ATTEMPTS, CALL_S, CALLS, END_TO_END_S, FINISHED
from app.telemetry.tracing import span
from app.visits.change import Contact
from app.visits.client import ANSWER_S, Record, Refused, Unanswered, VisitsApiTrouble, VisitsClient
from app.visits.merge import REMEMBERED, Wanted, difference, fold, needed, payments_of, people_of, wanted
from app.webhooks.registry import source_of
from jobs.contacts import Busy, Contacts
from jobs.context import JOB_S, Clock, Context, chance, since_s
from jobs.retry import decide, why

#: In a line that is longer than this, a visit waits in the ledger and not with a lease in its hand.
LONGEST_LINE_S = 2.0
#: A visit with more changes than this keeps those that may still decide something, and the newest.
MOST_CHANGES, NEWEST_KEPT = 300, 50
#: A visit with more payments than this is an operator's turn: each of them is kept for ever.
MOST_PAYMENTS = 500


class OutOfTime(Exception):
    """A call begun now might still be under way when the lease ends."""


class InLine(Exception):
    """The allowed rate of calls leaves no room now."""


class NotYet(Exception):
    """Something is missing that a later change may bring. The argument: what, in one word."""


class Unclearable(Exception):
    """The API keeps a value that was to be cleared, or a contact that was to change: only a new visit will do. The
    argument: the contact that it will have."""


async def visit(ctx: dict[str, Any], subject: str) -> None:
    """arq's job. subject: `<account>/<external_id>`."""
    account, _, external_id = subject.partition("/")
    await apply(ctx["context"], account, external_id)


async def apply(context: Context, account: str, external_id: str) -> str:
    """Make the API show the visit, and give the work back; what came of it, in a word."""
    is_paced = context.settings.visits_api_rate is not None
    hold = await context.ledger.begin(visit_work(account, external_id), account, is_paced)
    if isinstance(hold, str):
        return hold
    with span("visit", "CONSUMER", hold.trace.traceparent, external_id=hold.root.external_id):
        run = Run(context, hold, account)
        outcome = await run.outcome()
    with suppress(RedisDown):  # the next run does it
        await compact(context, hold)
    await asyncio.gather(give_back(context, hold, outcome, account), run.be_found(outcome))
    context.tally.count(account, outcome.state)
    count(context.tally, hold, outcome)
    log.info(
        f"change {outcome.state}",
        external_id=hold.root.external_id,
        delivery=hold.trace.delivery,
        attempt=hold.root.tries + 1,
        outcome=outcome.attempt.outcome if outcome.attempt else outcome.reason,
        **({"reason": outcome.reason} if outcome.reason else {}),
        calls=len(run.api.calls),
        took_ms=run.clock.took_ms,
        **hold.trace.fields,
    )
    return outcome.state


def count(tally: Tally, hold: Hold, outcome: Outcome) -> None:
    """A run over a visit; and how long each of its changes that are settled now was under way."""
    tally.add(ATTEMPTS, "visit", outcome.state, why(outcome.reason))
    if outcome.attempt and outcome.state in ("settled", "parked"):
        tally.add(FINISHED, "visit", outcome.attempt.outcome)
    if outcome.state == "settled":
        source, now = source_of(hold.root.work), time.time()
        for member in hold.members:
            for origin, change in member.changes.items():
                if int(change.partition(b" ")[0]) > member.done:
                    tally.observe(END_TO_END_S, max(0.0, now - rang_ms(origin) / 1000), source)


async def compact(context: Context, hold: Hold) -> None:
    """A visit does not grow for ever: of very many changes, those that may still decide something stay, and the newest."""
    for member in hold.members:
        if len(member.changes) > MOST_CHANGES:
            # Folded by itself: should another id turn out to come before it, all of its changes move up alike.
            kept = needed(member.said()).union(_newest(member.changes))
            await context.ledger.compact(hold, member, member.changes.keys() - kept)
        if len(member.discarded) > MOST_CHANGES:
            await context.ledger.compact(hold, member, member.discarded.keys() - _newest(member.discarded))


def _newest(changes: Mapping[str, bytes]) -> list[str]:
    """The origins that landed last."""
    return sorted(changes, key=lambda origin: -int(changes[origin].partition(b" ")[0]))[:NEWEST_KEPT]


async def give_back(context: Context, hold: Hold, outcome: Outcome, gate: str = "") -> None:
    """Release, through a restart of Redis too as long as the lease lasts; after it, the sweep puts the work back."""
    while True:
        try:
            await context.ledger.release(hold, outcome, gate)
            return
        except Lost:
            log.warning("lease lost", work=hold.root.work)
            return
        except RedisDown:
            if hold.remaining_s() < 1:
                raise
            await asyncio.sleep(0.5)


@dataclass
class Run:
    """One run over one visit, under a lease."""

    context: Context
    hold: Hold
    account: str
    clock: Clock = field(default_factory=Clock)
    #: Whose visit it is, once the facts were looked at.
    contact: Contact | None = None
    #: How many others the tool named under the same id.
    others: int = 0
    #: What now stands in the API, per piece of work that was touched.
    stands: dict[str, Record | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings, self.deadline = self.context.settings, time.monotonic() + JOB_S
        token = settings.tokens.get(self.account, "")
        names, url = self.hold.trace.headers | tracing.headers(), settings.visits_api_url
        self.api = VisitsClient(self.context.http, url, token, [], self.before_call, names, self.called)
        key = settings.contact_key(self.account)
        self.contacts = Contacts(self.context.ledger, self.account, key, self.context.turns)

    async def before_call(self) -> None:
        rate = self.context.settings.visits_api_rate
        if rate:
            wait_s = await self.context.ledger.pace(self.account, rate, LONGEST_LINE_S)
            if wait_s < 0:
                raise InLine
            await asyncio.sleep(wait_s)
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def called(self, method: str, route: str, status: str, seconds: float) -> None:
        self.context.tally.add(CALLS, method, route, status)
        self.context.tally.observe(CALL_S, seconds, method, route)
        tracing.called(method, route, status, seconds)

    async def outcome(self) -> Outcome:
        root = self.hold.root
        try:
            if not self.api.token:
                return self._parked("token_missing", "no token is set for this account", tries=None)
            async with asyncio.timeout(JOB_S + ANSWER_S):
                done = await self.bring_about()
            if self.others:
                said = f"{done}; {self.others} more people share this id, and have no visit"
                return self._parked("several_people", said, tries=None)
            return self._settled(done)
        except VisitsApiTrouble as trouble:
            return self._after(trouble)
        except NotYet as missing:
            return self._not_yet(str(missing))
        except TooMany as bound:
            said = f"this visit has more than {MOST_PAYMENTS} payments"
            return self._parked(str(bound), said, tries=None)
        except (Busy, OutOfTime):
            return self._later("busy", 1 + chance())
        except InLine:
            return self._in_line()
        except TimeoutError:
            return self._after(Unanswered("run", said=f"not done within {JOB_S:.0f} s"))
        except RedisDown:
            return self._later("redis_down", 1 + chance())
        except Exception:
            log.exception("bug", external_id=root.external_id)
            return self._parked("bug", "a defect of Doorbell; its log has the place", tries=root.tries + 1)

    async def be_found(self, outcome: Outcome) -> None:
        """By whose visit it is, for operators; never worth a failure."""
        keys = self.context.settings.secret_key
        if not keys or not self.contact or outcome.state not in ("settled", "parked"):
            return
        keep_ms = self.context.settings.retention_days * 86_400_000 + future_ms(self.hold, outcome)
        with suppress(RedisDown):
            await remember(self.context.ledger.redis, self.hold.root.work, self.contact, keys[0], keep_ms)

    # -- what comes of it --

    def _settled(self, done: str) -> Outcome:
        return Outcome(state="settled", attempt=self._attempt(done), api=self.stands, verdict=self._heard())

    def _heard(self) -> Verdict | None:
        """The API answered: whatever this visit lacks, the way is free."""
        return Verdict(why="ok") if self.api.calls else None

    def _parked(self, reason: str, said: str, tries: int | None) -> Outcome:
        return Outcome(
            state="parked", attempt=self._attempt("parked", said), reason=reason, tries=tries, api=self.stands
        )

    def _later(self, reason: str, due_s: float) -> Outcome:
        tries = self.hold.root.tries or None
        return Outcome(
            state="waiting", attempt=self._attempt(reason), reason=reason, due_s=due_s, tries=tries, api=self.stands
        )

    def _in_line(self) -> Outcome:
        """The line for a call is long: the ledger keeps the place, the visit that starts soonest first."""
        attempt = self._attempt("rate") if self.api.calls else None
        return Outcome(state="held", attempt=attempt, reason="rate", api=self.stands)

    def _not_yet(self, missing: str) -> Outcome:
        """Wait for a change that brings it, but not for ever."""
        settings = self.context.settings
        left_s = min(settings.contact_for_s, settings.retry_for_s) - since_s(self.hold.root.since)
        if left_s <= 0:
            return self._parked(missing, "no change brought it", tries=None)
        return Outcome(
            state="waiting",
            attempt=self._attempt("waiting"),
            reason=missing,
            due_s=left_s + 0.05,
            api=self.stands,
            verdict=self._heard(),
        )

    def _after(self, trouble: VisitsApiTrouble) -> Outcome:
        root = self.hold.root
        decision = decide(trouble, self.context.schedule, root.tries, since_s(root.failed_since), chance())
        attempt = self._attempt(type(trouble).__name__.lower(), trouble.said)
        state = "parked" if decision.due_s is None else "held" if decision.held else "waiting"
        return Outcome(
            state=state,  # type: ignore[arg-type]
            attempt=attempt,
            reason=decision.reason,
            due_s=decision.due_s or 0,
            tries=None if decision.held else decision.tries,
            api=self.stands,
            verdict=decision.verdict,
        )

    def _attempt(self, outcome: str, said: str = "") -> Any:
        return self.clock.attempt(outcome, self.api.calls, said)

    # -- bringing it about --

    async def bring_about(self) -> str:
        """Make the API show what the facts mean. Returns what was done, in a word."""
        root, *later = self.hold.members
        facts = fold(said for member in self.hold.members for said in member.said())
        if payments_of(facts) > MOST_PAYMENTS:
            raise TooMany("too_many_payments")
        want = wanted(facts)
        self.contact, self.others = want.contact, max(people_of(facts) - 1, 0)
        for member in later:
            if member.api or member.tried:  # made under a later id before the first one was known
                await self._remove(member)
        if not any(member.changes for member in self.hold.members):
            # All that was ever said of it was taken back.
            if root.api or root.tried:
                await self._remove(root)
            return "removed" if root.work in self.stands else "never made"
        current = await self._current(root)
        try:
            return await self._update(root, current, want) if current is not None else await self._create(root, want)
        except Unclearable as kept:
            await self._remove(root)
            return await self._create(root, want, *kept.args)

    async def _current(self, root: Member) -> Record | None:
        """What stands there: as the API last answered, or, where nobody knows or an operator doubts it, as it does now."""
        if root.api is not None and root.ask is None:
            return root.api
        found = await self.api.get_visit(root.external_id)
        if found is None:
            return None
        await self._remove_beside(root, found)
        # Whose visit it was when we made it: one that somebody gave another contact by hand keeps that.
        return {**found, REMEMBERED: (root.api or {}).get(REMEMBERED)}

    async def _remove_beside(self, root: Member, kept: Record) -> None:
        """What an audit saw standing twice goes: if it is still there, and ours, and not the one that its name opens."""
        for number in root.ask or () if kept.get("id") else ():
            other = await self.api.get_visit(number) if number != str(kept["id"]) else None
            if other and str(other.get("id")) == number and other.get("external_id") == root.external_id:
                await self.api.delete_visit(number)

    async def _remove(self, member: Member) -> None:
        await self.api.delete_visit(member.external_id)
        self.stands[member.work] = None

    async def _create(self, root: Member, want: Wanted, contact_id: str | None = None) -> str:
        """contact_id: of the visit that this one stands in for. What stood, stands again, cancelled or not, so that it
        does not depend on how many changes came at once; only who wants no requests has no visit."""
        if want.opted_out or (want.is_off and not contact_id) or want.is_nothing:
            return "never made"
        if not want.has_date:
            raise NotYet("time_unknown")
        contact_id = contact_id or await self.contacts.resolve(want.contact, self.api)
        if contact_id is None:
            raise NotYet("contact_unknown")
        fields = {name: value for name, value in want.fields.items() if value is not None}
        try:
            answer = await self.api.create_visit(contact_id, root.external_id, fields)
        except Refused as refused:
            return await self._after_refusal(root, want, refused)
        self._stands(root, answer, want)
        return "created"

    async def _after_refusal(self, root: Member, want: Wanted, refused: Refused) -> str:
        """It may be there already; or the contact that we remember may be gone."""
        if refused.status not in (404, 409, 422):
            raise refused
        if refused.status != 404 and (current := await self.api.get_visit(root.external_id)) is not None:
            return await self._update(root, current, want)
        await self.contacts.forget(want.contact)
        raise refused

    async def _update(self, root: Member, current: Record, want: Wanted) -> str:
        await self._same_contact(current, want)
        changed = difference(current, want)
        if not changed:
            self._stands(root, current, want)
            return "as it was"
        answer = await self.api.update_visit(root.external_id, {name: value or "" for name, value in changed.items()})
        if answer is None:
            self.stands[root.work] = None
            return await self._create(root, want)
        if not answer:
            cleared = None in changed.values()
            answer = (await self.api.get_visit(root.external_id)) if cleared else {**current, **changed}
        answer = {"contact_id": current.get("contact_id"), REMEMBERED: current.get(REMEMBERED), **(answer or {})}
        if any(value is None and answer.get(name) for name, value in changed.items()):
            raise Unclearable(answer.get("contact_id"))
        self._stands(root, answer, want)
        return "cancelled" if changed.get("date_cancelled") else "updated"

    async def _same_contact(self, current: Record, want: Wanted) -> None:
        """Another customer needs another visit: the API does not move one. Raises Unclearable."""
        name = self.contacts.name(want.contact)
        if name is None or name == current.get(REMEMBERED):
            return
        contact_id = await self.contacts.resolve(want.contact, self.api)
        if contact_id is None:
            raise NotYet("contact_unknown")
        if contact_id != current.get("contact_id"):
            raise Unclearable(contact_id)

    def _stands(self, root: Member, answer: Record, want: Wanted) -> None:
        kept = {name: answer[name] for name in KEPT if answer.get(name) is not None}
        self.stands[root.work] = kept | {REMEMBERED: self.contacts.name(want.contact) or answer.get(REMEMBERED)}


#: What is kept of an answer, and, beside it, whose visit it was then (REMEMBERED).
KEPT = ("id", "contact_id", "time_scheduled", "time_completed", "amount_collected", "date_cancelled", "event_date")
