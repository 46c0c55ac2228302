"""The pages of sources, and the state of their hooks on the overview."""

import html
import re
import time
from typing import Any

import pytest

from app.ledger.redis import Redis
from tests.support.console import VIEWERS, Browser, Opened
from tests.support.harness import CALENDLY_SECRET, TOKEN, sign_standard, standard_body

PUBLIC_URL = {"PUBLIC_URL": "https://doorbell.example.com"}
SQUARE = {"HOOKS__SQUARE__SECRETS": "signature-key-of-square", **PUBLIC_URL}
MISSING = "HOOKS__SQUARE__CREDENTIALS__TOKEN"


async def test_a_hook_is_connected_after_its_first_delivery(app: Any, delivery: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    sources = (await operator.get("/console/sources")).text
    standard, calendly = [(await operator.get(f"/console/sources/{name}")).text for name in ("standard", "calendly")]

    assert (1, 1) == (sources.count("Connected</span>"), sources.count("Waiting for its first delivery"))
    assert ("Connected</span>" in standard, "Waiting for its first delivery" in standard) == (True, False)
    assert ("Connected</span>" in calendly, "Waiting for its first delivery" in calendly) == (False, True)


async def test_a_hook_without_its_credentials_says_what_is_missing(opened: Opened, environ: dict[str, str]) -> None:
    operator = Browser(await opened(environ | SQUARE))
    await operator.log_in()

    pages = [(await operator.get(f"/console{path}")).text for path in ("", "/sources", "/sources/square")]
    overview = pages[0].partition('class="verdict')[2].partition("</h1>")[0]

    assert [] == [page for page in pages if MISSING not in page]
    assert "The hook square cannot fetch its records" in overview


async def test_a_hook_with_its_credentials_lacks_nothing(opened: Opened, environ: dict[str, str]) -> None:
    operator = Browser(await opened(environ | SQUARE | {MISSING: "token-of-square"}))
    await operator.log_in()

    pages = [(await operator.get(f"/console{path}")).text for path in ("", "/sources")]

    assert [] == [page for page in pages if "annot fetch" in page]


async def test_the_steps_of_a_hook_have_its_own_url_and_variables(opened: Opened, environ: dict[str, str]) -> None:
    east = {"SOURCE": "calendly", "SECRETS": CALENDLY_SECRET, "VISITS_API_TOKEN": f"{TOKEN}-east"}
    operator = Browser(await opened(environ | {f"HOOKS__EAST__{name}": value for name, value in east.items()}))
    await operator.log_in()

    page = (await operator.get("/console/sources/calendly")).text

    own, other = [
        page.partition(f"Steps for the hook {hook}")[2].partition("</div>\n")[0] for hook in ("calendly", "east")
    ]
    assert ("HOOKS__CALENDLY__SECRETS" in own, "/hooks/calendly" in own) == (True, True)
    assert ("HOOKS__EAST__SECRETS" in other, "/hooks/east" in other) == (True, True)
    assert [] == [name for name in ("EAST", "east") if name in own]
    assert [] == [name for name in ("CALENDLY", "/hooks/calendly") if name in other]


async def test_the_steps_of_a_new_account_have_its_own_variables_and_a_new_secret(
    opened: Opened, environ: dict[str, str]
) -> None:
    operator = Browser(await opened(environ | PUBLIC_URL))
    await operator.log_in()

    pages = [(await operator.get("/console/sources/calendly?hook=East")).text for _ in range(2)]

    recipes = [page.partition('class="recipe"')[2].partition("</section>")[0] for page in pages]
    assert "HOOKS__EAST__SOURCE=calendly" in recipes[0]
    assert [] == [name for name in ("CALENDLY", "/hooks/calendly") if name in recipes[0]]
    secrets = [re.findall(r">HOOKS__EAST__SECRETS=([\w-]{32,})<", recipe) for recipe in recipes]
    assert [1, 1] == [len(found_secrets) for found_secrets in secrets]
    assert secrets[0] != secrets[1]
    assert '<code class="copy">https://doorbell.example.com/hooks/east</code>' in recipes[0]


async def test_the_name_of_a_hook_leads_to_its_source(opened: Opened, environ: dict[str, str]) -> None:
    east = {"HOOKS__EAST__SOURCE": "calendly", "HOOKS__EAST__SECRETS": CALENDLY_SECRET}
    operator = Browser(await opened(environ | east))
    await operator.log_in()

    response = await operator.get("/console/sources/east")

    assert (303, "/console/sources/calendly#hook-east") == (response.status_code, response.headers["location"])


@pytest.mark.parametrize("name", ["calendly", "standard", "a__b", "<i>", "../x", "x" * 50])
async def test_a_hook_that_exists_or_has_no_valid_name_has_no_new_steps(app: Any, name: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    page = (await operator.get("/console/sources/calendly", params={"hook": name})).text

    assert "Steps for the hook calendly" in page
    assert "Connect another account" not in page


async def test_only_operators_see_a_new_secret(app: Any) -> None:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    page = (await viewer.get("/console/sources/calendly?hook=east")).text

    assert "HOOKS__EAST__SECRETS" in page
    assert "HOOKS__EAST__SECRETS=" not in page


async def test_a_recipe_has_numbered_steps_and_commands_to_copy(
    app: Any, opened: Opened, environ: dict[str, str]
) -> None:
    recipes = []
    for each in (await opened(environ | PUBLIC_URL), app):
        operator = Browser(each)
        await operator.log_in()
        page = (await operator.get("/console/sources/calendly")).text
        recipes.append(page.partition('<ol class="steps">')[2].partition("</ol>")[0])

    steps, without_url = recipes
    assert '"url": "https://YOUR-DOORBELL/hooks/calendly"' in html.unescape(without_url)
    assert 5 == steps.count("<li>")
    assert 2 == steps.count('<pre tabindex="0" aria-label="Command of step')
    assert '"url": "https://doorbell.example.com/hooks/calendly"' in html.unescape(steps)
    assert "`" not in steps


@pytest.mark.parametrize("name", ["calendly", "standard"])
async def test_a_secret_has_matched_after_a_test_delivery(app: Any, name: str) -> None:
    operator = Browser(app)
    await operator.log_in()

    before = (await operator.get(f"/console/sources/{name}")).text
    after = (await operator.post(f"/console/sources/{name}/test-delivery", {"specimen": "1"})).text

    assert "never" in before
    assert "Doorbell answered 202" in after
    assert "never" not in after
    assert f'<a href="/console/sources/{name}/listen">All requests to {name}, as they arrive</a>' in after


async def test_test_deliveries_are_about_one_booking_until_one_of_them_is_sent_again(app: Any) -> None:
    operator = Browser(app)
    await operator.log_in()
    names, form = list[str](), {}

    for specimen in ("1", "3", "1"):  # an invitee books, and reschedules; another invitee books
        page = (await operator.post("/console/sources/calendly/test-delivery", form | {"specimen": specimen})).text
        assert "Doorbell answered 202: accepted" in page
        form = {"fresh": re.findall('name="fresh" value="([^"]+)"', page)[0]}
        names.append(form["fresh"])

    assert names[0] == names[1] != names[2]


async def test_the_first_choice_of_a_test_delivery_is_a_booking(opened: Opened, environ: dict[str, str]) -> None:
    app = await opened(environ | {"HOOKS__ZOOM__SECRETS": "a-secret-of-zoom-0123456789"})
    operator = Browser(app)
    await operator.log_in()

    page = (await operator.get("/console/sources/zoom")).text

    assert ["an invitee books"] == re.findall("<option[^>]* selected>([^<]*)<", page)


@pytest.mark.parametrize(("mismatches", "is_shown"), [(1, True), (0, False)])
async def test_the_overview_names_a_hook_whose_secret_is_wrong(
    app: Any, redis: Redis, mismatches: int, is_shown: bool
) -> None:
    operator = Browser(app)
    await operator.log_in()
    raw = standard_body("visit.created", "A-1")
    for _ in range(mismatches):
        await operator.http.post("/hooks/standard", content=raw + b" ", headers=sign_standard(raw))
    await app.state.services.rejections.flush()

    page, sources, source = [
        (await operator.get(path)).text for path in ("/console", "/console/sources", "/console/sources/standard")
    ]

    assert [is_shown] * 2 == ["Signatures do not match" in text for text in (sources, source)]
    sentence = "The hook standard rejected a request with a wrong signature, and accepted none since"
    assert is_shown == (sentence in page)
    assert is_shown == ('class="button main" href="/console/rejections?hook=standard"' in page)


async def test_the_overview_names_a_hook_that_is_silent_for_longer_than_usual(app: Any, redis: Redis) -> None:
    operator = Browser(app)
    await operator.log_in()
    pages = list[str]()

    for hours_ago in (range(2, 14), range(4, 16)):  # a delivery every hour, and none in the last 2, or 4
        times = [(time.time() - hours * 3_600) * 1000 for hours in hours_ago]
        await redis.command("DEL", "bell:deliveries:standard")
        await redis.command("ZADD", "bell:deliveries:standard", *(part for at in times for part in (at, f"d{at}")))
        pages.append((await operator.get("/console")).text)

    sentence = "The hook standard has received nothing for 4 h, much longer than usual"
    assert [False, True] == [sentence in page for page in pages]


async def test_the_overview_shows_hooks_with_problems_first(opened: Opened, environ: dict[str, str]) -> None:
    operator = Browser(await opened(environ | SQUARE))
    await operator.log_in()

    page = (await operator.get("/console")).text

    hooks = re.findall(r'data-name="Hook"[^>]*><a [^>]*>(\w+)</a>', page)
    assert ["square", "standard", "calendly"] == hooks
