"""The checks of a delivery of `standard`, which every peer does as Doorbell does: type, size, signature, time, fields."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ValidationError

from tests.bench.deliveries import KEY, MAX_SIZE


class Contact(BaseModel):
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None


class Visit(BaseModel):
    visit_id: str
    contact: Contact | None = None
    time_scheduled: AwareDatetime | None = None
    time_completed: AwareDatetime | None = None
    amount_collected: Decimal | None = None
    date_cancelled: AwareDatetime | None = None


class Body(BaseModel):
    type: Literal["visit.created", "visit.updated", "visit.completed", "visit.cancelled"]
    timestamp: AwareDatetime
    data: Visit


class Rejected(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"rejected with {status}")
        self.status = status


def verify(headers: Mapping[str, str], raw: bytes) -> None:
    """Check everything except the fields of the body. Raises Rejected."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Rejected(415)
    if len(raw) > MAX_SIZE:
        raise Rejected(413)
    id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    expected = signature(id, stamp, raw)
    signatures = headers.get("webhook-signature", "").split(" ")
    if not any(hmac.compare_digest(expected, value.encode()) for value in signatures):
        raise Rejected(401)
    if abs(time.time() - int(stamp)) > 300:
        raise Rejected(401)


def check(headers: Mapping[str, str], raw: bytes) -> tuple[str, str]:
    """Return the arguments of the job: the delivery's id and its body. Raises Rejected."""
    verify(headers, raw)
    try:
        Body.model_validate_json(raw)
    except ValidationError:
        raise Rejected(400) from None
    return headers["webhook-id"], raw.decode()


def signature(id: str, stamp: str, raw: bytes) -> bytes:
    message = f"{id}.{stamp}.".encode() + raw
    return b"v1," + base64.b64encode(hmac.digest(KEY, message, hashlib.sha256))
