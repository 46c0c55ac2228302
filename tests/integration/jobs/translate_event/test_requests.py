"""Which records are fetched, how, and what becomes of them."""

import base64
import json
from typing import Any

import pytest

from tests.support.tool_api import ACUITY, BOOKED, SPECIMENS, TOOLS, ToolWorld

POINTING = [
    pytest.param(name, delivery, id=f"{name}: {delivery['name']}")
    for name in TOOLS
    for delivery in SPECIMENS[name]["deliveries"]
    if delivery.get("requests")
]


@pytest.mark.parametrize(("tool", "delivery"), POINTING)
async def test_the_record_of_every_specimen_is_fetched_and_applied(
    world: ToolWorld, tool: str, delivery: dict[str, Any]
) -> None:
    world.tool.add_records(tool, delivery)

    response = await world.receive(tool, delivery)
    await world.run_task(f"event:{response.json()['delivery']}")

    event = await world.load_event(response)
    paths = [path.partition("/v/")[2] for _, path, _, _ in world.tool.requests]
    expected = [""] * len(delivery["records"]) if tool == "jobber" else delivery["requests"]
    assert (202, expected) == (response.status_code, paths)
    outcome, is_missing = event.attempts[-1].outcome, None in delivery.get("records", {}).values()
    if isinstance(delivery["expect"], list) and is_missing and delivery["expect"][0]["action"] != "cancel":
        assert ("waiting", "record_not_found_yet") == (event.state, event.reason)
    elif isinstance(delivery["expect"], list):
        named = sorted({f"visit:main/{tool}-{visit['visit_id']}" for visit in delivery["expect"]})
        assert ("translated", named) == (outcome, sorted(set(event.targets)))
    else:
        assert outcome != "translated"


async def test_acuity_requests_have_user_and_key(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)

    await world.receive("acuity", BOOKED)
    await world.run()

    ((method, path, headers, _),) = world.tool.requests
    assert ("GET", "/acuity/v/appointments/123456789") == (method, path)
    assert f"Basic {base64.b64encode(b'4711:acuity-api-key').decode()}" == headers["authorization"]


async def test_square_requests_have_token_and_version(world: ToolWorld) -> None:
    delivery = SPECIMENS["square"]["deliveries"][0]
    world.tool.add_records("square", delivery)

    await world.receive("square", delivery)
    await world.run()

    ((method, path, headers, _),) = world.tool.requests
    assert ("GET", "/square/v/customers/CUSTDEMO1") == (method, path)
    assert ("Bearer square-token", "2025-07-16") == (headers["authorization"], headers["square-version"])


async def test_jobber_requests_use_graphql_with_token_and_version(world: ToolWorld) -> None:
    delivery = SPECIMENS["jobber"]["deliveries"][0]
    world.tool.add_records("jobber", delivery)

    await world.receive("jobber", delivery)
    await world.run()

    ((method, path, headers, body),) = world.tool.requests
    body_fields = json.loads(body)
    assert ("POST", "/jobber/graphql", "application/json") == (method, path, headers["content-type"])
    assert ("Bearer jobber-token", "2026-04-16") == (headers["authorization"], headers["x-jobber-graphql-version"])
    assert {"id": "Z2lkOi8vSm9iYmVyL1Zpc2l0LzIxNDk1MTMzOTU="} == body_fields["variables"]
    assert "visit(id: $id)" in body_fields["query"]


@pytest.mark.parametrize(
    ("tool", "name", "expected"),
    [
        (
            "acuity",
            "acuity-123456789",
            {
                "time_scheduled": "2026-10-01T15:00:00Z",
                "event_date": "2026-10-01T15:00:00Z",
                "amount_collected": "75.50",
            },
        ),
        (
            "square",
            "square-zkdemobooking1",
            {"time_scheduled": "2026-10-01T15:00:00Z", "event_date": "2026-10-01T15:00:00Z"},
        ),
        (
            "jobber",
            "jobber-Z2lkOi8vSm9iYmVyL1Zpc2l0LzIxNDk1MTMzOTU",
            {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"},
        ),
    ],
)
async def test_a_fetched_record_becomes_the_visit(
    world: ToolWorld, tool: str, name: str, expected: dict[str, str]
) -> None:
    delivery = SPECIMENS[tool]["deliveries"][0]
    world.tool.add_records(tool, delivery)

    response = await world.receive(tool, delivery)
    await world.run()

    (visit,) = world.harness.visits()
    assert name == visit["external_id"]
    assert expected == {field: visit[field] for field in expected | dict.fromkeys(visit) if field in expected}
    (contact,) = world.contacts("ada@example.com")
    assert ("Ada", "Lovelace", contact["id"]) == (contact["first_name"], contact["last_name"], visit["contact_id"])
    event = await world.load_event(response)
    assert ("done", [f"visit:main/{name}"]) == (event.state, event.targets)


async def test_no_record_is_fetched_for_an_irrelevant_event(world: ToolWorld) -> None:
    response = await world.receive("acuity", ACUITY["an order for a package"])
    await world.run()

    assert (200, []) == (response.status_code, world.tool.requests)
