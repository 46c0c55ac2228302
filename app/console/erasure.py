"""A person is forgotten: the plan, and doing it once the address was typed again."""

import asyncio

from starlette.responses import Response

from app.console.rendering import Ask, Desk, Page
from app.operators import search_index
from app.operators.erasure import BY_NUMBER, ELSEWHERE, TOLD, Forget, Found, addresses_of, carry_out, plan_of, told_of

#: Everything is walked through: for so long somebody waits for a page, also for what is removed.
TIMEOUT_S = 20.0


async def erasure_form(desk: Desk, ask: Ask) -> Response:
    return await _page(desk, ask)


async def erase(desk: Desk, ask: Ask) -> Response:
    whom = ask.form.get("person", "").strip()[:300]
    if not (search_index.email(whom) or search_index.phone(whom)):
        return await _page(desk, ask, whom, trouble="That is no e-mail address, and no phone number.")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _forget(desk, ask, whom)
    except TimeoutError:
        trouble = "There is more to look through than a page can wait for: use `doorbell forget`."
        if ask.form.get("confirm"):
            trouble += " Some of it may be removed already."
        return await _page(desk, ask, whom, trouble=trouble)


async def _forget(desk: Desk, ask: Ask, whom: str) -> Response:
    assert ask.user
    each = [Forget(desk.ledger, desk.settings, one) for one in await addresses_of(desk.ledger, desk.settings, whom)]
    found = await plan_of(each)
    typed = ask.form.get("confirm")
    if found.is_nothing or typed is None:
        return await _page(desk, ask, whom, found=found)
    if typed.strip() != whom:
        return await _page(desk, ask, whom, found=found, trouble="Type it once more to confirm. Nothing was removed.")
    await desk.audit_log.note(ask.user.name, ask.user.role, "forgot a person", told_of(each, found))
    return await _page(desk, ask, removed=await carry_out(each))


async def _page(
    desk: Desk, ask: Ask, whom: str = "", *, trouble: str = "", found: Found | None = None, removed: Found | None = None
) -> Response:
    known = {"person": whom, "trouble": trouble, "found": found, "removed": removed}
    words = {"words": TOLD, "elsewhere": ELSEWHERE, "by_number": BY_NUMBER if search_index.phone(whom) else ""}
    return await desk.page(ask, "erasure.html", 409 if trouble else 200, **known, **words)


PAGES = [Page("GET", "/console/erasure", "operator", erasure_form)]
ACTIONS = [Page("POST", "/console/erasure", "operator", erase)]
