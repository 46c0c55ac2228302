"""The stored hooks in Redis, each encrypted under SECRET_KEY."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from app.ledger import keys, scripts
from app.ledger.encryption import Keyring, TamperedValue, UnknownKey
from app.ledger.ids import new_token
from app.ledger.redis import Redis

#: More hooks cannot be stored, and none can be larger.
MAX_STORED_HOOKS, MAX_HOOK_BYTES = 200, 65_536

StoreResult = Literal["stored", "changed", "full"]
#: The purpose of the key that encrypts the tokens of a hook.
TOKEN_PURPOSE = "doorbell.token"


class HookUnreadable(Exception):
    """A stored hook cannot be decrypted. The argument is a sentence for an operator."""


class HookTable(NamedTuple):
    """The stored hooks as they are in Redis: encrypted, by name. version: empty if no hook was ever stored."""

    version: str
    hooks: Mapping[str, bytes]


class EncryptedHooks:
    """Reads and writes the stored hooks. Methods with I/O may raise RedisUnavailable."""

    def __init__(self, redis: Redis, secret_key: Sequence[str]) -> None:
        """secret_key: the keys of SECRET_KEY, at least one."""
        self._redis, self._keyring = redis, Keyring(secret_key, "doorbell.hook")

    async def version(self) -> str:
        return _decode(await self._redis.command("GET", keys.STORED_HOOKS_VERSION))

    async def load(self) -> HookTable:
        # In this order: a hook that changes in between has another version, and is loaded again. A server that accepts no
        # writes would refuse a script.
        version, flat = await self._redis.pipeline([("GET", keys.STORED_HOOKS_VERSION), ("HGETALL", keys.STORED_HOOKS)])
        return HookTable(
            _decode(version), {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        )

    async def store(self, name: str, hook: bytes, expected: bytes = b"") -> StoreResult:
        """Encrypt and store a hook if the stored value is still `expected`, as it was loaded. hook: empty to remove it."""
        encrypted = self._keyring.encrypt(hook, _place(name)) if hook else b""
        reply = await self._redis.script(
            scripts.store_hook(
                name=name, expected=expected, value=encrypted, version=new_token(), limit=MAX_STORED_HOOKS
            )
        )
        result: StoreResult = reply.decode()
        return result

    def decrypt(self, name: str, encrypted: bytes) -> bytes:
        """Raise HookUnreadable."""
        try:
            return self._keyring.decrypt(encrypted, _place(name))
        except UnknownKey as error:
            raise HookUnreadable(f"it is encrypted with a key that SECRET_KEY lacks ({error})") from None
        except TamperedValue as error:
            raise HookUnreadable(f"it was changed after it was encrypted with key {error}") from None

    def has_newest_key(self, encrypted: bytes) -> bool:
        return self._keyring.is_newest(encrypted)


def _place(name: str) -> str:
    return f"{keys.STORED_HOOKS}:{name}"


def _decode(reply: bytes | None) -> str:
    return reply.decode() if reply else ""
