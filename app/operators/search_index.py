"""Finding visits from what one has: an e-mail address or a phone number. Neither stands in an index: only their digests
under SECRET_KEY do, each with the newest few of its visits."""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from app.ledger import keys
from app.ledger.encryption import derive_key
from app.ledger.ids import TaskId
from app.ledger.redis import Redis
from app.visits.change import Contact

MAX_VISITS_PER_KEY = 200
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_PHONE = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,24}")


def normalize_email(text: str) -> str:
    """As it is digested; empty if it is none."""
    return text.strip().lower() if _EMAIL.fullmatch(text.strip()) else ""


def normalize_phone(text: str) -> str:
    """The last ten digits: with and without its country a number is the same one. Empty if it is none."""
    return re.sub(r"\D", "", text)[-10:] if _PHONE.fullmatch(text.strip()) else ""


async def index(redis: Redis, work: TaskId, contact: Contact, key: str, keep_ms: int) -> None:
    """Let the visit be found by whose it is. Raises RedisUnavailable."""
    now, asked = int(time.time() * 1000), list[tuple[Any, ...]]()
    for name in filter(None, (normalize_email(contact.email or ""), normalize_phone(contact.phone or ""))):
        place = index_key(name, key)
        asked.append(("ZADD", place, now, work))
        asked.append(("ZREMRANGEBYRANK", place, 0, -MAX_VISITS_PER_KEY - 1))
        # The visit that is kept longest decides: one in half a year is found after another one of this week is gone.
        asked.append(("PEXPIRE", place, keep_ms, "NX"))
        asked.append(("PEXPIRE", place, keep_ms, "GT"))
    if asked:
        await redis.commands(*asked)


async def lookup(redis: Redis, text: str, secret_keys: Sequence[str], limit: int = 50) -> list[TaskId]:
    """The visits of that address or number, newest first. secret_keys: all of SECRET_KEY. Raises RedisUnavailable."""
    places = [
        index_key(name, key)
        for name in filter(None, (normalize_email(text), normalize_phone(text)))
        for key in secret_keys
    ]
    found: Iterable[list[bytes]] = await asyncio.gather(
        *(redis.command("ZREVRANGE", place, 0, limit - 1) for place in places)
    )
    return list(dict.fromkeys(TaskId(work.decode()) for works in found for work in works))[:limit]


def index_key(name: str, key: str) -> str:
    """Where the visits of an address or a number are. name: as it is digested."""
    return f"{keys.CONTACT_INDEX}{derive_key(key, f'doorbell.find {name}').hex()[:32]}"
