"""Workers, and the tasks whose leases they have."""

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
    live, states, reply = await asyncio.gather(
        live_workers(console.redis),
        console.lists.count_by_state(),
        console.redis.command("ZRANGE", RUNNING, 0, ROWS - 1, "WITHSCORES"),
    )
    running = [
        (task_id.decode(), float(expires_at)) for task_id, expires_at in zip(reply[::2], reply[1::2], strict=True)
    ]
    return await render(request, "workers.html", workers=live, states=states, running=running)
