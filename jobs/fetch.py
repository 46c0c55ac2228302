"""Events that only point at a record: fetch it, translate, and land what it means. A replayed event goes this way too."""

import asyncio
import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from app.connection import RedisDown
from app.delivery import Event, Unreadable
from app.intake import recall
from app.ledger import Gone, Hold, Lost, Meta, Outcome
from app.queue import event_work
from app.reading import Json, Untranslatable
from app.settings import Entrance
from app.sources import GONE, Basic, Get, Ignored
from app.visits.client import (
    Broken,
    RateLimited,
    Refused,
    Unanswered,
    Unauthorized,
    VisitsApiTrouble,
    silence,
    trouble,
)
from app.visits.words import VisitChange
from jobs.apply import give_back
from jobs.context import JOB_S, Clock, Context, chance, since_s
from jobs.retry import decide

log = logging.getLogger("doorbell.event")

#: A record may not be readable yet when its event rings: until then its absence means nothing.
LAG_S = 60.0
LAG_WAIT_S = 10.0
LARGEST_RECORD = 1_048_576
#: Between two looks whether a refused credential has been put right.
CREDENTIALS_WAIT_S = 60.0


class Parked(Exception):
    """An operator's turn. The argument: the reason."""


class Lagging(Exception):
    """The record is not there, and the event is young."""


async def event(ctx: dict[str, Any], subject: str) -> None:
    """arq's job. subject: the delivery's id."""
    await translate(ctx["context"], subject)


async def translate(context: Context, delivery_id: str) -> str:
    """Fetch what the event points at, translate it and land the changes; what came of it, in a word."""
    hold = await context.ledger.begin(event_work(delivery_id))
    if isinstance(hold, str):
        return hold
    run = Run(context, hold, delivery_id)
    outcome = await run.outcome()
    if outcome is not None:
        await give_back(context, hold, outcome)
    came_of_it = outcome.reason or outcome.state if outcome else "landed"
    log.info("event translated", extra={"delivery": delivery_id, "outcome": came_of_it, "calls": len(run.calls)})
    return came_of_it


@dataclass
class Run:
    """One run over one event, under a lease."""

    context: Context
    hold: Hold
    delivery_id: str
    clock: Clock = field(default_factory=Clock)
    calls: list[list[object]] = field(default_factory=list)

    async def outcome(self) -> Outcome | None:
        """None: the changes landed, and with them the event is settled."""
        root = self.hold.root
        try:
            async with asyncio.timeout(JOB_S):
                meta, entrance, event = await self._event()
                meaning = await self._meaning(entrance, event)
            word = f"ignored: {meaning.why}" if isinstance(meaning, Ignored) else "landed"
            attempt = self.clock.attempt(word, self.calls)
            # Translated anew, an event that means nothing takes back what it said; a record that is gone is no meaning.
            if isinstance(meaning, Ignored) and (meaning == GONE or not root.replaces):
                return Outcome(state="settled", attempt=attempt)
            changes = [] if isinstance(meaning, Ignored) else meaning
            await self.context.ledger.land(self.hold, meta.source, entrance.account, changes, attempt)
            return None
        except VisitsApiTrouble as failed:
            return self._after(failed)
        except TimeoutError:
            return self._after(Unanswered("fetch", said=f"not done within {JOB_S:.0f} s"))
        except Lagging:
            return self._wait("record not there yet", LAG_WAIT_S, root.tries or None)
        except Lost:
            log.warning("lease lost", extra={"work": root.work})
            return None
        except (Parked, Untranslatable, Unreadable) as reason:
            word = "" if isinstance(reason, Parked) else "untranslatable: "
            return self._park(f"{word}{reason}")
        except RedisDown:
            return self._wait("redis_down", 1 + chance(), root.tries or None)
        except Exception:
            log.exception("bug", extra={"delivery": self.delivery_id})
            return self._park("bug", "a defect of Doorbell; its log has the place")

    async def _event(self) -> tuple[Meta, Entrance, Event]:
        try:
            meta, raw = await self.context.ledger.delivery(self.delivery_id)
        except Gone:
            raise Parked("delivery_expired") from None
        entrance = self.context.settings.entrances.get(meta.hook)
        if entrance is None:
            raise Parked("hook_not_configured")
        return meta, entrance, recall(entrance, meta, raw)

    async def _meaning(self, entrance: Entrance, event: Event) -> list[VisitChange] | Ignored:
        """What the event means, with its records. Ignored only if every part of it is."""
        tool = entrance.tool
        gets = tool.fetch(event) if tool.fetch else []
        if not gets:
            return tool.translate(event)
        changes: list[VisitChange] = []
        ignored = Ignored("nothing")
        for get in gets:
            fetched_at = await self.context.ledger.now()
            record = await self._get(entrance, get)
            meaning = tool.translate(event.with_record(record, fetched_at))
            if isinstance(meaning, Ignored):
                if meaning == GONE and since_s(int(event.received_at.timestamp() * 1000)) < LAG_S:
                    raise Lagging
                ignored = meaning
            else:
                changes += meaning
        return changes or ignored

    async def _get(self, entrance: Entrance, get: Get) -> Any:
        """The record as JSON; None where the tool says that there is none."""
        source = entrance.tool.source
        base = (entrance.hook.api_url or source.api or "").rstrip("/")
        headers = {"accept": "application/json", **source.headers_out, **credentials(entrance)}
        call = f"GET {get.path.partition('/')[0]}"
        try:
            if get.query:
                asked = {"query": get.query, "variables": dict(get.variables)}
                answer = await self.context.http.post(base, json=asked, headers=headers)
            else:
                answer = await self.context.http.get(f"{base}/{get.path}", headers=headers)
        except httpx.HTTPError as error:
            raise silence(call, error, self.calls) from None
        self.calls.append([call, answer.status_code])
        return read_record(call, answer)

    # -- what comes of trouble --

    def _after(self, failed: VisitsApiTrouble) -> Outcome:
        """As for the Visits API, but every event by itself: a tool's API that is down holds up its own events only."""
        root = self.hold.root
        failing_for_s = since_s(root.failed_since)
        if isinstance(failed, Unauthorized):
            if self.context.schedule.is_over(failing_for_s):
                return self._park("credentials_refused", failed.said)
            return self._wait("credentials_refused", CREDENTIALS_WAIT_S * (0.5 + chance() / 2), root.tries, failed.said)
        if isinstance(failed, RateLimited):
            return self._wait(str(failed), (failed.wait_s or 15.0) + chance(), root.tries or None, failed.said)
        decision = decide(failed, self.context.schedule, root.tries, failing_for_s, chance())
        if decision.due_s is None:
            return self._park(decision.reason, failed.said)
        return self._wait(decision.reason, decision.due_s, decision.tries, failed.said)

    def _wait(self, reason: str, due_s: float, tries: int | None, said: str = "") -> Outcome:
        attempt = self.clock.attempt("waiting", self.calls, said)
        return Outcome(state="waiting", attempt=attempt, reason=reason, due_s=due_s, tries=tries)

    def _park(self, reason: str, said: str = "") -> Outcome:
        log.warning("event parked", extra={"delivery": self.delivery_id, "reason": reason})
        attempt = self.clock.attempt("parked", self.calls, said)
        return Outcome(state="parked", attempt=attempt, reason=reason, tries=self.hold.root.tries + 1)


def credentials(entrance: Entrance) -> Mapping[str, str]:
    """The header that a request for a record shows. Raises Parked with the names of the settings that are missing."""
    wanted, given = entrance.tool.source.credentials, entrance.hook.credentials
    missing = [name for name in wanted.names if name not in given] if wanted else []
    if wanted is None or missing:
        names = ", ".join(f"HOOKS__{entrance.name.upper()}__CREDENTIALS__{name}" for name in missing)
        raise Parked(f"credentials_missing: {names}")
    if isinstance(wanted, Basic):
        pair = f"{given[wanted.user]}:{given[wanted.password]}".encode()
        return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {"authorization": f"{wanted.word} {given[wanted.token]}"}


def read_record(call: str, answer: httpx.Response) -> Any:
    """Raises VisitsApiTrouble by status, as for our own API; an answer that is no JSON may be right the next time."""
    if answer.status_code in (404, 410):
        return None
    if not answer.is_success:
        raise trouble(call, answer)
    if len(answer.content) > LARGEST_RECORD:
        raise Refused(call, answer.status_code, "the record is larger than a record is")
    try:
        record = orjson.loads(answer.content)
    except ValueError:
        raise Broken(call, answer.status_code, "the answer is not JSON") from None
    if failed := _graphql_trouble(record):
        raise failed(call, answer.status_code, "said inside a 200")
    return record


#: What GraphQL says with status 200, by its `errors[].extensions.code`.
GRAPHQL_TROUBLE = {
    "THROTTLED": RateLimited,
    "UNAUTHENTICATED": Unauthorized,
    "INTERNAL_SERVER_ERROR": Broken,
}


def _items(errors: Json) -> list[Json]:
    return list(errors) if isinstance(errors.value, list) else []


def _graphql_trouble(record: Any) -> type[VisitsApiTrouble] | None:
    for error in _items(Json(record).at("errors")):
        code = error.at("extensions", "code").value
        if isinstance(code, str) and code in GRAPHQL_TROUBLE:
            return GRAPHQL_TROUBLE[code]
    return None
