"""Runs a step for several names at once, but never twice at once for one name, so a slow tool does not delay the others."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from app.ledger.redis import RedisUnavailable
from app.telemetry.logs import log

#: How long a round waits for its steps. Longer ones continue beside the next rounds.
ROUND_S = 1.0


class Turns:
    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self, names: Iterable[str], step: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Start the step for each name that has none running, and wait for a while.

        Raises what a step raised that ended since the last round. If several did, the others are logged.
        """
        for name in names:
            if name not in self._running:
                self._running[name] = asyncio.create_task(step(name))
        if not self._running:
            return
        await asyncio.wait(self._running.values(), timeout=ROUND_S)
        ended = {name: task for name, task in self._running.items() if task.done()}
        self._running = {name: task for name, task in self._running.items() if name not in ended}
        errors = [error for task in ended.values() if (error := task.exception())]
        errors.sort(key=lambda error: isinstance(error, RedisUnavailable))
        for error in errors[1:]:
            if not isinstance(error, RedisUnavailable):
                log.error("unhandled_exception", exc_info=error)
        if errors:
            raise errors[0]

    async def aclose(self) -> None:
        """Cancel the steps that still run."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
