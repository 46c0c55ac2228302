"""A change of Calendly's payloads, as a worker notices it."""

import json
import time

from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NewDelivery
from app.settings.model import Settings
from app.telemetry.payload_watch import PayloadWatch, Samples, payload_changes
from app.webhooks.delivery import Delivery
from tests.support.specimens import events


async def notice_new_status(ledger: Ledger, settings: Settings) -> str:
    """Accept a delivery with an unknown status, have a worker look at it, and return its id."""
    specimen = events("calendly")[0]
    body = json.loads(specimen.delivery.body)
    body["payload"]["status"] = "tentative"
    delivery = Delivery("calendly", "calendly", (), json.dumps(body).encode(), specimen.delivery.received_at)
    info = DeliveryInfo("calendly", "calendly", int(time.time() * 1000))
    id = (await ledger.accept(NewDelivery(delivery, info, [], "main", dedup_id=None))).delivery_id
    while not await payload_changes(ledger.redis):  # a running worker may be looking just now
        await PayloadWatch(ledger, settings, Samples()).step()
    return id
