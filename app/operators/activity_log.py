"""Who did what at the desk: a stream in Redis, the newest ten thousand lines of it."""

import re
from dataclasses import dataclass

from app.ledger.redis import Redis
from app.ledger.times import moment
from app.telemetry.counters import note
from app.telemetry.metric_names import ACTIONS

KEY, KEPT = "db:audit-log", 10_000
#: Failed log-ins are one line for so long: how many, and which line.
FAILED, FAILED_LINE, FAILED_S = "db:login-attempts:failed", "db:login-attempts:line", 900
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
        await self._redis.commands(("XADD", KEY, "MAXLEN", "~", KEPT, "*", *told))
        await note(self._redis, ACTIONS, action or did.replace(" ", "_"))

    async def failed_log_in(self, address: str) -> None:
        """The line of this quarter of an hour is written anew with the count, so that nobody can push others out."""
        [count, _] = await self._redis.commands(("INCR", FAILED), ("EXPIRE", FAILED, FAILED_S, "NX"))
        tried = f"{count} wrong password{'' if count == 1 else 's'} in a quarter of an hour, the last from {address}"
        told = ("who", "somebody", "role", "", "did", "failed to log in", "what", tried)
        [line] = await self._redis.commands(("XADD", KEY, "MAXLEN", "~", KEPT, "*", *told))
        [before] = await self._redis.commands(("SET", FAILED_LINE, line, "EX", FAILED_S, "GET"))
        if before and count > 1:
            await self._redis.command("XDEL", KEY, before)
        await note(self._redis, ACTIONS, "failed_to_log_in")

    async def newest(self, before: str = "", most: int = 50) -> list[Line]:
        """Newest first. before: the id of the last line that was seen."""
        start = f"({before}" if re.fullmatch(r"\d{1,15}-\d{1,15}", before) else "+"
        flat = await self._redis.command("XREVRANGE", KEY, start, "-", "COUNT", most)
        return [_line(id.decode(), fields) for id, fields in flat]


def _line(id: str, fields: list[bytes]) -> Line:
    told = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    at = moment(int(id.partition("-")[0])) or ""
    return Line(id, at, told.get("who", ""), told.get("role", ""), told.get("did", ""), told.get("what", ""))
