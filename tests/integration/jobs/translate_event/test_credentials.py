"""Credentials for a tool's API."""

import base64
import json
from typing import Any

import pytest
from starlette.responses import Response

from app.demo.valkey import free_port
from tests.support.tool_api import BOOKED, SPECIMENS, TOOLS, ToolWorld, respond_with

CANARIES = ("acuity-api-key", "square-token", "jobber-token", "ada@", "Lovelace", "5550100001", "5551230001")


@pytest.mark.parametrize(
    ("tool", "missing"),
    [
        ("acuity", ("HOOKS__ACUITY__CREDENTIALS__USER_ID", "HOOKS__ACUITY__CREDENTIALS__API_KEY")),
        ("acuity", ("HOOKS__ACUITY__CREDENTIALS__API_KEY",)),
        ("square", ("HOOKS__SQUARE__CREDENTIALS__TOKEN",)),
        (
            "jobber",
            tuple(f"HOOKS__JOBBER__CREDENTIALS__{name}" for name in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
async def test_missing_credentials_park_the_event_until_they_are_set(
    world: ToolWorld, tool: str, missing: tuple[str, ...]
) -> None:
    delivery = SPECIMENS[tool]["deliveries"][0]
    world.tool.add_records(tool, delivery)
    world.configure(**dict.fromkeys((*missing, "HOOKS__JOBBER__CREDENTIALS__TOKEN"), ""))
    response = await world.receive(tool, delivery)
    await world.run()
    event = await world.load_event(response)
    world.configure()

    await world.ledger.replay(f"event:{response.json()['delivery']}")
    await world.run()

    assert ("parked", f"credentials_missing: {', '.join(missing)}") == (event.state, event.reason)
    assert 1 == len(world.harness.visits())


async def test_a_removed_hook_parks_the_event(world: ToolWorld) -> None:
    response = await world.receive("acuity", BOOKED)
    world.default_env = {name: value for name, value in world.default_env.items() if "ACUITY" not in name}
    world.configure()

    await world.run()

    event = await world.load_event(response)
    assert ("parked", "hook_not_configured", []) == (event.state, event.reason, world.tool.requests)


async def test_credentials_do_not_follow_a_redirect(world: ToolWorld) -> None:
    world.tool.overrides = [lambda _: Response(status_code=302, headers={"location": f"{world.url}/elsewhere"})]

    await world.receive("acuity", BOOKED)
    await world.run()

    assert ["/acuity/v/appointments/123456789"] == [path for _, path, _, _ in world.tool.requests]


@pytest.mark.parametrize("key", ["pässwort", "key with spaces", "a:b", "käy\u2713"])
async def test_credentials_may_contain_any_character(world: ToolWorld, key: str) -> None:
    world.configure(HOOKS__ACUITY__CREDENTIALS__API_KEY=key)
    world.tool.add_records("acuity", BOOKED)

    await world.receive("acuity", BOOKED)
    await world.run()

    sent = base64.b64decode(world.tool.requests[0][2]["authorization"].removeprefix("Basic "))
    assert f"4711:{key}".encode() == sent


async def test_logs_contain_neither_credentials_nor_names(world: ToolWorld, logged: list[Any]) -> None:
    text = " ".join(CANARIES)
    for tool in TOOLS:
        for responders in (
            [],
            [respond_with(401, text)],
            [respond_with(422, text)],
            [respond_with(200, text)],
            [respond_with(500, text)],
        ):
            delivery = SPECIMENS[tool]["deliveries"][0]
            world.tool.add_records(tool, delivery)
            world.tool.overrides = responders
            await world.redis.command("FLUSHDB")
            await world.receive(tool, delivery)
            await world.run()
    world.tool.overrides = []
    world.configure(HOOKS__ACUITY__API_URL=f"http://127.0.0.1:{free_port()}/")
    await world.redis.command("FLUSHDB")
    await world.receive("acuity", BOOKED)
    await world.run()

    output = json.dumps(logged, default=str)
    assert len(logged) > 10
    assert [] == [canary for canary in CANARIES if canary in output]
