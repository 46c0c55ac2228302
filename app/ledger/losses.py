"""What Redis lost when it restarted or failed over: noticed by its run id, then found by comparing with the Visits API."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import orjson

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.redis import Redis

TTL_MS = 7 * 86_400_000
MAX_NAMED = 5


@dataclass(slots=True)
class Loss:
    """The last restart or failover of Redis, and what its audit found.

    changed_at_ms: when a worker noticed it. audited_at_ms: 0 until the audit has ended. visit_count: how many it compared.
    visits: those that the Visits API has and the ledger lacked. different: how many have other values in the API.
    is_complete: whether the audit saw every visit that the API created in the period. problem: why the last attempt failed.
    """

    changed_at_ms: int
    audited_at_ms: int = 0
    visit_count: int = 0
    visits: list[TaskId] = field(default_factory=list)
    different: int = 0
    is_complete: bool = True
    problem: str = ""


class Losses:
    """Every method may raise RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._run_id = redis, ""

    async def notice_other_server(self) -> bool:
        """Return True to the first process that sees another server than before, or a restarted one."""
        run_id = self._redis.run_id
        if run_id in ("", self._run_id):
            return False
        [previous] = await self._redis.commands(("SET", keys.SERVER, run_id, "GET"))
        # A server that lost everything has no earlier run id, but this process may know one.
        is_other = previous.decode() != run_id if previous else bool(self._run_id)
        self._run_id = run_id
        return is_other

    async def may_be_recent(self) -> bool:
        """Whether Redis restarted or failed over within the last days, so that it may lack what a run wrote."""
        server, loss = await self._redis.pipeline([("GET", keys.SERVER), ("GET", keys.LOSS)])
        return loss is not None or server not in (None, self._redis.run_id.encode())

    async def load(self) -> Loss | None:
        stored = await self._redis.command("GET", keys.LOSS)
        if not stored:
            return None
        values = orjson.loads(stored)
        return Loss(**values | {"visits": [*map(TaskId, values["visits"])]})

    async def store(self, loss: Loss) -> None:
        await self._redis.commands(("SET", keys.LOSS, orjson.dumps(asdict(loss)), "PX", TTL_MS))

    async def lost_visits(self) -> list[TaskId]:
        """Return the visits that the last audit found and that still have no change: their webhooks were not sent again."""
        loss = await self.load()
        return await self.without_changes(loss.visits) if loss else []

    async def without_changes(self, visits: Sequence[TaskId]) -> list[TaskId]:
        have = await self._redis.pipeline([("HEXISTS", f"{keys.TASK}{visit}", "changes") for visit in visits])
        return [visit for visit, has_changes in zip(visits, have, strict=True) if not has_changes]


def visit_names(visits: Sequence[TaskId]) -> str:
    """Return the first external ids, and the number of the others."""
    first = ", ".join(visit.external_id for visit in visits[:MAX_NAMED])
    return f"{first} and {len(visits) - MAX_NAMED} more" if len(visits) > MAX_NAMED else first
