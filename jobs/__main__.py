"""`python -m jobs` starts the worker."""

import click

from jobs.worker import run

click.command("jobs", help="Start the worker.")(run)(prog_name="python -m jobs")
