"""Who did what at the desk: a stream in Redis, the newest ten thousand lines of it."""

import re
from dataclasses import dataclass

from app.connection import Redis
from app.explain import moment
from app.signals import ACTIONS
from app.tally import note

KEY, KEPT = "db:audit-log", 10_000
#: Somebody may have looked for one.
_ADDRESS = re.compile(r"[^\s=&]+(?:@|%40)[^\s=&]+")


@dataclass(frozen=True, slots=True)
class Line:
    id: str
    at: str
    who: str
    role: str
    did: str
    what: str


class AuditLog:
    """Raises RedisDown: what cannot be written down is not done."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def note(self, who: str, role: str, did: str, what: str = "", *, action: str = "") -> None:
        """did: a verb. what: an id or a filter; never anything personal. action: what it is counted as, one of few."""
        told = ("who", who[:80], "role", role, "did", did, "what", _ADDRESS.sub("•••", what)[:300])
        await self._redis.command("XADD", KEY, "MAXLEN", "~", KEPT, "*", *told)
        await note(self._redis, ACTIONS, action or did.replace(" ", "_"))

    async def newest(self, before: str = "", most: int = 50) -> list[Line]:
        """Newest first. before: the id of the last line that was seen."""
        start = f"({before}" if re.fullmatch(r"\d{1,15}-\d{1,15}", before) else "+"
        flat = await self._redis.command("XREVRANGE", KEY, start, "-", "COUNT", most)
        return [_line(id.decode(), fields) for id, fields in flat]


def _line(id: str, fields: list[bytes]) -> Line:
    told = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    at = moment(int(id.partition("-")[0])) or ""
    return Line(id, at, told.get("who", ""), told.get("role", ""), told.get("did", ""), told.get("what", ""))
