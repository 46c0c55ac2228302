"""The connection of a hook in the console: its state, check, disconnect, and catching up, against a fake tool."""

import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.connections.catch_up import CatchUpRunner, start_automatic
from app.ledger.redis import Redis
from app.vendors.vendor import Faults, Vendor
from tests.support.console import VIEWERS, Browser, Opened, activities, main_text
from tests.support.vendors import serve_vendor

PAGE = "/console/hooks/calendly"
CATCH_UP = f"{PAGE}/catch-up"


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    del environ["HOOKS__CALENDLY__SECRETS"]
    return environ | {"PUBLIC_URL": "https://doorbell.example.com", "SECRET_KEY": "key-of-the-tests-" * 2}


@dataclass
class Office:
    """An operator, and Calendly, which is connected."""

    app: Any
    vendor: Vendor
    operator: Browser
    redis: Redis

    async def text(self, path: str = PAGE) -> str:
        return main_text(html.unescape((await self.operator.get(path)).text))

    async def post(self, path: str, **form: str) -> httpx.Response:
        await self.operator.get(PAGE)
        return await self.operator.post(path, form)

    async def work(self) -> None:
        """Do what a worker does for catch-ups."""
        services = self.app.state.services
        await CatchUpRunner(services.console.context.tools, services.stored_hooks).run_next()

    def book(self, days: int, email: str) -> None:
        self.vendor.calendar.book(datetime.now(UTC) + timedelta(days=days), email)

    async def deliveries(self) -> int:
        return int(await self.redis.command("ZCARD", "bell:deliveries:calendly"))

    async def acts(self) -> list[tuple[bytes, bytes]]:
        """Return the activities after the connection."""
        return (await activities(self.redis))[2:]


@pytest.fixture
async def office(app: Any, redis: Redis) -> AsyncIterator[Office]:
    async with serve_vendor("calendly") as (vendor, api_url):
        operator = Browser(app)
        await operator.log_in()
        office = Office(app, vendor, operator, redis)
        await operator.get("/console/connect/calendly")
        form = {"name": "calendly", "credential-TOKEN": "token-of-the-account", "api_url": api_url}
        assert 303 == (await operator.post("/console/connect/calendly", form)).status_code
        await office.work()
        yield office


async def test_the_page_of_a_hook_shows_its_connection(office: Office) -> None:
    text = await office.text()

    [subscription] = office.vendor.subscriptions
    assert "Connection to Calendly Connected Account of Calendly Ada's Salon" in text
    assert "by operator" in text
    assert f"Subscription at Calendly {subscription}" in text
    assert "Connect again Check now Catch up…" in text
    for path in ("", "/hooks", "/sources", "/sources/calendly"):
        assert "Connected no delivery yet" in await office.text(f"/console{path}")


async def test_the_overview_asks_nobody_to_paste_the_url_of_a_connected_hook(
    office: Office, opened: Opened, environ: dict[str, str]
) -> None:
    mixed = await office.text("/console")
    operator = Browser(await opened({name: value for name, value in environ.items() if "STANDARD" not in name}))
    await operator.log_in()
    connected = main_text((await operator.get("/console")).text)

    for text in (mixed, connected):
        assert "Book an appointment with your own e-mail address: it appears here." in text
    assert "Paste this URL into its tool." in mixed
    assert "Standard Webhooks https://doorbell.example.com/hooks/standard" in mixed
    assert "Paste" not in connected
    assert not any("/hooks/calendly" in text for text in (mixed, connected))


async def test_a_check_repairs_what_the_tool_switched_off(office: Office) -> None:
    [lost] = office.vendor.subscriptions.values()
    lost.is_active = False

    checked = await office.post(f"{PAGE}/check")

    assert f"{PAGE}?done=checked#connection" == checked.headers["location"]
    assert [True] == [each.is_active for each in office.vendor.subscriptions.values()]
    assert "It was disabled, and was subscribed again" in await office.text()
    assert [
        (b"checked connection", b"calendly"),
        (b"noticed connection state", b"calendly: disabled"),
        (b"repaired connection", b"calendly: it was disabled"),
    ] == await office.acts()


async def test_rejected_credentials_are_shown_everywhere_and_lead_to_a_reconnect(office: Office) -> None:
    office.vendor.faults = Faults(unauthorized=True)
    await office.post(f"{PAGE}/check")

    page, overview = [html.unescape((await office.operator.get(path)).text) for path in (PAGE, "/console")]

    assert "Credentials are rejected" in page
    assert re.search(r'<a class="button main" href="/console/connect/calendly\?hook=calendly">Reconnect</a>', page)
    assert 'href="/console/hooks/calendly#connection">Show the connection</a>' in overview
    for path in ("/console/hooks", "/console/sources"):
        assert "Credentials are rejected" in await office.text(path)


async def test_a_disconnect_deletes_our_subscription_after_a_confirmation(office: Office) -> None:
    stranger = office.vendor.subscribe("https://other.example.com/hook", ("invitee.created",), "secret")
    refused = await office.post(f"{PAGE}/disconnect", confirm="no")
    done = await office.post(f"{PAGE}/disconnect", confirm="calendly")

    assert (409, True) == (refused.status_code, "Nothing was disconnected" in refused.text)
    assert "/console/hooks?disconnected=calendly" == done.headers["location"]
    assert [stranger.id] == list(office.vendor.subscriptions)
    assert "calendly is disconnected" in await office.text(done.headers["location"])
    assert 404 == (await office.operator.get(PAGE)).status_code
    assert (b"disconnected tool", b"calendly: 1 subscription deleted") in await office.acts()


async def test_a_hook_of_the_environment_is_disconnected_only_if_it_was_subscribed(
    opened: Opened, environ: dict[str, str]
) -> None:
    async with serve_vendor("calendly") as (vendor, api_url):
        hook = {"SECRETS": "a-secret-of-sixteen", "CREDENTIALS__TOKEN": "token-of-the-account", "API_URL": api_url}
        app = await opened(environ | {f"HOOKS__CALENDLY__{name}": value for name, value in hook.items()})
        operator = Browser(app)
        await operator.log_in()

        before = (await operator.get(PAGE)).text
        await operator.get("/console/connect/calendly?hook=calendly")
        connected = await operator.post("/console/connect/calendly", {"name": "calendly", "again": "1"})
        after = (await operator.get(PAGE)).text

        assert (303, 1) == (connected.status_code, len(vendor.subscriptions))
    assert ("Check now" in before, "Disconnect" in before) == (True, False)
    assert "Deletes Doorbell's subscription at Calendly." in html.unescape(after)


async def test_an_overridden_hook_that_cannot_be_decrypted_is_shown_and_removed(
    opened: Opened, environ: dict[str, str]
) -> None:
    before = Browser(await opened(environ | {"SECRET_KEY": "another-key-of-the-tests-0123456789"}))
    await before.log_in()
    stored = {"source": "calendly", "name": "calendly", "secret": "secret-of-the-stored-hook"}
    assert 303 == (await before.post("/console/hooks", stored)).status_code
    operator = Browser(await opened(environ | {"HOOKS__CALENDLY__SECRETS": "secret-of-the-environment"}))
    await operator.log_in()

    in_use, overridden, hooks = [
        html.unescape((await operator.get(path)).text) for path in (PAGE, f"{PAGE}?origin=stored", "/console/hooks")
    ]
    removed = await operator.post(f"{PAGE}/remove?origin=stored", {"confirm": "calendly"})

    for page in (in_use, hooks):
        assert f'href="{PAGE}?origin=stored"' in page
    assert "Not used: it cannot be read; the hook of the environment is used" in hooks
    assert "This stored hook is not used" in overridden
    assert (303, 404) == (removed.status_code, (await operator.get(f"{PAGE}?origin=stored")).status_code)


async def test_an_overridden_hook_is_removed_without_its_namesake(opened: Opened, environ: dict[str, str]) -> None:
    async with serve_vendor("calendly") as (vendor, api_url):
        before = Browser(await opened(environ))
        await before.log_in()
        stored = {"source": "calendly", "name": "calendly", "secret": "secret-of-the-stored-hook"}
        assert 303 == (await before.post("/console/hooks", stored)).status_code
        hook = {
            "SECRETS": "secret-of-the-environment",
            "CREDENTIALS__TOKEN": "token-of-the-account",
            "API_URL": api_url,
        }
        app = await opened(environ | {f"HOOKS__CALENDLY__{name}": value for name, value in hook.items()})
        operator = Browser(app)
        await operator.log_in()
        await operator.get("/console/connect/calendly?hook=calendly")
        await operator.post("/console/connect/calendly", {"name": "calendly", "again": "1"})
        [subscription] = vendor.subscriptions

        in_use, overridden, hooks = [
            html.unescape((await operator.get(path)).text) for path in (PAGE, f"{PAGE}?origin=stored", "/console/hooks")
        ]
        for button in ("Check now", "Catch up…", "Disconnect</button>"):
            assert (True, False) == (button in in_use, button in overridden), button
        assert (False, True) == ("Remove the hook" in in_use, "Remove the hook" in overridden)
        assert "This stored hook is not used" in overridden
        for page in (in_use, hooks):
            assert f'href="{PAGE}?origin=stored"' in page

        for action in ("check", "disconnect", "catch-up/plan"):
            refused = await operator.post(f"{PAGE}/{action}?origin=stored", {"confirm": "calendly"})
            assert 404 == refused.status_code, action
        mistyped = await operator.post(f"{PAGE}/remove?origin=stored", {"confirm": "no"})
        assert (409, True) == (mistyped.status_code, "This stored hook is not used" in mistyped.text)
        removed = await operator.post(f"{PAGE}/remove?origin=stored", {"confirm": "calendly"})

        assert (303, 404) == (removed.status_code, (await operator.get(f"{PAGE}?origin=stored")).status_code)
        assert [subscription] == list(vendor.subscriptions)
        assert "Connection to Calendly Connected" in main_text((await operator.get(PAGE)).text)


async def test_the_page_says_where_a_new_secret_comes_from(office: Office) -> None:
    """Stripe chooses the secret of a subscription; Doorbell chooses that of Calendly's."""
    async with serve_vendor("stripe") as (stripe, api_url):
        await office.operator.get("/console/connect/stripe")
        form = {"name": "stripe", "credential-TOKEN": stripe.credentials["TOKEN"], "api_url": api_url}
        assert 303 == (await office.operator.post("/console/connect/stripe", form)).status_code
    for name, source in (("by-hand", "stripe"), ("own", "standard")):
        fields = {"name": name, "source": source, "secret": "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5"}
        await office.operator.post("/console/hooks", fields)

    pages = {name: await office.text(f"/console/hooks/{name}") for name in ("calendly", "stripe", "by-hand", "own")}

    by_doorbell = "You do not have to change anything at Calendly"
    by_person = "First replace the secret at Stripe, then copy it here."
    assert {"calendly": (True, False), "stripe": (False, True), "by-hand": (False, True), "own": (False, False)} == {
        name: (by_doorbell in page, by_person in page) for name, page in pages.items()
    }


async def test_a_disconnect_that_the_tool_refuses_changes_nothing(office: Office) -> None:
    office.vendor.faults = Faults(down=True)
    refused = await office.post(f"{PAGE}/disconnect", confirm="calendly")

    assert (409, True) == (refused.status_code, "The hook is still there" in refused.text)
    assert 1 == len(office.vendor.subscriptions)
    assert "Remove without asking Calendly" in await office.text()


async def test_the_past_is_only_stored_with_a_plan_and_its_number(office: Office) -> None:
    office.book(-20, "old@example.com")
    office.book(-21, "older@example.com")
    office.book(3, "new@example.com")
    since = f"{datetime.now(UTC) - timedelta(days=40):%Y-%m-%d}"

    await office.post(f"{CATCH_UP}/plan", since=since)
    waiting = await office.text(CATCH_UP)
    await office.work()
    planned = await office.text(CATCH_UP)
    plan = re.search(r'name="plan" value="([^"]+)"', (await office.operator.get(CATCH_UP)).text)
    assert plan
    before = await office.deliveries()
    wrong = await office.post(CATCH_UP, plan=plan[1], confirm="3")
    other = await office.post(CATCH_UP, plan="another", confirm="2")
    await office.work()
    nothing = await office.deliveries()
    started = await office.post(CATCH_UP, plan=plan[1], confirm="2")
    await office.work()

    assert "Counting what would be stored" in waiting
    assert "No worker is running" in waiting
    assert "3 appointments with changes that Doorbell lacks" in planned
    assert "2 past visits would be created or changed: their customers may be asked for a review." in planned
    assert (409, 409, 303) == (wrong.status_code, other.status_code, started.status_code)
    assert "The number that you typed does not match" in wrong.text
    assert "The plan has changed" in other.text
    assert (before, before + 3) == (nothing, await office.deliveries())
    assert "Done 3 appointments listed, 3 of them new or changed." in await office.text(CATCH_UP)
    assert [b"started catch-up"] == [action for action, _ in await office.acts()]


async def test_a_listed_appointment_does_not_claim_a_signature(office: Office) -> None:
    office.book(3, "new@example.com")
    await office.post(f"{CATCH_UP}/plan")
    await office.work()
    plan = re.search(r'name="plan" value="([^"]+)"', (await office.operator.get(CATCH_UP)).text)
    assert plan
    await office.post(CATCH_UP, plan=plan[1])
    await office.work()
    [id] = await office.redis.command("ZRANGE", "bell:deliveries:calendly", 0, -1)

    delivery = await office.text(f"/console/deliveries/{id.decode()}")
    live = await office.text("/console/sources/calendly/listen")

    assert "Listed by Doorbell in a catch-up" in delivery
    assert "From the tool's list" in live
    for claim in ("signature", "Secret number", "erified"):
        assert claim not in delivery + live, claim


async def test_a_plan_without_the_past_needs_no_number(office: Office) -> None:
    office.book(3, "new@example.com")
    await office.post(f"{CATCH_UP}/plan", since="")
    await office.work()
    page = (await office.operator.get(CATCH_UP)).text

    assert "past visit" not in page
    assert 'name="confirm"' not in page
    assert "Store the changes of 1 appointment" in page


async def test_a_catch_up_is_cancelled(office: Office) -> None:
    await office.post(f"{CATCH_UP}/plan", since="2026-01-01")
    await office.post(f"{CATCH_UP}/cancel")
    await office.work()

    assert "Cancelled" in await office.text(CATCH_UP)
    assert [(b"cancelled catch-up", b"calendly")] == await office.acts()
    assert not await office.redis.command("SCARD", "bell:catch-ups")


async def test_the_page_shows_what_was_missed_too_long_ago_to_be_listed_automatically(office: Office) -> None:
    context, missed_since = office.app.state.services.console.context.tools, datetime(2026, 3, 10, tzinfo=UTC)
    await start_automatic(context, "calendly", missed_since, "Doorbell", "repaired")

    text = await office.text(CATCH_UP)

    assert re.search(r"What was missed between .*Mar 10, 12:00 AM UTC.* is not listed automatically", text), text


async def test_a_plan_leaves_the_last_catch_up_as_it_was(office: Office) -> None:
    await office.post(f"{CATCH_UP}/plan", since="2026-01-01")
    await office.work()

    text = await office.text(CATCH_UP)

    assert "The last time Done" in text
    assert "The plan: appointments since Jan 1" in text


async def test_an_unreadable_date_is_refused(office: Office) -> None:
    refused = await office.post(f"{CATCH_UP}/plan", since="yesterday")

    assert (409, True) == (refused.status_code, "The date cannot be read" in refused.text)


async def test_the_daily_reconciliation_is_switched_on_the_page_of_the_hook(office: Office) -> None:
    before = await office.text()
    await office.post(PAGE, reconcile="daily")

    page = (await office.operator.get(PAGE)).text

    assert "default for Calendly: no" in before
    assert (
        "Once a day, Doorbell lists the appointments of Calendly, and stores the changes that no webhook reported"
        in before
    )
    assert '<option value="daily" selected>' in page
    assert "daily" == office.app.state.services.settings.hooks["calendly"].reconcile


async def test_viewers_see_the_connection_and_change_nothing(office: Office) -> None:
    viewer = Browser(office.app)
    await viewer.log_in(VIEWERS)
    pages = [(await viewer.get(path)).text.partition("<main")[2] for path in (PAGE, CATCH_UP)]
    actions = ("check", "disconnect", "catch-up", "catch-up/plan", "catch-up/cancel")

    assert all('method="post"' not in page and "Reconnect" not in page for page in pages)
    assert "Connected" in pages[0]
    assert {403} == {(await viewer.post(f"{PAGE}/{action}")).status_code for action in actions}


async def test_a_hook_of_the_environment_is_connected_without_typing_its_credentials(
    opened: Opened, environ: dict[str, str]
) -> None:
    async with serve_vendor("calendly") as (vendor, api_url):
        hook = {"SECRETS": "signing-secret-of-the-environment", "CREDENTIALS__TOKEN": "token-of-the-account"}
        variables = {f"HOOKS__CALENDLY__{name}": value for name, value in (hook | {"API_URL": api_url}).items()}
        operator = Browser(await opened(environ | variables))
        await operator.log_in()
        form = (await operator.get("/console/connect/calendly?hook=calendly")).text
        connected = await operator.post("/console/connect/calendly", {"name": "calendly", "again": "1"})

    assert "credential-" not in form
    assert "is set in the environment, with its credentials" in form
    assert (303, 1) == (connected.status_code, len(vendor.subscriptions))


@pytest.mark.parametrize("path", ["/catch-up", "/first-delivery", ""])
async def test_pages_of_unknown_hooks_are_not_found(app: Any, path: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    assert 404 == (await operator.get(f"/console/hooks/nosuchhook{path}")).status_code


async def test_a_hook_whose_tool_has_no_list_has_no_catch_up(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()

    assert 404 == (await operator.get("/console/hooks/standard/catch-up")).status_code
    assert "Catch up" not in (await operator.get("/console/hooks/standard")).text
