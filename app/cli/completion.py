"""Completion of values: names from the settings and sources, ids and reasons from Redis. It never fails or waits."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from app.cli.session import load_settings_or_none, open_ledger
from app.ledger.ledger import Ledger
from app.ledger.reasons import REASONS, find_reason
from app.ledger.records import NotFound
from app.ledger.redis import RedisUnavailable
from app.operators.filter import Filter
from app.settings.model import Settings
from app.webhooks.registry import load_sources, load_specimens

if TYPE_CHECKING:
    from app.operators.explain import Row

#: A shell waits for its completions.
TIMEOUT_S = 1.5
#: The number of the newest ids that are completed.
MAX_IDS = 50


def complete_sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items({name: tool.definition.title for name, tool in load_sources().items()}, incomplete)


def complete_hooks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    settings = load_settings_or_none()
    return _items(dict.fromkeys(settings.hooks, "") if settings else {}, incomplete)


def complete_specimens(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the specimens of the source, which is the preceding argument."""
    source = str(ctx.params.get("source"))
    deliveries = load_specimens(source)["deliveries"] if source in load_sources() else []
    return _items({delivery["name"]: "" for delivery in deliveries}, incomplete)


def complete_reasons(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the reasons of the present failures, of failed calls only the status; without failures, all reasons."""
    present = _load(_failure_reasons) or {name: reason.title for name, reason in REASONS.items() if reason.actions}
    return _items(present, incomplete)


def complete_deliveries(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_load(_newest_deliveries), incomplete)


def complete_visits(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_load(_newest_visits), incomplete)


def complete_failures(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_load(_failures), incomplete)


def complete_operations(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_load(_operations), incomplete)


def complete_open_operations(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_load(_open_operations), incomplete)


def complete_actions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from app.operators.activity_log import ACTIONS

    return _items(dict.fromkeys(ACTIONS, ""), incomplete)


def _items(values: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value, help=help) for value, help in values.items() if value.startswith(incomplete)]


# -- from Redis --

Values = Mapping[str, str]


def _load(read: Callable[[Ledger, Settings], Awaitable[Values]]) -> Values:
    """Return the values with their descriptions; none without settings or Redis."""
    settings = load_settings_or_none()
    if settings is None or not settings.redis_url:
        return {}

    async def run() -> Values:
        async with asyncio.timeout(TIMEOUT_S), open_ledger(settings) as ledger:
            return await read(ledger, settings)

    with suppress(RedisUnavailable, NotFound, TimeoutError):
        return asyncio.run(run())
    return {}


async def _failure_reasons(ledger: Ledger, settings: Settings) -> Values:
    from app.operators.explain import Explain
    from app.operators.lists import Lists

    groups = await Lists(ledger, settings, Explain(ledger, settings)).group_by_reason()
    reasons: Iterable[str] = (group.reason for group in groups if group.reason)
    return {_searchable(reason): find_reason(reason).title for reason in reasons}


def _searchable(reason: str) -> str:
    """Return a part of the reason without blanks, which finds it too."""
    name, _, details = reason.partition(": ")
    return name if name in REASONS else details.split()[-1] if details else name


async def _newest_deliveries(ledger: Ledger, settings: Settings) -> Values:
    rows = await _newest_rows(ledger, settings, Filter())
    deliveries = {row["delivery"]: f"{row.get('event', '')} {row['state']}".strip() for row in rows}
    return deliveries | _visits_of(rows)


async def _newest_visits(ledger: Ledger, settings: Settings) -> Values:
    return _visits_of(await _newest_rows(ledger, settings, Filter()))


def _visits_of(rows: "Iterable[Row]") -> dict[str, str]:
    return {visit: row["state"] for row in rows for visit in row.get("visits", ())}


async def _failures(ledger: Ledger, settings: Settings) -> Values:
    rows = await _newest_rows(ledger, settings, Filter(state="parked"))
    return {row["id"]: find_reason(row.get("reason") or "").title for row in rows}


async def _newest_rows(ledger: Ledger, settings: Settings, filter: Filter) -> "list[Row]":
    from app.operators.explain import Explain
    from app.operators.lists import Lists

    return (await Lists(ledger, settings, Explain(ledger, settings)).deliveries(filter, MAX_IDS)).rows


async def _operations(ledger: Ledger, settings: Settings, *, open_only: bool = False) -> Values:
    from app.operators.operations import Operations

    operations = await Operations(ledger, settings).newest(MAX_IDS)
    return {
        operation.id: f"{operation.request.kind} {operation.request.selection}"
        for operation in operations
        if operation.is_open or not open_only
    }


async def _open_operations(ledger: Ledger, settings: Settings) -> Values:
    return await _operations(ledger, settings, open_only=True)
