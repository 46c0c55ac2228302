"""`doorbell move`."""

import sys
from dataclasses import fields
from typing import Any

import click

from app.cli.completion import complete_hooks
from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    confirm,
    did_you_mean,
    examples,
    exit_with,
    json_option,
    print_json,
    print_message,
)
from app.cli.session import actions, cell_url, open_other_ledger, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.locks import LockContended
from app.ledger.moves import MoveRefused
from app.operators.account_moves import Move, MovePlan
from app.settings.model import Settings


@click.command(epilog=examples("move east --to west --dry-run", "move east --to redis://west.internal:6379/0 --yes"))
@click.argument("hook", shell_complete=complete_hooks)
@click.option(
    "--to", "target", required=True, metavar="CELL", help="The other cell: a name in CELLS, or its REDIS_URL."
)
@click.option("--dry-run", "dry_run", is_flag=True, help="Only show what would move.")
@click.option(
    "--cancel", "is_cancelled", is_flag=True, help="End a move that has not switched yet: the account stays here."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def move(hook: str, target: str, dry_run: bool, is_cancelled: bool, yes: bool, as_json: bool) -> None:
    """Move a hook's account from this cell to another.

    All hooks of the account move together. Deliveries are accepted while the data is copied. Then their senders are told
    to retry for some seconds. After the switch, they must reach the other cell. A killed move continues when the
    command runs again.
    """
    if is_cancelled and dry_run:
        raise click.UsageError("--cancel and --dry-run cannot be combined")
    if is_cancelled:
        account = _run(hook, target, _cancel)
        return print_message(f"the account {account} stays in this cell")
    planned = _run(hook, target, lambda move: _plan(move, hidden=as_json or not sys.stderr.isatty()))
    if planned.phase == "moved" and not (planned.size.visits or planned.size.deliveries):
        exit_with(NOTHING_MATCHED, f"the account {planned.account} has moved already")
    if dry_run or not as_json:
        _print_plan(planned, as_json)
    if planned.problems:
        exit_with(CHECK_FAILED, "\n".join(("the account cannot move yet:", *planned.problems)))
    if dry_run:
        return print_message("nothing was moved")
    confirm(f"Move the account {planned.account} to {planned.target}?", yes)
    _run(hook, target, lambda move: _execute(move, hidden=as_json or not sys.stderr.isatty()))
    if as_json:
        print_json(_to_json(planned), as_json)
    hooks = " and ".join(f"/hooks/{name}" for name in planned.hooks)
    print_message(
        f"the account {planned.account} has moved: send the requests to {hooks} to the other cell now; this cell tells "
        "their senders to retry"
    )
    return None


#: What a move that was killed does next, by its phase.
CONTINUES = {
    "copying": "the copy",
    "closed": "with the changes since the copy",
    "moved": "with the start in the other cell",
}


def _run(hook: str, target: str, step: Any) -> Any:
    """Run a step with the move of the hook's account. A refused move ends the command."""

    async def run(ledger: Ledger, settings: Settings) -> Any:
        if hook not in settings.accounts:
            exit_with(NOTHING_MATCHED, f"there is no hook {hook}{did_you_mean(hook, settings.accounts)}")
        async with open_other_ledger(settings, cell_url(settings, target)) as other:
            return await step(Move(ledger, other, settings, settings.accounts[hook]))

    try:
        return run_with_ledger(run)
    except MoveRefused as error:
        exit_with(CHECK_FAILED, str(error))
    except LockContended:
        exit_with(CHECK_FAILED, "another process moves the account")


async def _plan(move: Move, hidden: bool) -> MovePlan:
    length = int(await move.source.redis.command("DBSIZE"))
    with click.progressbar(length=length, label="counting", file=sys.stderr, hidden=hidden) as bar:
        return await move.plan(bar.update)


async def _execute(move: Move, hidden: bool) -> None:
    act, length = actions(move.source, move.settings), int(await move.source.redis.command("DBSIZE"))
    with click.progressbar(length=2 * length, label="moving", file=sys.stderr, hidden=hidden) as bar:

        def show(step: str) -> None:
            bar.label = f"{step:60}"
            bar.render_progress()

        await move.execute(act, print_message if hidden else show, bar.update)


async def _cancel(move: Move) -> str:
    await move.cancel(actions(move.source, move.settings))
    return move.account


def _to_json(planned: MovePlan) -> dict[str, Any]:
    size = planned.size
    return {
        **{each.name: getattr(planned, each.name) for each in fields(planned) if each.name != "size"},
        **{each.name: getattr(size, each.name) for each in fields(size)},
    }


def _print_plan(planned: MovePlan, as_json: bool) -> None:
    size = planned.size
    if as_json:
        return print_json(_to_json(planned), as_json)
    unfinished = ", ".join(f"{count:,} {state}" for state, count in sorted(size.tasks.items())) or "none"
    stored = f", of them stored: {', '.join(planned.stored_hooks)}" if planned.stored_hooks else ""
    lines = {
        "account": planned.account,
        "hooks": ", ".join(planned.hooks) + stored,
        "from, to": f"{planned.source}, {planned.target}",
        "connections": ", ".join(planned.connections) or "none",
        "deliveries": f"{size.deliveries:,}",
        "visits": f"{size.visits:,}",
        "other keys": f"{size.other_keys:,}",
        "unfinished tasks": unfinished,
        "size": f"{size.bytes / 1e6:,.1f} MB" if size.bytes > 1e5 else f"{size.bytes / 1e3:,.0f} KB",
        **({"continues": CONTINUES[planned.phase]} if planned.phase in CONTINUES else {}),
    }
    for title, text in lines.items():
        click.echo(f"{title:18}{text}")
    return None
