"""An index of visits by e-mail address and phone number.

It contains only digests of these, made with SECRET_KEY, each with its newest visits.
"""

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
    """Return the address in the form that is digested, or an empty string if the text is not an address."""
    return text.strip().lower() if _EMAIL.fullmatch(text.strip()) else ""


def normalize_phone(text: str) -> str:
    """Return the last ten digits, since the country code may be missing; empty if the text is not a phone number."""
    return re.sub(r"\D", "", text)[-10:] if _PHONE.fullmatch(text.strip()) else ""


async def index(redis: Redis, task_id: TaskId, contact: Contact, key: str, keep_ms: int) -> None:
    """Add the visit under its contact's address and number. Raises RedisUnavailable."""
    now, commands = int(time.time() * 1000), list[tuple[Any, ...]]()
    for name in filter(None, (normalize_email(contact.email or ""), normalize_phone(contact.phone or ""))):
        place = index_key(name, key)
        commands.append(("ZADD", place, now, task_id))
        commands.append(("ZREMRANGEBYRANK", place, 0, -MAX_VISITS_PER_KEY - 1))
        # The entry expires with the visit that is stored longest.
        commands.append(("PEXPIRE", place, keep_ms, "NX"))
        commands.append(("PEXPIRE", place, keep_ms, "GT"))
    if commands:
        await redis.commands(*commands)


async def lookup(redis: Redis, text: str, secret_keys: Sequence[str], limit: int = 50) -> list[TaskId]:
    """Return the visits of an address or number, newest first. secret_keys: all of SECRET_KEY. Raises RedisUnavailable."""
    places = [
        index_key(name, key)
        for name in filter(None, (normalize_email(text), normalize_phone(text)))
        for key in secret_keys
    ]
    pages: Iterable[list[bytes]] = await asyncio.gather(
        *(redis.command("ZREVRANGE", place, 0, limit - 1) for place in places)
    )
    return list(dict.fromkeys(TaskId(task_id.decode()) for page in pages for task_id in page))[:limit]


def index_key(name: str, key: str) -> str:
    """Return the key of the visits of a normalized address or number."""
    return f"{keys.CONTACT_INDEX}{derive_key(key, f'doorbell.find {name}').hex()[:32]}"
