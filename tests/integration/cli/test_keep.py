"""`doorbell keep`: a stored delivery becomes a specimen without personal data."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NewDelivery
from app.webhooks import registry
from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_specimens
from tests.support.command_line import ADA, PERSONAL, TIME, activity_of
from tests.support.harness import Harness
from tests.support.ledger_client import LedgerClient
from tests.support.tool_api import ToolApi

ACUITY = load_specimens("acuity")["deliveries"][0]


def test_a_delivery_is_printed_as_a_specimen_and_that_is_recorded(service: Harness) -> None:
    id = service.send("visit.created", "A-1", contact=ADA, time_scheduled=TIME).json()["delivery"]

    result = service.doorbell("keep", id, "--as", "a guest books")

    specimen = json.loads(result.stdout)
    assert (0, "a guest books", "visit.created") == (result.returncode, specimen["name"], specimen["body"]["type"])
    assert {"webhook-id", "webhook-timestamp", "webhook-signature"} < specimen["headers"].keys()
    [change] = specimen["expect"]
    assert ("create", TIME) == (change["action"], change["time_scheduled"])
    assert specimen["body"]["data"]["contact"]["email"] == change["contact"]["email"]
    assert [] == [word for word in (*PERSONAL, "A-1") if word in result.stdout + result.stderr]
    assert "compare it with the tool's documentation" in result.stderr
    assert [(b"kept a specimen", id.encode())] == activity_of(service)


def test_a_specimen_is_added_to_the_file_of_its_source(
    service: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "standard.json"
    file.write_text(json.dumps(load_specimens("standard")))
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    id = service.send("visit.created", "A-1", contact=ADA, time_scheduled=TIME).json()["delivery"]

    results = [service.doorbell("keep", id, "--as", "a guest books", "--write") for _ in range(2)]

    assert [0, 0] == [result.returncode for result in results]
    assert ["", ""] == [result.stdout for result in results]
    names = [each["name"] for each in json.loads(file.read_text())["deliveries"]]
    assert ["a guest books", "a guest books (2)"] == names[-2:]


async def accept_acuity(ledger: Ledger) -> str:
    at = datetime.now(UTC)
    delivery = Delivery("acuity", "acuity", (), ACUITY["body"].encode(), at)
    info = DeliveryInfo("acuity", "acuity", int(at.timestamp() * 1000), event_name="scheduled")
    return (
        await ledger.accept(NewDelivery(delivery, info, [], "main", dedup_id=None, event_state="queued"))
    ).delivery_id


def test_the_record_of_an_event_is_fetched_and_replaced(service: Harness, tool_api: tuple[ToolApi, str]) -> None:
    api, url = tool_api
    api.reset()
    api.add_records("acuity", ACUITY)
    id = LedgerClient(service.redis_url).run(accept_acuity)
    env = {
        "HOOKS__ACUITY__SECRETS": "a-secret",
        "HOOKS__ACUITY__API_URL": f"{url}/acuity/v/",
        "HOOKS__ACUITY__CREDENTIALS__USER_ID": "1",
        "HOOKS__ACUITY__CREDENTIALS__API_KEY": "a-key",
    }

    result = service.doorbell("keep", id, **env)

    specimen: dict[str, Any] = json.loads(result.stdout)
    [(key, record)] = specimen["records"].items()
    assert specimen["requests"] == [key] != ["appointments/123456789"]
    assert str(record["id"]) in specimen["body"]
    assert ("75.50", "2026-10-01T11:00:00-0400", "America/New_York") == (
        record["amountPaid"],
        record["datetime"],
        record["timezone"],
    )
    assert record["email"] == specimen["expect"][0]["contact"]["email"]
    assert [] == [word for word in ("ada@example.com", "Lovelace", "5550100001", "123456789") if word in result.stdout]

    api.reset()
    api.overrides = [lambda _: PlainTextResponse("busy", 503)]
    assert 4 == service.doorbell("keep", id, **env).returncode
    assert (
        "the record cannot be fetched: set HOOKS__ACUITY__CREDENTIALS__API_KEY"
        in service.doorbell("keep", id, **{**env, "HOOKS__ACUITY__CREDENTIALS__API_KEY": ""}).stderr
    )


def test_an_unknown_delivery_is_a_sentence(service: Harness) -> None:
    result = service.doorbell("keep", "d0")

    assert (5, "") == (result.returncode, result.stdout)
    assert "there is no delivery or visit d0" in result.stderr
