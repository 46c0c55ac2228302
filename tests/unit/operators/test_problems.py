"""What an operator does first about a problem."""

import shlex
from typing import get_args
from urllib.parse import urlsplit

import click

from app.cli import main
from app.console.routes import ROUTES
from app.operators.problems import FIRST_STEPS, Problem, ProblemKind


def test_every_kind_of_problem_has_a_first_step() -> None:
    assert set(get_args(ProblemKind)) == FIRST_STEPS.keys()


def test_a_first_step_is_a_command_and_a_page_that_exist() -> None:
    steps = [Problem(kind, "warn", "A problem.", "shop").first_step("calendly") for kind in get_args(ProblemKind)]

    context = click.Context(main)
    commands = {shlex.split(step.command)[1] for step in steps}
    paths = {urlsplit(step.page).path.removeprefix("/console") or "/" for step in steps}
    pages = [route for route in ROUTES if route.methods and "GET" in route.methods]

    assert [] == [name for name in commands if main.get_command(context, name) is None]
    assert [] == [path for path in paths if not any(route.path_regex.fullmatch(path) for route in pages)]


def test_without_a_hook_the_first_command_is_doctor() -> None:
    assert "doorbell resume shop" == Problem("paused", "warn", "Paused.", "shop").first_step().command
    assert "doorbell doctor" == Problem("paused", "warn", "Paused.").first_step().command


def test_the_name_of_a_hook_is_quoted_in_an_address() -> None:
    assert "/console/rejections?hook=a%26b" == Problem("moved", "warn", "Moved.", "a&b").first_step().page
