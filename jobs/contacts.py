"""Finds the contact_id of an e-mail address: in the cache, else in the API, else by creating a contact."""

import asyncio
from dataclasses import dataclass

from app.ledger.ledger import Ledger, new_delivery_id
from app.ledger.redis import RedisUnavailable
from app.visits.change import Contact
from app.visits.client import Record, Refused, Unanswered, VisitsApiTrouble, VisitsClient
from jobs.concurrency import KeyedLocks
from jobs.errors import InProgressElsewhere
from jobs.retry import outcome_is_unknown

CACHE_TTL_MS = 30 * 86_400_000
LOCK_TTL_MS = 30_000
#: For another job of this process, which costs nothing, and for another worker.
LOCAL_LOCK_WAIT_S, LOCK_WAIT_S = 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Contacts:
    """hash_key: for the digests under which addresses are cached."""

    ledger: Ledger
    account: str
    hash_key: bytes
    locks: KeyedLocks

    def cache_key(self, contact: Contact) -> str | None:
        return contact.name(self.hash_key)

    async def resolve(self, contact: Contact, api: VisitsClient) -> str | None:
        """None: the contact has no e-mail address, or was erased.

        Raises VisitsApiTrouble, InProgressElsewhere, RedisUnavailable.
        """
        name = self.cache_key(contact)
        if contact.id or name is None:
            return contact.id
        cache = f"bell:contact:{self.account}:{name}"
        known = await self.ledger.redis.command("GET", cache)
        if known or contact.is_forgotten:
            return known and str(known.decode())
        return await self._resolve_alone(contact, api, cache)

    async def evict(self, contact: Contact) -> None:
        """Forget a contact_id that the API does not know any more."""
        await self.ledger.redis.command("DEL", f"bell:contact:{self.account}:{self.cache_key(contact)}")

    async def _resolve_alone(self, contact: Contact, api: VisitsClient, cache: str) -> str:
        async with self.locks.hold(cache, LOCAL_LOCK_WAIT_S, InProgressElsewhere):
            known = await self.ledger.redis.command("GET", cache)
            return str(known.decode()) if known else await self._resolve_locked(contact, api, cache)

    async def _resolve_locked(self, contact: Contact, api: VisitsClient, cache: str) -> str:
        redis, lock, token = self.ledger.redis, f"{cache}:lock", new_delivery_id()
        for _ in range(int(LOCK_WAIT_S / 0.1)):
            if await self.ledger.acquire_lock(lock, token, LOCK_TTL_MS / 1000):
                break
            await asyncio.sleep(0.1)
        else:
            raise InProgressElsewhere
        try:
            known = await redis.command("GET", cache)
            id = str(known.decode()) if known else await self._find_or_create(contact, api)
            await self.ledger.set_with_ttl(cache, id, CACHE_TTL_MS)
        except BaseException as error:
            # If a contact may still be created, the lock is left to expire, so that no other run creates a second one.
            may_be_created = isinstance(error, VisitsApiTrouble) and outcome_is_unknown(error)
            if not may_be_created and not isinstance(error, asyncio.CancelledError | RedisUnavailable):
                await self.ledger.release_lock(lock, token)
            raise
        await self.ledger.release_lock(lock, token)
        return id

    async def _find_or_create(self, contact: Contact, api: VisitsClient) -> str:
        assert contact.email
        contacts = await api.find_contacts(contact.email)
        if not contacts:
            try:
                contacts = [await api.create_contact(contact.details())]
            except Refused as error:
                if error.status not in (409, 422):
                    raise
                contacts = await api.find_contacts(contact.email)
                if not contacts:
                    raise
        if not all(contact.get("id") for contact in contacts):
            contacts = await api.find_contacts(contact.email)
        if not contacts:
            raise Unanswered("POST /contacts", said="created, and not listed yet")
        return _oldest(contacts)


def _oldest(contacts: list[Record]) -> str:
    """If several contacts have one address, every run chooses the same one."""
    return str(min(contacts, key=lambda contact: (str(contact.get("created_at")), str(contact.get("id"))))["id"])
