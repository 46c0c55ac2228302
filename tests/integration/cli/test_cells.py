"""`doorbell move` and `doorbell overview --cells`, with two cells."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from app.demo.valkey import free_port, valkey
from app.ledger.moves import Mark, save_mark
from app.ledger.redis import Redis, RedisAddress
from tests.support.command_line import ADA, TIME, activity_of, rows
from tests.support.harness import SECRET, Harness, Server, sign_standard, standard_body, wait_until

KEYS = {"SECRET_KEY": "secret-key-of-the-tests-0123456789", "BODY_KEYS": "body-key-of-the-tests-0123456789"}


@dataclass
class Cells:
    """Two cells; the hook `standard` is set in the environment of both, with the account main."""

    east: Harness
    west: Harness

    def move(self, hook: str, *options: str, **env: str) -> Any:
        return self.east.doorbell("move", hook, "--to", self.west.redis_url, *options, **env)

    def mark(self, east: Mark, west: Mark) -> None:
        """Set the marks of a move that was killed."""

        async def save(harness: Harness, mark: Mark) -> None:
            redis = Redis(RedisAddress(harness.redis_url))
            assert await save_mark(redis, "main", ["calendly", "standard"], Mark(), mark)
            await redis.close()

        asyncio.run(save(self.east, east))
        asyncio.run(save(self.west, west))


@pytest.fixture(scope="module")
def shared_cells(sandbox: Server) -> Iterator[Cells]:
    with ExitStack() as stack:
        harnesses = []
        for _ in range(2):
            harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
            harness.env |= {**KEYS, "CONTACT_FOR_S": "0.2"}
            harness.start_web()
            harness.start_worker()
            harnesses.append(harness)
        yield Cells(*harnesses)


@pytest.fixture
def cells(shared_cells: Cells) -> Cells:
    """Return two cells; the first has one visit that is done, one that failed, and one on hold."""
    for harness in (shared_cells.east, shared_cells.west):
        # A run that goes on after the reset would store the id of a contact that the sandbox no longer has.
        for state in ("bell:state:queued", "bell:state:running"):
            wait_until(lambda harness=harness, state=state: not harness.redis_command("ZCARD", state))  # type: ignore[misc]
        workers = harness.redis_command("ZRANGE", "bell:workers", 0, -1, "WITHSCORES")
        reports = [(key, harness.redis_command("GET", key)) for key in workers[::2]]
        harness.reset()
        for (key, report), beat in zip(reports, workers[1::2], strict=True):
            harness.redis_command("SET", key, report or b"{}")
            harness.redis_command("ZADD", "bell:workers", beat, key)
        wait_until(lambda harness=harness: rows(harness, "workers", "--json"))  # type: ignore[misc]
    east = shared_cells.east
    for visit, contact in (("A-1", ADA), ("A-2", {})):
        accepted = east.send("visit.created", visit, contact=contact, time_scheduled=TIME)
        assert 202 == accepted.status_code, accepted.text
    wait_until(lambda: east.visit("standard-A-1"), 60)
    wait_until(lambda: [row["id"] for row in rows(east, "failures", "--json")] == ["standard-A-2"], 60)
    east.doorbell("pause", "standard")
    east.send("visit.created", "A-3", contact=ADA, time_scheduled=TIME)
    wait_until(lambda: rows(east, "overview", "--json")[0]["states"]["held"])
    return shared_cells


def test_a_dry_run_counts_what_would_move(cells: Cells) -> None:
    result = cells.move("standard", "--dry-run")
    [report] = [json.loads(line) for line in cells.move("standard", "--dry-run", "--json").stdout.splitlines()]

    assert 0 == result.returncode
    for line in ("main", "calendly, standard", "deliveries        3", "visits            3", "1 held, 1 parked"):
        assert line in result.stdout
    assert "nothing was moved" in result.stderr
    assert ([], ["calendly", "standard"]) == (report["connections"], report["hooks"])
    assert (3, 3, {"held": 1, "parked": 1}) == (report["deliveries"], report["visits"], report["tasks"])
    assert 2_000 < report["bytes"] < 50_000
    assert 0 == cells.west.redis_command("EXISTS", "bell:move:main")
    assert not [action for action, _ in activity_of(cells.east) if action == b"started move"]


def test_an_account_moves_with_all_its_hooks_and_continues(cells: Cells) -> None:
    moved = cells.move("calendly", "--yes")
    refused = cells.east.send("visit.created", "A-4", contact=ADA, time_scheduled=TIME)
    accepted = cells.west.send("visit.created", "A-4", contact=ADA, time_scheduled=TIME)
    cells.west.doorbell("resume", "standard")

    assert 0 == moved.returncode, moved.stderr
    assert "send the requests to /hooks/calendly and /hooks/standard to the other cell" in " ".join(
        moved.stderr.split()
    )
    assert (503, "hook_moved", "5") == (refused.status_code, refused.json()["error"], refused.headers["retry-after"])
    assert 202 == accepted.status_code
    wait_until(lambda: cells.west.visit("standard-A-3") and cells.west.visit("standard-A-4"))
    assert ["standard-A-2"] == [row["id"] for row in rows(cells.west, "failures", "--json")]
    assert [] == rows(cells.east, "deliveries", "--json") + rows(cells.east, "failures", "--json")
    assert 0 == cells.west.doorbell("show", rows(cells.west, "deliveries", "--json")[-1]["delivery"]).returncode
    assert "standard-A-1" in cells.west.doorbell("search", ADA["email"]).stdout
    target = f"main to {RedisAddress(cells.west.redis_url)}".encode()
    assert [target] == [target for action, target in activity_of(cells.east) if action == b"started move"]
    problems = " ".join(cells.east.doorbell("overview").stdout.split())
    assert f"The account main has moved to the cell at {RedisAddress(cells.west.redis_url)}" in problems
    assert "doorbell rejections --hook calendly" in problems
    audit = cells.east.doorbell("audit")
    assert (6, "") == (audit.returncode, audit.stdout)
    assert "main: not compared, because it moves or has moved to another cell" in audit.stderr
    again = cells.move("standard", "--yes")
    assert (5, True) == (again.returncode, "has moved already" in again.stderr)


def test_an_account_moves_back(cells: Cells) -> None:
    east, west = cells.east, cells.west
    assert 0 == cells.move("standard", "--yes").returncode
    west.send("visit.created", "A-4", contact=ADA, time_scheduled=TIME)

    back = west.doorbell("move", "standard", "--to", "first", "--yes", CELLS=f"first={east.redis_url}")
    east.doorbell("resume", "standard")

    assert 0 == back.returncode, back.stderr
    wait_until(lambda: east.visit("standard-A-3") and east.visit("standard-A-4"))
    assert 503 == west.send("visit.created", "A-5", contact=ADA, time_scheduled=TIME).status_code
    assert 202 == east.send("visit.created", "A-5", contact=ADA, time_scheduled=TIME).status_code


def test_a_stored_hook_moves_and_its_tool_is_told_to_retry(cells: Cells) -> None:
    east, west = cells.east, cells.west
    secret = f"SECRET={SECRET}".encode()
    for hook in ("shop", "store"):
        east.doorbell("hooks", "add", hook, "--source", "standard", "--account", "shop", stdin=secret)
    raw = standard_body("visit.created", "S-1", contact=ADA, time_scheduled=TIME)
    wait_until(lambda: east.post(raw, sign_standard(raw), "shop").status_code in (200, 202))

    moved = cells.move("shop", "--yes")

    assert 0 == moved.returncode, moved.stderr
    other = standard_body("visit.created", "S-2", contact=ADA, time_scheduled=TIME)
    assert 503 == east.post(other, sign_standard(other), "shop").status_code
    assert 202 == west.post(other, sign_standard(other), "shop").status_code
    assert 202 == east.send("visit.created", "A-5", contact=ADA, time_scheduled=TIME).status_code
    assert {"shop", "store"} <= {row["hook"] for row in rows(west, "hooks", "--json")}
    for hook in ("shop", "store"):
        assert 0 == east.doorbell("hooks", "remove", hook, "--yes").returncode
    assert [] == east.redis_command("KEYS", "bell:move*")


PROBLEMS: dict[str, tuple[dict[str, str], str]] = {
    "another key": ({"SECRET_KEY": "another-key-of-the-tests-9876543210"}, "needs all keys of SECRET_KEY"),
    "another body key": ({"BODY_KEYS": "another-key-of-the-tests-9876543210"}, "needs all keys of BODY_KEYS"),
    "another token": ({"VISITS_API_TOKEN": "another"}, "needs the same Visits API token for the account main"),
    "an unknown hook": (
        {"HOOKS__NORTH__SOURCE": "standard", "HOOKS__NORTH__SECRETS": SECRET},
        "needs the hook north of standard in its environment, with the account main",
    ),
}


@pytest.mark.parametrize(("env", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_cell_with_other_settings_is_refused(cells: Cells, env: dict[str, str], problem: str) -> None:
    result = cells.move("standard", "--yes", **env)

    assert 3 == result.returncode
    assert problem in " ".join(result.stderr.split())
    assert 0 == cells.east.redis_command("EXISTS", "bell:move:main") + cells.west.redis_command(
        "EXISTS", "bell:move:main"
    )


def test_a_cell_that_cannot_take_the_account_is_refused(cells: Cells) -> None:
    east, west = cells.east, cells.west

    same = east.doorbell("move", "standard", "--to", east.redis_url, "--yes")
    west.send("visit.created", "A-1", contact=ADA, time_scheduled=TIME)
    full = cells.move("standard", "--yes")
    idle = east.doorbell("move", "standard", "--to", west.redis_url.removesuffix("/0") + "/1", "--dry-run")
    unreachable = east.doorbell("move", "standard", "--to", f"redis://127.0.0.1:{free_port()}/0", "--yes")

    assert (3, True) == (same.returncode, "same database" in same.stderr)
    assert (3, True) == (full.returncode, "already has visits or deliveries" in " ".join(full.stderr.split()))
    assert (3, True) == (idle.returncode, "no worker runs in the other cell" in idle.stderr)
    assert 4 == unreachable.returncode


def test_wrong_arguments_are_refused(cells: Cells) -> None:
    def status(*arguments: str, **env: str) -> tuple[int, str]:
        result = cells.east.doorbell("move", *arguments, **env)
        return result.returncode, " ".join(result.stderr.split())

    assert (5, "there is no hook standart; did you mean standard?") == status("standart", "--to", cells.west.redis_url)
    assert (2, "CELLS has no cell west") == status("standard", "--to", "west")
    assert (2, "CELLS has no cell wset; did you mean west?") == status(
        "standard", "--to", "wset", CELLS=f"west={cells.west.redis_url}"
    )
    assert 2 == status("standard", "--to", "https://west.example.com")[0]
    assert (2, True) == ((confirmed := status("standard", "--to", cells.west.redis_url))[0], "--yes" in confirmed[1])


def test_a_move_that_has_not_switched_can_be_cancelled(cells: Cells) -> None:
    east, west = cells.east, cells.west
    cells.mark(Mark("closed", "move-1", "elsewhere"), Mark("arriving", "move-1", "elsewhere"))
    assert 503 == east.send("visit.created", "A-4", contact=ADA, time_scheduled=TIME).status_code
    problems = " ".join(east.doorbell("overview").stdout.split())
    assert "The account main began to move to the cell at elsewhere" in problems
    assert "doorbell move calendly --to CELL" in problems

    cancelled = cells.move("standard", "--cancel")

    assert 0 == cancelled.returncode, cancelled.stderr
    assert 202 == east.send("visit.created", "A-4", contact=ADA, time_scheduled=TIME).status_code
    assert 503 == west.send("visit.created", "A-5", contact=ADA, time_scheduled=TIME).status_code
    east.doorbell("resume", "standard")
    wait_until(lambda: east.visit("standard-A-3") and east.visit("standard-A-4"))
    again = cells.move("standard", "--cancel")
    assert (3, True) == (again.returncode, "does not move" in again.stderr)
    target = f"main to {RedisAddress(west.redis_url)}".encode()
    assert [(b"cancelled move", target)] == [each for each in activity_of(east) if b"move" in each[0]]
    assert 0 == cells.move("standard", "--yes").returncode


def test_a_move_whose_first_mark_was_lost_begins_again(cells: Cells) -> None:
    east = RedisAddress(cells.east.redis_url)
    cells.mark(Mark(), Mark("arriving", "move-1", str(east)))
    cells.west.redis_command("HSET", "bell:visit:main/standard-A-1", "changes", 1)

    assert 0 == cells.move("standard", "--yes").returncode

    assert "ada@example.com" in str(cells.west.redis_command("HVALS", "bell:visit:main/standard-A-1"))


def test_a_move_does_not_continue_to_another_cell(cells: Cells) -> None:
    cells.mark(Mark("copying", "move-1", "north:6379"), Mark())

    result = cells.move("standard", "--yes")

    assert (3, True) == (result.returncode, "moves to the cell at north:6379" in " ".join(result.stderr.split()))


def test_the_overview_has_a_line_for_each_cell(cells: Cells) -> None:
    unreachable = f"redis://127.0.0.1:{free_port()}/0"
    settings = {"CELLS": f"east={cells.east.redis_url},west={cells.west.redis_url} north={unreachable}"}
    cells.east.doorbell("resume", "standard")
    wait_until(lambda: cells.east.visit("standard-A-3"))

    listed = cells.east.doorbell("overview", "--cells", "--json", **settings)
    table = cells.east.doorbell("overview", "--cells", "west", cells.east.redis_url, **settings)
    nothing = cells.east.doorbell("overview", "--cells")

    east, west, north = map(json.loads, listed.stdout.splitlines())
    assert (6, True) == (listed.returncode, "not reached: north" in listed.stderr)
    assert ("east", "warn", 1, 0, 1, True) == tuple(
        east[name] for name in ("cell", "level", "workers", "pending", "failures", "is_reachable")
    )
    assert "One failure needs attention" in east["problem"]
    assert ("west", "good", "", 1, 0) == tuple(
        west[name] for name in ("cell", "level", "problem", "workers", "failures")
    )
    assert west["memory_bytes"] > 100_000
    assert ("north", "bad", False) == (north["cell"], north["level"], north["is_reachable"])
    lines = table.stdout.splitlines()
    assert (0, 3) == (table.returncode, len(lines))
    assert lines[1].startswith("west")
    assert f"127.0.0.1:{RedisAddress(cells.east.redis_url).parts['port']}" in lines[2]
    assert 2 == nothing.returncode
