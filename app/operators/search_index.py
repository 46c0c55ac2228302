"""An index of visits by the e-mail address, the phone number, and the words of the name of their contact.

It contains only digests of these, made with SECRET_KEY, each with visits: `app.ledger.buckets` stores them.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain

from app.ledger import buckets
from app.ledger.encryption import derive_key
from app.ledger.ids import TaskId
from app.ledger.redis import Redis
from app.visits.change import Contact

#: The newest visits of a digest that a search finds; those that a filter selects, or one step of an erasure removes.
MAX_VISITS_PER_KEY, MAX_SELECTED = 200, 10_000
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
    names = _index_names(contact.email or "", contact.phone or "", full_name(contact.first_name, contact.last_name))
    if names:
        entries = [(_digest(name, key), task_id.subject) for name in names]
        await buckets.add(redis, buckets.CONTACTS, entries, keep_ms)


async def lookup(redis: Redis, text: str, secret_keys: Sequence[str], limit: int = 50) -> list[TaskId]:
    """Return the visits of an address or number, newest first. secret_keys: all of SECRET_KEY. Raises RedisUnavailable."""
    names = filter(None, (normalize_email(text), normalize_phone(text)))
    pages = await _visits(redis, [_digest(name, key) for name in names for key in secret_keys], limit)
    return list(dict.fromkeys(chain.from_iterable(pages)))[:limit]


async def lookup_name(redis: Redis, text: str, secret_keys: Sequence[str], limit: int = 50) -> list[TaskId]:
    """Return the visits whose contact has all of these words in the name, newest first. Raises RedisUnavailable."""
    words = name_words(text)
    if not words:
        return []
    visits = list[TaskId]()
    for key in secret_keys:
        digests = [_digest(f"{NAME_PREFIX}{word}", key) for word in words]
        newest, *others = await _visits(redis, digests, MAX_VISITS_PER_KEY)
        visits += [task_id for task_id in newest if all(task_id in other for other in others)]
    return list(dict.fromkeys(visits))[:limit]


async def _visits(redis: Redis, digests: Sequence[bytes], limit: int) -> list[list[TaskId]]:
    """Return the visits of each digest."""
    subjects = await buckets.find(redis, buckets.CONTACTS, digests, limit) if digests else []
    return [[TaskId(f"visit:{each}") for each in some] for some in subjects]


async def remove_visits(
    redis: Redis, visits: Iterable[TaskId], phones: Iterable[str], names: Iterable[str], secret_keys: Sequence[str]
) -> None:
    """Remove these numbers and the words of these names from the entries of the visits. Raises RedisUnavailable."""
    parts = {*filter(None, map(normalize_phone, phones))}
    parts |= {f"{NAME_PREFIX}{word}" for name in names for word in name_words(name)}
    digests = [_digest(part, key) for part in sorted(parts) for key in secret_keys]
    await _remove(redis, [(digest, task_id) for digest in digests for task_id in visits])


async def remove_email(redis: Redis, email: str, secret_keys: Sequence[str]) -> None:
    """Remove all entries of a normalized address. Raises RedisUnavailable."""
    digests = [_digest(email, key) for key in secret_keys]
    pages = await _visits(redis, digests, MAX_SELECTED)
    await _remove(redis, [(digest, task_id) for digest, page in zip(digests, pages, strict=True) for task_id in page])


async def _remove(redis: Redis, entries: Sequence[tuple[bytes, TaskId]]) -> None:
    await buckets.remove(redis, buckets.CONTACTS, [(digest, task_id.subject) for digest, task_id in entries])


def full_name(first: str | None, last: str | None) -> str:
    return " ".join(filter(None, (first, last)))


def _digest(name: str, key: str) -> bytes:
    """Return the digest of a normalized address or number, or of a word with its prefix."""
    return derive_key(key, f"doorbell.find {name}")
