"""Finds the contact_id of an e-mail address: in the cache, else in the API, else by creating a contact."""

import asyncio
from dataclasses import dataclass

from app.ledger import keys
from app.ledger.ledger import Ledger
from app.ledger.locks import KeyedLocks, LockContended, single_flight
from app.ledger.redis import RedisUnavailable
from app.visits.change import Contact
from app.visits.client import ClientError, OutcomeUnknown, Record, VisitsApiError, VisitsClient
from jobs.retry import outcome_is_unknown

CACHE_TTL_MS = 30 * 86_400_000
LOCK_TTL_S = 30.0
#: The longest wait for another job of this process, which needs no polling, and for another worker.
LOCAL_LOCK_WAIT_S, LOCK_WAIT_S = 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Contacts:
    """The contacts of one account. hash_key: for the digests under which e-mail addresses are cached."""

    ledger: Ledger
    account: str
    hash_key: bytes
    locks: KeyedLocks

    def cache_key(self, contact: Contact) -> str | None:
        return contact.cache_key(self.hash_key)

    async def resolve(self, contact: Contact, api: VisitsClient) -> str | None:
        """Return the contact_id; None if the contact has no e-mail address, or was erased.

        Raises VisitsApiError, LockContended, RedisUnavailable.
        """
        name = self.cache_key(contact)
        if contact.id or name is None:
            return contact.id
        cache = f"{keys.CONTACT}{self.account}:{name}"
        contact_id = _decode(await self.ledger.redis.command("GET", cache))
        if contact_id or contact.is_erased:
            return contact_id
        async with self.locks.hold(cache, LOCAL_LOCK_WAIT_S, LockContended):
            return await single_flight(
                self.ledger,
                cache,
                ttl_s=LOCK_TTL_S,
                wait_s=LOCK_WAIT_S,
                decode=_decode,
                produce=lambda: self._find_or_create(contact, api),
                encode=str.encode,
                keep_ms=CACHE_TTL_MS,
                keeps_lock=_may_be_created,
            )

    async def evict(self, contact: Contact) -> None:
        """Remove the cached contact_id, because the API no longer has this contact."""
        await self.ledger.redis.command("DEL", f"{keys.CONTACT}{self.account}:{self.cache_key(contact)}")

    async def _find_or_create(self, contact: Contact, api: VisitsClient) -> str:
        assert contact.email
        contacts = await api.find_contacts(contact.email)
        if not contacts:
            try:
                contacts = [await api.create_contact(contact.to_dict())]
            except ClientError as error:
                if error.status not in (409, 422):
                    raise
                contacts = await api.find_contacts(contact.email)
                if not contacts:
                    raise
        if not all(contact.get("id") for contact in contacts):
            contacts = await api.find_contacts(contact.email)
        if not contacts:
            raise OutcomeUnknown("POST /contacts", response_text="created, but not listed yet")
        return _oldest(contacts)


def _decode(stored: bytes | None) -> str | None:
    return stored.decode() if stored else None


def _oldest(contacts: list[Record]) -> str:
    """Return the id of the oldest contact, so that every run chooses the same one of several with one address."""
    return str(min(contacts, key=lambda contact: (str(contact.get("created_at")), str(contact.get("id"))))["id"])


def _may_be_created(error: BaseException) -> bool:
    """Whether the API may still create the contact, so that another run must not create a second one."""
    if isinstance(error, asyncio.CancelledError | RedisUnavailable):
        return True
    return isinstance(error, VisitsApiError) and outcome_is_unknown(error)
