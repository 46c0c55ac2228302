"""An overview of several cells: the worst problem and the numbers of each, read only from its Redis."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from app.ledger.ledger import Ledger
from app.ledger.redis import RedisUnavailable
from app.operators.explain import Explain
from app.operators.lists import Lists
from app.operators.overview import Overview, load_moves
from app.operators.problems import Level
from app.settings.model import Settings
from app.telemetry.health import live_workers, load_backlog, open_circuits


@dataclass(frozen=True, slots=True)
class CellStatus:
    """A cell. problem: the worst one, as a sentence. pending: tasks that are queued, waiting or held.

    oldest_s: for how long the oldest task has been due. The numbers of a cell that cannot be reached are 0.
    """

    cell: str
    level: Level
    problem: str = ""
    is_reachable: bool = True
    workers: int = 0
    pending: int = 0
    failures: int = 0
    oldest_s: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0


async def load_cells(ledgers: Mapping[str, Ledger], settings: Settings) -> list[CellStatus]:
    """Read all cells at once, by name. settings: those of this cell; the others may have other hooks."""
    return await asyncio.gather(*(_load_cell(name, ledger, settings) for name, ledger in ledgers.items()))


async def _load_cell(name: str, ledger: Ledger, settings: Settings) -> CellStatus:
    try:
        overview = await _load_overview(ledger, settings)
    except RedisUnavailable as error:
        return CellStatus(name, "bad", f"{error}.", is_reachable=False)
    problem = next(iter(overview.problems()), None)
    return CellStatus(
        name,
        problem.level if problem else "good",
        problem.sentence if problem else "",
        workers=len(overview.workers),
        pending=overview.pending,
        failures=overview.states["parked"],
        oldest_s=round(overview.backlog.oldest_s, 1),
        memory_bytes=overview.memory_bytes,
        memory_limit_bytes=overview.memory_limit_bytes,
    )


async def _load_overview(ledger: Ledger, settings: Settings) -> Overview:
    """Return an overview without hooks, which are in the settings of each cell."""
    redis, lists = ledger.redis, Lists(ledger, settings, Explain(ledger, settings))
    states, groups, workers, backlog, circuits, memory = await asyncio.gather(
        lists.count_by_state(),
        lists.group_by_reason(),
        live_workers(redis),
        load_backlog(redis, ()),
        open_circuits(redis, settings),
        redis.info("memory"),
    )
    return Overview(
        moves=await load_moves(redis, settings),
        states=states,
        groups=groups,
        workers=workers,
        backlog=backlog,
        circuits=circuits,
        memory_bytes=int(memory["used_memory"]),
        memory_limit_bytes=int(memory.get("maxmemory", 0)),
    )
