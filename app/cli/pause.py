"""`doorbell pause` and `resume`."""

import click

from app.cli.completion import complete_hooks
from app.cli.output import NOTHING_MATCHED, did_you_mean, examples, exit_with, print_message
from app.cli.session import actions, run_with_ledger
from app.ledger.ledger import Ledger
from app.settings.model import Settings

hook = click.argument("hook", shell_complete=complete_hooks)


@click.command(epilog=examples("pause calendly"))
@hook
def pause(hook: str) -> None:
    """Pause calls to the Visits API for a hook's account.

    Deliveries are accepted, tasks are held and no attempts are counted. Hooks with the same Visits API token have one
    account and pause together.
    """
    account, hooks = _set_paused(hook, True)
    print_message(f"{hooks}: calls for the account {account} are paused until `doorbell resume {hook}`")


@click.command(epilog=examples("resume calendly"))
@hook
def resume(hook: str) -> None:
    """Resume calls to the Visits API for a hook's account.

    Held tasks run, those of the earliest visits first; if the API limits the rate, not before it allows calls again.
    HOOK may also be an account whose hooks were removed from the settings.
    """
    account, hooks = _set_paused(hook, False)
    print_message(f"{hooks}: calls for the account {account} are resumed")


def _set_paused(hook: str, is_paused: bool) -> tuple[str, str]:
    """Return the account, and the names of all its hooks."""

    async def step(ledger: Ledger, settings: Settings) -> tuple[str, str]:
        account = settings.accounts.get(hook, "" if is_paused else hook)
        if hook not in settings.accounts and not (account and await ledger.is_paused(account)):
            exit_with(
                NOTHING_MATCHED,
                f"there is no hook {hook}{did_you_mean(hook, settings.accounts) or ': see `doorbell sources`'}",
            )
        act = actions(ledger, settings)
        if not await (act.pause(account) if is_paused else act.resume(account)):
            exit_with(NOTHING_MATCHED, f"the account {account} is {'paused already' if is_paused else 'not paused'}")
        return account, ", ".join(settings.hooks_for(account)) or account

    return run_with_ledger(step)
