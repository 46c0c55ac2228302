"""The example of docs/adding-a-source.md works: its source and its fake, against each other."""

import importlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

import app.sources
import app.vendors
from app.ledger.redis import Redis
from app.webhooks.registry import load_sources
from tests.integration.connections import test_fake_webhooks, test_subscriptions
from tests.support.cases import each
from tests.support.processes import ROOT
from tests.support.vendors import ConnectedTool, connected_tool

EVENT_NAME = '    event_name_path=("event",),\n'
IMPORTS = """from app.webhooks import (
    ApiResponse,
    BearerAuth,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    RecordRequest,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Window,
)
"""


def example() -> tuple[str, str]:
    """Return the module of the source, and that of its fake."""
    page = (ROOT / "docs" / "adding-a-source.md").read_text()
    source, api, fake = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    fields = page.partition("SOURCE also has\n\n```\n")[2].partition("```")[0]
    source = source.replace(EVENT_NAME, EVENT_NAME + fields)
    source = source.replace("from app.webhooks import Event, Hmac, Ignored, Source\n", IMPORTS)
    return f"{source}\n\n{api}", fake


@pytest.fixture
async def tidybook(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ConnectedTool]:
    for package, text in zip((app.sources, app.vendors), example(), strict=True):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "tidybook.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    load_sources.cache_clear()
    try:
        async with connected_tool("tidybook", redis) as tool:
            yield tool
    finally:
        load_sources.cache_clear()
        for module in ("app.sources.tidybook", "app.vendors.tidybook"):
            sys.modules.pop(module, None)


@each("part", [0, 1])
def test_it_passes_the_linter(part: int) -> None:
    path = ("app/sources/tidybook.py", "app/vendors/tidybook.py")[part]
    check = [sys.executable, "-m", "ruff", "check", "--ignore", "I001", "--stdin-filename", path, "-"]

    result = subprocess.run(check, input=example()[part], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "All checks passed!\n" == result.stdout


async def test_it_is_connected_as_every_tool(tidybook: ConnectedTool) -> None:
    await test_subscriptions.test_connecting_twice_adopts_what_exists(tidybook)
    await test_subscriptions.test_subscriptions_of_strangers_stay(tidybook)
    await test_subscriptions.test_a_disabled_subscription_works_again(tidybook)


async def test_its_list_means_what_its_webhooks_mean(tidybook: ConnectedTool, monkeypatch: pytest.MonkeyPatch) -> None:
    await tidybook.ensure_subscriptions(is_secret_new=True)
    receiver = test_fake_webhooks.Receiver(tidybook)
    monkeypatch.setattr(tidybook.vendor, "_post", receiver.receive)
    tidybook.vendor.faults = replace(tidybook.vendor.faults, page_size=1)

    await test_fake_webhooks.test_webhooks_mean_the_same_visits_as_the_list(tidybook, receiver)
