"""Workers, and the tasks that they hold a lease of."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import context
from app.console.rendering import render
from app.ledger.keys import RUNNING
from app.telemetry.health import live_workers

ROWS = 50


async def workers(request: Request) -> Response:
    console = context(request)
    live, states, flat = await asyncio.gather(
        live_workers(console.redis),
        console.lists.count_by_state(),
        console.redis.command("ZRANGE", RUNNING, 0, ROWS - 1, "WITHSCORES"),
    )
    running = [(task.decode(), float(until)) for task, until in zip(flat[::2], flat[1::2], strict=True)]
    return await render(request, "workers.html", workers=live, states=states, running=running)
