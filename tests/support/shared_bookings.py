"""Webhooks of several people's bookings go through the endpoint and the worker."""

import hashlib
import hmac
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import httpx

from app.intake.endpoint import WebhookEndpoint
from app.telemetry.rejections import Rejections
from tests.support.visit_worker import World

SECRET = "a-secret-of-thirty-two-characters"

Body = dict[str, Any]


class Door(World):
    """A world with the hooks of the booking tools."""

    async def ring(self, source: str, *bodies: Body) -> list[dict[str, Any]]:
        """The answers."""
        hooks = self.context.settings.active_hooks
        intake = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        path = self.context.settings.hook_url(hooks[source]).removeprefix("https://hooks.example.com")
        answers = []
        async with httpx.AsyncClient(transport=httpx.ASGITransport(intake), base_url="http://door") as client:
            for body in bodies:
                raw = json.dumps(body).encode()
                headers = {"content-type": "application/json", **SIGNED[source](raw)}
                answer = await client.post(path, content=raw, headers=headers)
                assert answer.status_code in (200, 202), answer.text
                answers.append(answer.json())
        return answers

    async def hear(self, source: str, *bodies: Body) -> None:
        """Each is worked off before the next one arrives."""
        for body in bodies:
            await self.ring(source, body)
            await self.run()

    def asked(self) -> list[tuple[str, str]]:
        """Who will be asked for a review, and about which time."""
        emails = {
            contact["id"]: contact["email"] for contact in self.harness.get_from_api("/contacts?limit=100")["data"]
        }
        visits = [visit for visit in self.harness.visits() if not visit.get("date_cancelled")]
        return sorted((emails[visit["contact_id"]].split("@")[0], visit["event_date"]) for visit in visits)

    async def parked(self) -> list[str]:
        works = await self.ledger.task_ids("parked")
        return [(await self.ledger.load_task(work)).reason.removeprefix("untranslatable: ") for work in works]

    async def in_every_order(self, source: str, bodies: Sequence[Body], most: int = 8) -> list[tuple[str, str]]:
        """Who is asked, which is the same in every order, and when each is told twice."""
        orders = list(itertools.permutations(bodies))
        found = set()
        for order in orders[:: max(1, len(orders) // most)]:
            await self.redis.command("FLUSHDB")
            self.harness.http.post(f"{self.harness.sandbox.url}/_sandbox/reset").raise_for_status()
            await self.hear(source, *order)
            await self.ring(source, *order)
            await self.run()
            found.add(tuple(self.asked()))
        assert len(found) == 1, found
        return list(found.pop())


def _hex(raw: bytes) -> str:
    return hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()


SIGNED = {
    "savvycal": lambda raw: {"x-savvycal-signature": f"sha256={_hex(raw).upper()}"},
    "appointlet": lambda raw: {},  # its address has a token
    "youcanbookme": lambda raw: {"X-Doorbell-Token": SECRET},
    "calcom": lambda raw: {"X-Cal-Signature-256": _hex(raw)},
}

FIRST, SECOND, THIRD = "2026-10-01T15:00:00Z", "2026-10-05T09:00:00Z", "2026-10-09T11:00:00Z"

ADA, BOB, CY = "ada@example.com", "bob@example.com", "cy@example.com"

PEOPLE = {ADA: 80001, BOB: 80002, CY: 80003}


def attendee(action: str, minute: int, email: str | None, **more: Any) -> Body:
    entity = {"type": "Attendee", "id": PEOPLE.get((email or "").lower()), "email": email, "meeting": 2751918, **more}
    return _activity(f"Attendee.{action}", minute, entity)


def _activity(action: str, minute: int, entity: Body) -> Body:
    at = f"2026-09-21T14:{minute:02}:00.200000Z"
    return {"id": f"{action} {minute}", "type": "Activity", "created_at": at, "action": action, "entity": entity}
