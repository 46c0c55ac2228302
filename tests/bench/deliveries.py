"""Signed requests for the load generator: one kind of delivery for each way to sign, encode and reject."""

import base64
import functools
import hashlib
import hmac
import json
import random
import time
from typing import Any
from urllib.parse import urlencode

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
FORM_KEY = "api-key-of-the-bench"
PRIVATE_KEY = "MC4CAQAwBQYDK2VwBCIEII0BwVCFKKWMPp1vpdD7RoSCj5/6fKYYYlfT1EO+lu+H"
PUBLIC_KEY = "MCowBQYDK2VwAyEA7EFfRXEkd+AkJ2Thdta6Rs2q/J/dIhOgA9KBlKfUS2M="
MAX_SIZE = 262_144
WORDS = ("water", "heater", "kitchen", "sink", "annual", "check", "boiler", "garden", "call before", "ring twice")


def post(path: str, content_type: str, raw: bytes, headers: dict[str, str]) -> bytes:
    lines = {"host": "127.0.0.1", "content-type": content_type, "content-length": str(len(raw)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + raw


@functools.cache
def notes(seed: int) -> str:
    """Return text that compresses as notes do: words and numbers."""
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(WORDS)} {rng.getrandbits(32):x}" for _ in range(MAX_SIZE // 12))


def body(number: int, seed: int, size: int) -> bytes:
    """Return the body of `standard` for a new visit. size: in bytes; a small body may be larger."""
    rng = random.Random(seed * 1_000_003 + number)
    data = {
        "visit_id": f"B-{seed}-{number}",
        "contact": {"email": f"person{number}.{seed}@example.com", "first_name": "Ada", "last_name": "Lovelace"},
        "time_scheduled": f"2026-03-{1 + number % 28:02}T{number % 24:02}:00:00Z",
        "amount_collected": "245.00",
        "date_cancelled": None,
        "notes": "",
    }
    payload = {"type": "visit.created", "timestamp": "2026-03-01T09:00:00Z", "data": data}
    length = max(0, size - len(json.dumps(payload)))
    start = rng.randrange(max(1, len(notes(seed)) - length))
    data["notes"] = notes(seed)[start : start + length]
    return json.dumps(payload).encode()


def standard(path: str, number: int, seed: int, size: int = 2048) -> bytes:
    """Return a delivery signed as Standard Webhooks: HMAC of id, time and body."""
    raw, id, stamp = body(number, seed, size), f"msg_{seed}_{number}", str(int(time.time()))
    signature = base64.b64encode(hmac.digest(KEY, f"{id}.{stamp}.".encode() + raw, hashlib.sha256)).decode()
    headers = {"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": f"v1,{signature}"}
    return post(path, "application/json", raw, headers)


def rejected(path: str, number: int, seed: int, size: int = 2048) -> bytes:
    """Return a delivery whose body was changed after it was signed."""
    return standard(path, number, seed, size).replace(b"245.00", b"245.01")


def public_key(path: str, number: int, seed: int, size: int = 2048) -> bytes:
    """Return an appointment of GoHighLevel, signed with Ed25519."""
    booked_at = "2026-03-01T09:00:00Z"
    payload: dict[str, Any] = {
        "type": "AppointmentCreate",
        "locationId": "bench",
        "appointment": {
            "id": f"A-{seed}-{number}",
            "contactId": f"C-{number}",
            "appointmentStatus": "confirmed",
            "startTime": f"2026-03-{1 + number % 28:02}T{number % 24:02}:00:00Z",
            "dateUpdated": booked_at,
            "notes": "",
        },
        "timestamp": booked_at,
        "webhookId": f"msg_{seed}_{number}",
    }
    payload["appointment"]["notes"] = notes(seed)[: max(0, size - len(json.dumps(payload)))]
    raw = json.dumps(payload).encode()
    signature = base64.b64encode(private_key().sign(raw)).decode()
    return post(path, "application/json", raw, {"x-ghl-signature": signature})


@functools.cache
def private_key() -> Any:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    return load_der_private_key(base64.b64decode(PRIVATE_KEY), None)


def form(path: str, number: int, seed: int, size: int = 0) -> bytes:
    """Return a form of Acuity, signed with HMAC. It has an id only, so its size is fixed."""
    fields = {"action": "scheduled", "id": f"{seed}{number:06}", "calendarID": "1", "appointmentTypeID": "2"}
    raw = urlencode(fields).encode()
    signature = base64.b64encode(hmac.digest(FORM_KEY.encode(), raw, hashlib.sha256)).decode()
    return post(path, "application/x-www-form-urlencoded", raw, {"x-acuity-signature": signature})


KINDS = {"standard": standard, "rejected": rejected, "public_key": public_key, "form": form}
