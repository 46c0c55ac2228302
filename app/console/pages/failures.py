"""Tasks that need an operator."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import ConsoleContext, context
from app.console.rendering import render
from app.console.timezone import filter_of
from app.operators.filter import Filter
from app.operators.lists import MAX_GROUPED, FailureGroup
from app.operators.replay import Replay

#: Groups of failures whose newest one is planned, to see whether a replay may help.
MAX_GROUPS = 12


async def failures(request: Request) -> Response:
    console, filter = context(request), filter_of(request)
    lists = console.lists
    filter = Filter(reason=filter.reason, source=filter.source, since=filter.since, cursor=filter.cursor)
    total, rows, groups = await asyncio.gather(
        lists.count(Filter(state="parked")), lists.tasks(filter), lists.group_by_reason()
    )
    if filter.is_empty:
        matching = total
    elif filter.since:
        matching = await lists.count(replace(filter, state="parked"), MAX_GROUPED)
    else:  # the groups contain every failure, or the newest MAX_GROUPED
        matching = sum(group.count for group in groups if _is_in(group, filter))
    reasons, sources = Counter[str](), Counter[str]()
    for group in groups:
        reasons[group.reason] += group.count
        sources[group.source] += group.count
    return await render(
        request,
        "failures.html",
        filter=filter,
        rows=rows,
        matching=max(matching, len(rows.rows)),
        is_lower_bound=total > MAX_GROUPED and not filter.is_empty,
        total=total,
        replay_may_help=await _replay_may_help(console, [group for group in groups if _is_in(group, filter)]),
        reasons=dict(reasons.most_common(50)),
        sources=dict(sources),
    )


def _is_in(group: FailureGroup, filter: Filter) -> bool:
    return filter.reason in group.reason and filter.source in ("", group.source)


async def _replay_may_help(console: ConsoleContext, groups: Sequence[FailureGroup]) -> bool:
    """Return whether a replay may help any of the groups; of very many, the largest decide."""
    replay = Replay(console.ledger, console.settings)
    return any([await replay.may_help(group) for group in groups[:MAX_GROUPS]])


async def newer_count(request: Request) -> Response:
    """Render how the number of failures has changed since the list was rendered."""
    shown = request.query_params.get("shown", "")
    change = request.state.failure_count - int(shown) if re.fullmatch("[0-9]{1,12}", shown) else 0
    return await render(request, "newer_failures.html", filter=filter_of(request), change=change)
