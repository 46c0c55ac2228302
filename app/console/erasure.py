"""A person is forgotten: the plan, and doing it once the address was typed again."""

import asyncio

from starlette.responses import Response

from app.console.rendering import Ask, Desk, Page
from app.operators import search_index
from app.operators.erasure import (
    LABELS,
    NOT_COVERED,
    PHONE_NOTE,
    Erasure,
    ErasureReport,
    activity_target,
    erase_all,
    plan_all,
    resolve_emails,
)

#: Everything is walked through: for so long somebody waits for a page, also for what is removed.
TIMEOUT_S = 20.0


async def erasure_form(desk: Desk, ask: Ask) -> Response:
    return await _page(desk, ask)


async def erase(desk: Desk, ask: Ask) -> Response:
    whom = ask.form.get("person", "").strip()[:300]
    if not (search_index.normalize_email(whom) or search_index.normalize_phone(whom)):
        return await _page(desk, ask, whom, trouble="That is no e-mail address, and no phone number.")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _forget(desk, ask, whom)
    except TimeoutError:
        trouble = "There is more to look through than a page can wait for: use `doorbell erase`."
        if ask.form.get("confirm"):
            trouble += " Some of it may be removed already."
        return await _page(desk, ask, whom, trouble=trouble)


async def _forget(desk: Desk, ask: Ask, whom: str) -> Response:
    assert ask.user
    each = [Erasure(desk.ledger, desk.settings, one) for one in await resolve_emails(desk.ledger, desk.settings, whom)]
    found = await plan_all(each)
    typed = ask.form.get("confirm")
    if found.is_empty or typed is None:
        return await _page(desk, ask, whom, found=found)
    if typed.strip() != whom:
        return await _page(desk, ask, whom, found=found, trouble="Type it once more to confirm. Nothing was removed.")
    await desk.audit_log.record(ask.user.name, ask.user.role, "forgot a person", activity_target(each, found))
    return await _page(desk, ask, removed=await erase_all(each))


async def _page(
    desk: Desk,
    ask: Ask,
    whom: str = "",
    *,
    trouble: str = "",
    found: ErasureReport | None = None,
    removed: ErasureReport | None = None,
) -> Response:
    known = {"person": whom, "trouble": trouble, "found": found, "removed": removed}
    words = {
        "words": LABELS,
        "elsewhere": NOT_COVERED,
        "by_number": PHONE_NOTE if search_index.normalize_phone(whom) else "",
    }
    return await desk.page(ask, "erasure.html", 409 if trouble else 200, **known, **words)


PAGES = [Page("GET", "/console/erasure", "operator", erasure_form)]
ACTIONS = [Page("POST", "/console/erasure", "operator", erase)]
