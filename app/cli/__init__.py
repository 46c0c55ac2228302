"""The command line: `doorbell`, or `python -m app`. Data goes to stdout, words to stderr.

The table below is all of it, in the order in which it is met. A module is imported when a command of it is asked for.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from app import __version__
from app.cli.output import INTERRUPTED

ROOT = Path(__file__).parent.parent.parent
#: By section: each command, its module, and what it is for.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "See it work": {
        "demo": ("run", "All of it on this machine, with nothing to set up"),
        "sandbox": ("run", "A Visits API of our own, for first runs"),
    },
    "Connect a tool": {
        "sources": ("sources", "What can ring, and how to connect it"),
        "hook-url": ("sources", "The address to paste into the tool"),
        "secrets": ("sources", "Which secrets are set, and when each last matched"),
        "ring": ("sources", "Send a really signed specimen"),
        "verify": ("verify", "Why does this signature not hold?"),
    },
    "Run": {
        "web": ("run", "The receiver"),
        "worker": ("run", "From what was written to the Visits API"),
        "doctor": ("run", "Is everything as it should be? Each trouble with its fix"),
        "settings": ("status", "What the environment says, without its secrets"),
        "hash-password": ("run", "A password for the console"),
        "completion": ("completion", "Completion for bash, zsh or fish"),
    },
    "Look": {
        "overview": ("status", "Is all well? A sentence, and the numbers"),
        "failures": ("show", "What needs an operator, and why"),
        "deliveries": ("show", "What arrived"),
        "show": ("show", "One delivery: what came of it, every attempt"),
        "visit": ("show", "One visit: every fact, and who said it"),
        "rejections": ("show", "What was not let in, and the likely cause"),
        "workers": ("status", "Who is at work"),
        "operations": ("status", "Replays and discards of the console, and how far they are"),
        "activity": ("status", "Who did what"),
        "tail": ("tail", "What arrives and what is done, as it happens"),
        "export": ("export", "Deliveries or visits as CSV or NDJSON"),
    },
    "Act": {
        "replay": ("replay", "Put deliveries or visits back to work; a plan first"),
        "discard": ("replay", "Give up what has not been applied"),
        "cancel": ("replay", "Stop an operation of the console"),
        "pause": ("pause", "Hold back what goes to the Visits API"),
        "resume": ("pause", "Let it go on"),
        "audit": ("audit", "Does the account show what our facts say?"),
        "erase": ("erase", "Remove a person's data; what was decided stays"),
    },
}


class CommandGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if name in section:
                module = importlib.import_module(f"app.cli.{section[name][0]}")
                found: click.Command = getattr(module, name.replace("-", "_"))
                return found
        return None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table, where click would import every command for its help."""
        commands = [(name, told) for section in COMMANDS.values() for name, (_, told) in section.items()]
        fitting = [CompletionItem(name, help=told) for name, told in commands if name.startswith(incomplete)]
        return fitting + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, told) for name, (_, told) in section.items()], col_max=16)

    def invoke(self, ctx: click.Context) -> Any:
        """Whoever interrupts, or reads no further, knows that they did."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # What is still in the buffer has nowhere to go, and Python would complain about it at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Signed webhooks from scheduling tools become the right visits in Review Rover.

    Data goes to stdout, words to stderr. Exit status: 0 done, 1 bug, 2 usage, 3 a check failed, 4 something unreachable,
    5 nothing matched, 6 partly failed, 130 interrupted.
    """
    # The processes that are started from here find the project from any folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
