"""E-mail to contact_id: from the cache, else from the API, else made there; once per address at a time."""

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
#: For others in this process, which costs nothing, and for other workers.
LOCAL_LOCK_WAIT_S, LOCK_WAIT_S = 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Contacts:
    """key: of the digests under which addresses are remembered. turns: of this process."""

    ledger: Ledger
    account: str
    hash_key: bytes
    locks: KeyedLocks

    def cache_key(self, contact: Contact) -> str | None:
        return contact.name(self.hash_key)

    async def resolve(self, contact: Contact, api: VisitsClient) -> str | None:
        """Review Rover's id of the contact; None without an e-mail, or where it was forgotten.

        Raises VisitsApiTrouble, Busy, RedisUnavailable.
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
        """The API does not know the remembered id any more."""
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
            # While a contact may still be in the making, nobody else begins: then the lock runs out by itself.
            is_open = isinstance(error, VisitsApiTrouble) and outcome_is_unknown(error)
            if not is_open and not isinstance(error, asyncio.CancelledError | RedisUnavailable):
                await self.ledger.release_lock(lock, token)
            raise
        await self.ledger.release_lock(lock, token)
        return id

    async def _find_or_create(self, contact: Contact, api: VisitsClient) -> str:
        assert contact.email
        found = await api.find_contacts(contact.email)
        if not found:
            try:
                found = [await api.create_contact(contact.details())]
            except Refused as refused:
                if refused.status not in (409, 422):
                    raise
                found = await api.find_contacts(contact.email)
                if not found:
                    raise
        if not all(contact.get("id") for contact in found):
            found = await api.find_contacts(contact.email)
        if not found:
            raise Unanswered("POST /contacts", said="made, and not listed yet")
        return _oldest(found)


def _oldest(contacts: list[Record]) -> str:
    """Should there be several of one address, everybody takes the same one."""
    return str(min(contacts, key=lambda contact: (str(contact.get("created_at")), str(contact.get("id"))))["id"])
