"""`doorbell completion`."""

import click
from click.shell_completion import get_completion_class

from app.cli.output import examples


@click.command(
    epilog=examples("completion bash >> ~/.bashrc", "completion zsh >> ~/.zshrc", "completion fish > doorbell.fish")
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """What SHELL is to read, so that it completes commands, options, and the names of sources, hooks and specimens."""
    kind = get_completion_class(shell)
    assert kind
    click.echo(kind(context.find_root().command, {}, "doorbell", "_DOORBELL_COMPLETE").source())
