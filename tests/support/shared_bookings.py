"""A worker with an endpoint for the webhooks of bookings with several people."""

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


class BookingWorld(World):
    """A worker with the hooks of the booking tools."""

    async def receive(self, source: str, *bodies: Body) -> list[dict[str, Any]]:
        """Send the bodies, signed, and return the responses."""
        hooks = self.context.settings.active_hooks
        endpoint = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        path = self.context.settings.hook_url(hooks[source]).removeprefix("https://hooks.example.com")
        responses = []
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://doorbell") as client:
            for body in bodies:
                raw = json.dumps(body).encode()
                headers = {"content-type": "application/json", **SIGNED[source](raw)}
                response = await client.post(path, content=raw, headers=headers)
                assert response.status_code in (200, 202), response.text
                responses.append(response.json())
        return responses

    async def process(self, source: str, *bodies: Body) -> None:
        """Send each body and run its tasks before the next one arrives."""
        for body in bodies:
            await self.receive(source, body)
            await self.run()

    def review_requests(self) -> list[tuple[str, str]]:
        """Return the person and the event date of every visit that is not cancelled."""
        emails = {
            contact["id"]: contact["email"] for contact in self.harness.get_from_api("/contacts?limit=100")["data"]
        }
        visits = [visit for visit in self.harness.visits() if not visit.get("date_cancelled")]
        return sorted((emails[visit["contact_id"]].split("@")[0], visit["event_date"]) for visit in visits)

    async def parked(self) -> list[str]:
        task_ids = await self.ledger.task_ids("parked")
        return [(await self.ledger.load_task(task_id)).reason.removeprefix("untranslatable: ") for task_id in task_ids]

    async def in_every_order(self, source: str, bodies: Sequence[Body], max_orders: int = 8) -> list[tuple[str, str]]:
        """Return the review requests, which are the same in every order, and when each body is sent twice."""
        orders = list(itertools.permutations(bodies))
        results = set()
        for order in orders[:: max(1, len(orders) // max_orders)]:
            await self.redis.command("FLUSHDB")
            self.harness.control("POST", "reset")
            await self.process(source, *order)
            await self.receive(source, *order)
            await self.run()
            results.add(tuple(self.review_requests()))
        assert len(results) == 1, results
        return list(results.pop())


def _hex(raw: bytes) -> str:
    return hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()


SIGNED = {
    "savvycal": lambda raw: {"x-savvycal-signature": f"sha256={_hex(raw).upper()}"},
    "appointlet": lambda raw: {},  # the hook's URL contains a token
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
