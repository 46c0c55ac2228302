"""Changes of payloads on the page of their source and on the overview."""

import html
import re
from typing import Any

from app.ledger.ledger import Ledger
from tests.support.console import VIEWERS, Browser, activities
from tests.support.payloads import notice_new_status


def text_of(page: str) -> str:
    part = page.partition('id="payload"')[2].partition("</section>")[0]
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", part)).split())


async def test_a_change_is_shown_until_an_operator_acknowledges_it(app: Any, ledger: Ledger) -> None:
    id = await notice_new_status(ledger, app.state.services.settings)
    operator = Browser(app)
    await operator.log_in()

    overview = (await operator.get("/console")).text
    page = (await operator.get("/console/sources/calendly")).text
    response = await operator.post("/console/sources/calendly/acknowledge")
    after = (await operator.get("/console/sources/calendly")).text

    assert "Calendly changed its payloads: payload.status has the new word tentative." in html.unescape(overview)
    assert 'href="/console/sources/calendly#payload"' in overview
    assert "payload.status has the new word tentative" in text_of(page)
    assert f'href="/console/deliveries/{id}"' in page
    assert (303, "/console/sources/calendly#payload") == (response.status_code, response.headers["location"])
    assert "known to" in text_of(after)
    assert "Acknowledge" not in text_of(after)
    assert [(b"acknowledged payload changes", b"calendly: 1")] == await activities(ledger.redis)


async def test_a_viewer_sees_a_change_without_a_button(app: Any, ledger: Ledger) -> None:
    await notice_new_status(ledger, app.state.services.settings)
    viewer = Browser(app)
    await viewer.log_in(VIEWERS)

    page = (await viewer.get("/console/sources/calendly")).text

    assert "payload.status has the new word tentative" in text_of(page)
    assert "Acknowledge these" not in page
    assert 403 == (await viewer.post("/console/sources/calendly/acknowledge")).status_code
