"""The command line: `doorbell`, or `python -m app`. Data goes to stdout, messages to stderr.

A command's module is imported when the command runs. `doorbell --help` and completion read the docstrings of the
commands without importing them, since most commands import the settings, every source and the Redis client.
"""

import ast
import atexit
import errno
import gc
import importlib
import io
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from app import __version__
from app.cli.output import CHECK_FAILED, INTERRUPTED, UNREACHABLE, USAGE, did_you_mean, exit_with

ROOT = Path(__file__).parent.parent.parent
#: Allocations between two garbage collections of the youngest generation; Python's default is 700.
GC_THRESHOLD = 20_000
#: The commands by section, in the order of the help: each with its module.
COMMANDS: dict[str, dict[str, str]] = {
    "Try it": {"demo": "run", "sandbox": "run", "vendors": "run"},
    "Connect a tool": {
        "connect": "connect",
        "connections": "connect",
        "disconnect": "connect",
        "catch-up": "catch_up",
        "sources": "sources",
        "hooks": "hooks",
        "hook-url": "sources",
        "secrets": "sources",
        "ring": "specimens",
        "specimen": "specimens",
        "keep": "keep",
        "verify": "verify",
        "listen": "listen",
    },
    "Run": {"web": "run", "worker": "run", "doctor": "run", "settings": "status", "hash-password": "run"},
    "Inspect": {
        "overview": "status",
        "failures": "show",
        "deliveries": "show",
        "show": "show",
        "visits": "visits",
        "search": "visits",
        "visit": "show",
        "rejections": "show",
        "workers": "status",
        "operations": "status",
        "activity": "status",
        "tail": "tail",
        "drift": "drift",
        "export": "export",
    },
    "Act": {
        "replay": "replay",
        "discard": "replay",
        "cancel": "replay",
        "pause": "pause",
        "resume": "pause",
        "move": "move",
        "audit": "audit",
        "erase": "erase",
    },
}


#: Other names that people may try for some commands.
OTHER_NAMES = {
    "check": "doctor",
    "events": "deliveries",
    "forget": "erase",
    "list": "deliveries",
    "log": "activity",
    "requeue": "replay",
    "retry": "replay",
    "send": "ring",
    "status": "overview",
}


class QuotingBashComplete(BashComplete):
    """Completion for bash in which a value with blanks stays one word."""

    source_template = BashComplete.source_template.replace("read type value", "read -r type value")

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{_SPECIAL.sub(_ESCAPED, item.value)}"


_SPECIAL, _ESCAPED = re.compile(r"([^\w.@%+=:,/-])"), r"\\\1"


add_completion_class(QuotingBashComplete, "bash")


class CommandGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if name in section:
                module = importlib.import_module(f"app.cli.{section[name]}")
                command: click.Command = getattr(module, name.replace("-", "_"))
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            name = error.command_name
            question = f"; did you mean {OTHER_NAMES[name]}?" if name in OTHER_NAMES else ""
            question = question or did_you_mean(name, self.list_commands(ctx))
            raise click.UsageError(f"there is no command {name}{question}", ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [(name, module) for section in COMMANDS.values() for name, module in section.items()]
        items = [CompletionItem(name, help=summary(name, module)) for name, module in commands]
        matching = [item for item in items if item.value.startswith(incomplete)]
        return matching + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary(name, module)) for name, module in section.items()], col_max=16)

    def main(self, *args: Any, **options: Any) -> Any:
        _prepare_streams()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        # What a command imports stays until its end: looking for garbage there takes 30 ms, and once more at exit 40 ms.
        gc.set_threshold(GC_THRESHOLD)
        atexit.register(gc.freeze)
        # pydantic would read the metadata of all packages to find plugins, which takes 5 ms; none is used.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            _discard_output()
            sys.exit(0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            _discard_output()
            exit_with(UNREACHABLE, f"the output cannot be written: {error.strerror}")
        except UnicodeEncodeError:
            if all(map(_is_utf_8, sys.argv)):
                raise
            exit_with(USAGE, "an argument is not text in UTF-8")
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            # Imported late: the help imports no source.
            from app.webhooks.source import InvalidSource

            if isinstance(error, InvalidSource):
                exit_with(CHECK_FAILED, str(error))
            raise


def _prepare_streams() -> None:
    """Replace streams that a script has closed, and characters that the encoding of the terminal lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """At exit, Python would report that it cannot flush stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_utf_8(argument: str) -> bool:
    """Return False for bytes that Python could not decode."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Receive webhooks of scheduling tools and keep the visits in Review Rover up to date.

    Data goes to stdout, messages to stderr. Exit status: 0 done, 1 bug, 2 usage, 3 a check failed, 4 unreachable,
    5 nothing matched, 6 partly failed, 130 interrupted or not confirmed.
    """
    # Commands start processes, which must find the project from any folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def summary(name: str, module: str) -> str:
    """Return the first line of a command's docstring, without its period."""
    function = _functions(module)[name.replace("-", "_")]
    return (ast.get_docstring(function) or "").partition("\n")[0].removesuffix(".")


@cache
def _functions(module: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
