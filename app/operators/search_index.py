"""An index of visits by the e-mail address, the phone number, and the words of the name of their contact.

It contains only digests of these, made with SECRET_KEY, each with its newest visits.
"""

import asyncio
import re
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from app.ledger import keys
from app.ledger.encryption import derive_key
from app.ledger.ids import TaskId
from app.ledger.redis import Redis
from app.visits.change import Contact

MAX_VISITS_PER_KEY = 200
#: Words of one name. Prefixed, no word of a name has the digest of an address or number.
MAX_WORDS, NAME_PREFIX = 4, "name "
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_PHONE = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,24}")


def normalize_email(text: str) -> str:
    """Return the address in the form that is digested, or an empty string if the text is not an address."""
    return text.strip().lower() if _EMAIL.fullmatch(text.strip()) else ""


def normalize_phone(text: str) -> str:
    """Return the last ten digits, since the country code may be missing; empty if the text is not a phone number."""
    return re.sub(r"\D", "", text)[-10:] if _PHONE.fullmatch(text.strip()) else ""


def name_words(text: str) -> list[str]:
    """Return the words of a name in the form that is digested: in lower case, without accents."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    words = re.findall(r"[^\W\d_]{2,}", plain.casefold())
    return list(dict.fromkeys(words))[:MAX_WORDS]


def _index_names(email: str, phone: str, name: str) -> list[str]:
    """Return what the keys of a contact are digests of."""
    own = [normalize_email(email), normalize_phone(phone), *(f"{NAME_PREFIX}{word}" for word in name_words(name))]
    return list(filter(None, own))


async def index(redis: Redis, task_id: TaskId, contact: Contact, key: str, keep_ms: int) -> None:
    """Add the visit under its contact's address, number and name. Raises RedisUnavailable."""
    now, commands = int(time.time() * 1000), list[tuple[Any, ...]]()
    for name in _index_names(
        contact.email or "", contact.phone or "", full_name(contact.first_name, contact.last_name)
    ):
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


async def lookup_name(redis: Redis, text: str, secret_keys: Sequence[str], limit: int = 50) -> list[TaskId]:
    """Return the visits whose contact has all of these words in the name, newest first. Raises RedisUnavailable."""
    words = name_words(text)
    if not words:
        return []
    visits = list[bytes]()
    for key in secret_keys:
        places = [index_key(f"{NAME_PREFIX}{word}", key) for word in words]
        newest, *others = await redis.pipeline([("ZREVRANGE", place, 0, -1) for place in places])
        visits += [task_id for task_id in newest if all(task_id in other for other in others)]
    return [TaskId(task_id.decode()) for task_id in dict.fromkeys(visits)][:limit]


def name_keys(name: str, secret_keys: Sequence[str]) -> list[str]:
    """Return the keys of the visits of all words of a name."""
    return [index_key(f"{NAME_PREFIX}{word}", key) for word in name_words(name) for key in secret_keys]


def full_name(first: str | None, last: str | None) -> str:
    return " ".join(filter(None, (first, last)))


def index_key(name: str, key: str) -> str:
    """Return the key of the visits of a normalized address or number, or of a word with its prefix."""
    return f"{keys.CONTACT_INDEX}{derive_key(key, f'doorbell.find {name}').hex()[:32]}"
