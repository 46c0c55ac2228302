"""The page of rejections, and the check of a pasted request."""

import html
import re
from typing import Any

import pytest

from app.ledger.redis import Redis
from tests.support.console import VIEWERS, Browser, activities
from tests.support.harness import CALENDLY_SECRET, sign_standard, standard_body

RAW = standard_body("visit.created", "A-7", contact={"email": "ada@example.com"})
CHECK = "/console/rejections/check"


@pytest.fixture
async def operator(app: Any) -> Browser:
    operator = Browser(app)
    await operator.log_in()
    return operator


async def flush(app: Any) -> None:
    await app.state.services.rejections.flush()


def rows(page: str) -> list[list[str]]:
    """Return the text of every cell of the table."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("</tr>") if "<td" in row]
    return [[" ".join(html.unescape(re.sub("<[^>]+>", " ", cell)).split()) for cell in row] for row in cells]


async def test_rejections_are_grouped_by_cause_with_counts_and_the_last_time(app: Any, operator: Browser) -> None:
    wrong = {**sign_standard(RAW), "webhook-signature": "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    for _ in range(3):
        await operator.http.post("/hooks/standard", content=RAW, headers=wrong)
    await operator.http.post("/hooks/standard", content=RAW, headers={"content-type": "application/json"})
    await flush(app)

    page = (await operator.get("/console/rejections")).text

    by_cause = {cells[0]: cells for cells in rows(page)}
    assert {"The signature does not match signature_mismatch", "No signature signature_missing"} == set(by_cause)
    _, hook, count, last, advice = by_cause["The signature does not match signature_mismatch"]
    assert ("standard", "3") == (hook, count)
    assert re.match(r"(just now|\d s ago) \w+ \d", last)
    assert "Secrets of standard" in advice
    assert "× 3" in advice


async def test_a_wrong_secret_is_shown_wherever_the_state_of_the_hook_is(app: Any, operator: Browser) -> None:
    wrong = {**sign_standard(RAW), "webhook-signature": "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    await operator.http.post("/hooks/standard", content=RAW, headers=wrong)
    await flush(app)

    paths = ("", "/hooks", "/hooks/standard", "/sources", "/sources/standard")
    pages = [(await operator.get(f"/console{path}")).text for path in paths]

    assert [] == [path for path, page in zip(paths, pages, strict=True) if "Signatures do not match" not in page]


async def test_the_list_says_how_many_rejections_are_newer(app: Any, operator: Browser) -> None:
    await operator.http.post("/hooks/standard", content=RAW)
    await flush(app)
    pages = [(await operator.get(f"/console/rejections{query}")).text for query in ("", "?hook=standard")]
    links = [html.unescape(re.findall('hx-get="([^"]*)"', page)[0]) for page in pages]
    before = [(await operator.get(link)).text.strip() for link in links]

    for name in ("standard", "nobody"):
        await operator.http.post(f"/hooks/{name}", content=RAW)
    await flush(app)

    after = [re.sub("<[^>]+>", "", (await operator.get(link)).text).strip() for link in links]
    assert ["", ""] == before
    assert ["2 new rejections; show", "1 new rejection; show"] == after
    assert 'href="/console/rejections?hook=standard"' in (await operator.get(links[1])).text


@pytest.mark.parametrize(
    ("name", "detail", "is_linked"),
    [
        ("jobber", "there is no hook jobber, or it has no secret", True),
        ("a-secret-of-mine", "there is no hook with this name, or it has no secret", False),
        ("ada@example.com", "there is no hook with this name, or it has no secret", False),
        ("standard/a-token", "the URL of the hook standard ends with its name", False),
    ],
)
async def test_the_name_that_was_tried_is_shown_if_it_is_a_known_tool(
    app: Any, operator: Browser, name: str, detail: str, is_linked: bool
) -> None:
    response = await operator.http.post(f"/hooks/{name}", content=RAW)
    await flush(app)

    page = (await operator.get("/console/rejections")).text

    assert (404, detail) == (response.status_code, response.json()["detail"])
    assert detail in rows(page)[0][4]
    assert is_linked == ('href="/console/sources/jobber"' in page)
    assert [] == [secret for secret in ("a-secret-of-mine", "ada@example.com", "a-token") if secret in page]


async def test_a_filter_shows_the_causes_of_one_hook(app: Any, operator: Browser) -> None:
    for hook in ("standard", "calendly", "jobber"):
        await operator.http.post(f"/hooks/{hook}", content=RAW, headers={"content-type": "application/json"})
    await flush(app)

    page = (await operator.get("/console/rejections?hook=calendly")).text

    assert ["calendly"] == [cells[1] for cells in rows(page)]
    assert re.findall(r'<option value="(\w+)"', page) == ["standard", "calendly"]


def pasted(headers: dict[str, str], body: str, hook: str = "standard") -> dict[str, str]:
    """Return the form as a browser sends it, with CR LF."""
    lines = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    return {"hook": hook, "headers": lines, "body": body.replace("\r\n", "\n").replace("\n", "\r\n"), "arrived": ""}


async def message(operator: Browser, form: dict[str, str]) -> str:
    await operator.get(CHECK)
    page = (await operator.post(CHECK, form)).text
    note = re.search(r'role="(?:status|alert)">(.*?)</(?:p|section)>', page, re.DOTALL)
    assert note
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", note[1])).split())


@pytest.mark.parametrize("body", [RAW.decode(), '{"a":\n1}', '{"a":\r\n1}', "{}\n"])
async def test_a_pasted_request_with_a_valid_signature_is_valid(operator: Browser, body: str) -> None:
    answer = await message(operator, pasted(sign_standard(body.encode()), body))

    assert re.match(r"The signature is valid: secret 1 of 1 \(\w+…\) matches\.", answer)


async def test_a_pasted_request_shows_why_its_signature_is_invalid(operator: Browser) -> None:
    signed = sign_standard(RAW)

    changed = await message(operator, pasted(signed, RAW.decode() + "\n"))
    old = await message(operator, pasted(sign_standard(RAW), RAW.decode()) | {"arrived": "2026-01-01T09:00:00"})
    unsigned = await message(operator, pasted({"content-type": "application/json"}, RAW.decode()))

    assert "The signature matches the body without the trailing newline" in changed
    assert "The signature is correct, but its time is" in old
    assert "no header looks like a signature" in unsigned
    assert [] == [secret for secret in (CALENDLY_SECRET,) for answer in (changed, old, unsigned) if secret in answer]


async def test_the_form_keeps_what_was_pasted(operator: Browser) -> None:
    await operator.get(CHECK)
    body = '\n {"a":"</textarea><script>"}'

    page = (await operator.post(CHECK, pasted({"x": "y"}, body) | {"arrived": "2026-03-14T09:00:05"})).text

    # A browser drops the first line break of a text area.
    [shown] = re.findall(r'<textarea id="body"[^>]*>\n(.*?)</textarea>', page, re.DOTALL)
    assert body == html.unescape(shown).replace("\r\n", "\n")
    assert 'value="2026-03-14T09:00:05"' in page
    assert '<option value="standard" selected>' in page


async def test_a_check_stores_nothing(app: Any, operator: Browser, redis: Redis) -> None:
    await operator.get(CHECK)
    before = {key for key in await redis.command("KEYS", "*") if b"session" not in key}

    page = await operator.post(CHECK, pasted(sign_standard(RAW), RAW.decode()))
    await flush(app)

    assert 200 == page.status_code
    assert before == {key for key in await redis.command("KEYS", "*") if b"session" not in key}
    assert [] == await activities(redis)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"headers": "no colon"}, "line 1 of the headers has no colon: write `Name: value`."),
        ({"hook": ""}, "Choose a hook."),
        ({"hook": "jobber"}, "Choose a hook."),
    ],
)
async def test_an_incomplete_form_says_what_is_missing(
    operator: Browser, change: dict[str, str], sentence: str
) -> None:
    assert sentence == await message(operator, pasted(sign_standard(RAW), RAW.decode()) | change)


async def test_a_body_of_the_maximum_size_can_be_pasted(operator: Browser) -> None:
    body = '{"a":"' + '"' * 100_000 + '"}'

    answer = await message(operator, pasted(sign_standard(body.encode()), body))

    assert answer.startswith("The signature is valid")


async def test_a_viewer_cannot_check_requests(app: Any) -> None:
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    assert 403 == (await viewer.get(CHECK)).status_code
    assert "Check a request" not in (await viewer.get("/console/rejections")).text
