"""What the commands have in common: how they end, how they show things, how they come to the ledger."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import click

from app import settings as configuration
from app.connection import Address, Redis, RedisDown
from app.ledger import Gone, Ledger
from app.settings import Settings, SettingsError

T = TypeVar("T")

BUG, USAGE, CHECK_FAILED, UNREACHABLE, NOTHING_MATCHED, PARTLY_FAILED = 1, 2, 3, 4, 5, 6

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
limit = click.option("--limit", default=50, show_default=True, help="How many at most.")
reveal = click.option("--reveal", is_flag=True, help="Show personal data too.")


class Moment(click.ParamType[datetime]):
    """`2h`: so long ago; or a time in ISO 8601, which is UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
        if ago := re.fullmatch(r"([0-9]{1,6})([smhdw])", str(value)):
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * units[ago[2]])
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value} is neither a time like 2026-03-14T09:00:00Z nor so long ago, like 30m, 2h or 7d")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def settings_or_none() -> Settings | None:
    try:
        return configuration.read(redis_needed=False)
    except SettingsError:
        return None


def with_ledger(step: Callable[[Ledger, Settings], Awaitable[T]]) -> T:
    """Run a step; its errors become an exit status and a sentence."""

    async def run() -> T:
        settings = configuration.read()
        async with opened(settings) as ledger:
            return await step(ledger, settings)

    try:
        return asyncio.run(run())
    except SettingsError as error:
        end(CHECK_FAILED, str(error))
    except RedisDown as error:
        end(UNREACHABLE, str(error))
    except Gone as error:
        end(NOTHING_MATCHED, f"there is no delivery or visit {error}, or no longer")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Ledger]:
    redis = Redis(Address.of(settings))
    try:
        yield Ledger(redis, settings.retention_days, settings.body_keys)
    finally:
        await redis.close()


def end(status: int, sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(status)


def print_story(story: dict[str, Any]) -> None:
    click.echo(json.dumps(story, indent=2, ensure_ascii=False))


def show_rows(rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    """A list: a table for people, one object a line for programs. Nothing in it: exit status 5."""
    rows = list(rows)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        table(rows)
    if not rows:
        end(NOTHING_MATCHED, "nothing")


def table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    names = list({name: None for row in rows for name in row})
    lines = [
        [name.upper().replace("_", " ") for name in names],
        *([_cell(row.get(name)) for name in names] for row in rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "–"
    return "–" if value is None or value == "" else str(value)
