"""The command line: `doorbell`, or `python -m app`."""

import click


@click.group()
def main() -> None:
    """Signed webhooks from scheduling tools become the right visits in Review Rover."""


@main.command()
@click.option("--port", default=9000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--file", default=":memory:", show_default=True, help="Where the visits are kept.")
@click.option("--token", help="The only bearer token that is let in; by default any is.")
def sandbox(port: int, host: str, file: str, token: str | None) -> None:
    """A Visits and Contacts API of our own, for first runs and tests."""
    import uvicorn

    from app.visits.sandbox import create_sandbox

    uvicorn.run(create_sandbox(file, token), host=host, port=port, access_log=False, log_level="warning", timeout_graceful_shutdown=1)
