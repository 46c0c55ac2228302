"""What an operator does about what happened: replay, discard."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from app.cli.filters import filter_of, filters
from app.cli.reach import with_ledger
from app.cli.words import NOTHING_MATCHED, PARTLY_FAILED, USAGE, agree, as_json, end, examples, show_rows, table
from app.explain import Explain
from app.filter import STATES, Filter
from app.ledger import Gone, Ledger
from app.replay import Replay, Step, Stuck, Tally
from app.selection import Mode
from app.settings import Settings
from app.signals import ACTIONS
from app.tally import note

#: More rows than this are counted and not shown, unless as JSON.
SHOWN = 20


@click.command(
    epilog=examples(
        "replay --state parked --reason 422 --since 2h --plan",
        "replay standard-A-5 --contact cont_KYdl3lftgZXGRbxqoj --yes",
        "replay --hook calendly --since 7d --rederive --plan",
    )
)
@click.argument("ids", nargs=-1)
@filters(STATES)
@click.option("--rederive", "mode", flag_value="rederive", help="Translate the stored bodies with today's code.")
@click.option("--reconcile", "mode", flag_value="reconcile", help="Fetch the truth from the tool.")
@click.option("--fresh", is_flag=True, help="Ask the Visits API what stands there, instead of remembering.")
@click.option("--contact", default="", help="Whose visits they are: Review Rover's cont_….")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def replay(
    ids: tuple[str, ...],
    mode: Mode | None,
    fresh: bool,
    contact: str,
    only_plan: bool,
    yes: bool,
    as_json: bool,
    **words: str | datetime | None,
) -> None:
    """Put deliveries or visits back to work: by their IDs, or all that fit a filter. Without --rederive or --reconcile the
    same facts are sent again. Facts that newer ones decided do not change by it."""
    filter = filter_of(words, ids=ids)
    if filter.is_empty:
        end(USAGE, "say what to replay: IDs, or a filter like --state parked (see --help)")
    if ids and filter != Filter(ids=ids):
        end(USAGE, "give IDs or a filter, not both")

    def replay_of(ledger: Ledger, settings: Settings) -> Replay:
        return Replay(ledger, settings, mode or "retry", fresh=fresh, contact=contact)

    async def plan(ledger: Ledger, settings: Settings) -> Tally:
        tally = Tally(SHOWN)
        async for step in replay_of(ledger, settings).plan(filter):
            tally.add(step)
            if as_json and only_plan:
                show_rows([_row(step)], as_json)
        return tally

    tally = with_ledger(plan)
    if not tally.steps:
        end(NOTHING_MATCHED, "nothing matched")
    if not as_json:
        _show_plan(tally)
    if only_plan or not tally.todo:
        sys.exit(_status(tally))
    agree(f"Put {tally.todo} back to work?", yes)

    async def carry_out(ledger: Ledger, settings: Settings) -> Tally:
        await note(ledger.redis, ACTIONS, "replay")
        with _told(tally, as_json) as told:
            return await replay_of(ledger, settings).carry_out(filter, told)

    try:
        done = with_ledger(carry_out)
    except Stuck:
        end(PARTLY_FAILED, "no worker takes what was put back; the rest was left alone: start one, and say it again")
    click.echo(f"put back to work: {done.todo}; skipped: {done.skipped.total()}", err=True)
    sys.exit(_status(done))


@contextmanager
def _told(tally: Tally, as_json: bool) -> Iterator[Any]:
    """How each step is told while it is done: as a line of JSON, or on a bar, or, where there are few, in a table."""
    rows: list[dict[str, Any]] = []
    with click.progressbar(length=tally.steps, file=sys.stderr, hidden=as_json or not sys.stderr.isatty()) as bar:

        def told(step: Step, state: str) -> None:
            bar.update(1)
            if as_json:
                show_rows([{"id": step.id, "work": step.work, "state": state}], as_json)
            elif tally.steps <= SHOWN:
                rows.append({"id": step.id, "work": step.work, "state": state})

        yield told
    table(rows)


def _row(step: Step) -> dict[str, Any]:
    return asdict(step)


def _show_plan(tally: Tally) -> None:
    """Counts by reason, by call and by why something is skipped; then the first few, with what would be sent."""
    click.echo(f"{tally.steps} selected: {tally.todo} would be put back to work, {tally.skipped.total()} skipped")
    for title, counts in (("reason", tally.by_reason), ("call", tally.by_call), ("skipped", tally.skipped)):
        if counts:
            click.echo()
            table([{title: name, "count": count} for name, count in counts.most_common()])
    if tally.first:
        click.echo()
        table(
            [
                {"id": step.id, "call": call.call, "visit": call.visit, "sends": _sent(call.fields)}
                for step in tally.first
                for call in step.calls
            ]
        )
    if tally.todo > len(tally.first):
        click.echo(f"… and {tally.todo - len(tally.first)} more; --json shows all")
    click.echo()


def _sent(fields: Mapping[str, str | None]) -> str:
    return " ".join(f"{name}={value or ''}" for name, value in fields.items())


def _status(tally: Tally) -> int:
    """An unknown id does not stop the others, but it is told."""
    unknown = tally.skipped["unknown"]
    return NOTHING_MATCHED if unknown == tally.steps else PARTLY_FAILED if unknown else 0


@click.command(epilog=examples("discard standard-A-2", "discard d019a3b1c2d0a1b2c3d4e standard-A-2 --yes --json"))
@click.argument("ids", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def discard(ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Give up what has not been applied of deliveries or visits. An unknown ID does not stop the others."""
    agree(f"Give up the changes of {', '.join(ids)} that have not been applied?", yes)

    async def give_up(ledger: Ledger, settings: Settings) -> list[dict[str, Any]]:
        await note(ledger.redis, ACTIONS, "discard")
        explain, rows = Explain(ledger, settings), list[dict[str, Any]]()
        for id in ids:
            try:
                works = await explain.works(id)
                delivery = "" if await explain.is_visit(id) else id
            except Gone:
                rows.append({"id": id, "work": None, "discarded": None})
                continue
            rows += [{"id": id, "work": work, "discarded": await ledger.discard(work, delivery)} for work in works]
        return rows

    rows = with_ledger(give_up)
    show_rows(rows, as_json)
    unknown = [row["id"] for row in rows if row["work"] is None]
    if unknown:
        click.echo(f"there is no delivery or visit {', '.join(unknown)}, or no longer", err=True)
    if any(row["work"] and row["discarded"] < 0 for row in rows):
        end(PARTLY_FAILED, "what a worker has in its hands cannot be given up; try again in a moment")
    sys.exit(0 if not unknown else NOTHING_MATCHED if len(unknown) == len(rows) else PARTLY_FAILED)
