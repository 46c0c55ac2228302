"""The forms that do. Each says in the audit log what it is about to do, and by whom, before it does it."""

import re
from typing import Any

import httpx
from starlette.responses import Response

from app.console.auth import safe_redirect_target
from app.console.pages import delivery_page, source_page, visit_page
from app.console.rendering import Ask, Desk, Page
from app.console.turns import TooManyAttempts
from app.ledger.records import NotFound
from app.operators.drift_audit import fetch_remote_visit
from app.visits.client import VisitsApiTrouble
from app.webhooks.specimens import UnknownSpecimen, sign_specimen

# -- in and out --


async def log_in(desk: Desk, ask: Ask) -> Response:
    to, address = safe_redirect_target(ask.form.get("to", "")), desk.access.address_of(ask.request)
    try:
        user = await desk.access.log_in(ask.form.get("password", ""), ask.request)
    except TooManyAttempts:
        trouble = "Too many attempts. Wait a quarter of an hour, or use a browser that has logged in here before."
        return await desk.page(ask, "login.html", 429, trouble=trouble, to=to)
    if user is None:
        await desk.audit_log.record_failed_login(address)
        return await desk.page(ask, "login.html", 401, trouble="That is not the password.", to=to)
    if ask.user:
        await desk.access.log_out(ask.user)
    await desk.audit_log.record(user.name, user.role, "logged in", address)
    response = desk.go(to)
    desk.access.remember(ask.request, response, user)
    return response


async def log_out(desk: Desk, ask: Ask) -> Response:
    assert ask.user
    await desk.access.log_out(ask.user)
    response = desk.go("/console/login")
    desk.access.forget(response)
    return response


async def log_out_everybody(desk: Desk, ask: Ask) -> Response:
    """Every session of every browser, this one too."""
    await _note(desk, ask, "ended all sessions", f"{await desk.access.count_sessions()} of them")
    await desk.access.log_out_everybody()
    response = desk.go("/console/login")
    desk.access.forget(response)
    return response


async def save_preferences(desk: Desk, ask: Ask) -> Response:
    """What this browser likes; nothing that anybody else would notice."""
    response = desk.go("/console/settings")
    for name, allowed in (("theme", ("light", "dark")), ("keys", ("off",))):
        value = ask.form.get(name, "")
        if value in allowed:
            response.set_cookie(f"doorbell-{name}", value, 31_536_000, path="/console", samesite="lax")
        else:
            response.delete_cookie(f"doorbell-{name}", path="/console")
    return response


# -- looking closer --


async def reveal_delivery(desk: Desk, ask: Ask) -> Response:
    """One field, as the form names it."""
    id, field = ask.path("id"), _field(ask)
    await desk.ledger.load_delivery_info(id)
    await _note(desk, ask, "revealed of a delivery", f"{id}: {'all of the body' if field == '*' else field}")
    return await delivery_page(desk, ask, id, (field,))


async def reveal_visit(desk: Desk, ask: Ask) -> Response:
    external_id, field = ask.path("external_id"), _field(ask)
    await desk.explain.visit_task_ids(external_id)
    await _note(desk, ask, "revealed of a visit", f"{external_id}: {field}")
    return await visit_page(desk, ask, external_id, (field,))


def _field(ask: Ask) -> str:
    """Raises NotFound for what is no field's name."""
    field = ask.form.get("field", "")
    if not re.fullmatch(r"[\w.#-]{1,200}|\*", field):
        raise NotFound("field")
    return field


async def fetch_remote(desk: Desk, ask: Ask) -> Response:
    """What the Visits API has now; nothing of it is kept."""
    external_id = ask.path("external_id")
    [work, *_] = await desk.explain.visit_task_ids(external_id)
    [root, *_] = await desk.ledger.load_aliases(work)
    await _note(desk, ask, "asked the Visits API", external_id)
    asked: dict[str, Any] = {"account": root.account, "visit": None, "trouble": ""}
    try:
        asked["visit"] = await fetch_remote_visit(desk.ledger, desk.settings, desk.http, root.account, root.external_id)
    except VisitsApiTrouble as trouble:
        asked["trouble"] = f"It could not be asked: {trouble}."
    return await visit_page(desk, ask, external_id, remote=asked)


# -- pausing --


async def pause(desk: Desk, ask: Ask) -> Response:
    return await _pause(desk, ask, True)


async def resume(desk: Desk, ask: Ask) -> Response:
    return await _pause(desk, ask, False)


async def _pause(desk: Desk, ask: Ask, is_paused: bool) -> Response:
    account = ask.path("account")
    if account not in desk.settings.accounts.values():
        raise NotFound(account)
    await _note(desk, ask, "paused" if is_paused else "resumed", account)
    await desk.ledger.pause(account, is_paused)
    return desk.go("/console/sources")


# -- ringing --


async def send_test_delivery(desk: Desk, ask: Ask) -> Response:
    """A specimen, signed now, through our own door."""
    entrance = desk.settings.entrances.get(ask.path("hook"))
    if entrance is None:
        raise NotFound(ask.path("hook"))
    tool = entrance.tool.name
    settings, wanted = desk.settings, ask.form.get("specimen", "1")
    address = f"{settings.public_url or 'http://door'}{entrance.path}"
    try:
        hook = entrance.hook
        made = sign_specimen(tool, wanted, entrance.name, hook.secrets, settings.secret_key, address, hook.auth)
    except UnknownSpecimen:
        raise NotFound("specimen") from None
    await _note(desk, ask, "sent a test delivery", f"{entrance.name}: {made.name}")
    transport = httpx.ASGITransport(ask.request.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as door:
        answer = await door.request(made.method, made.url(entrance.path), content=made.body, headers=made.headers)
    # A handshake is answered with whatever the tool wants.
    said = answer.json() if answer.headers.get("content-type") == "application/json" else {}
    word = said.get("detail") or said.get("ignored") or ("a repeat" if said.get("repeat") else "accepted")
    rang = {"ok": answer.is_success, "status": answer.status_code, "said": word, "delivery": said.get("delivery")}
    return await source_page(desk, ask, tool, rang)


async def _note(desk: Desk, ask: Ask, did: str, what: str) -> None:
    assert ask.user
    await desk.audit_log.record(ask.user.name, ask.user.role, did, what)


ACTIONS = [
    Page("POST", "/console/login", "anybody", log_in),
    Page("POST", "/console/logout", "viewer", log_out),
    Page("POST", "/console/settings", "viewer", save_preferences),
    Page("POST", "/console/sessions/end", "operator", log_out_everybody),
    Page("POST", "/console/deliveries/{id}/reveal", "operator", reveal_delivery),
    Page("POST", "/console/visits/{external_id}/reveal", "operator", reveal_visit),
    Page("POST", "/console/visits/{external_id}/fetch", "operator", fetch_remote),
    Page("POST", "/console/accounts/{account}/pause", "operator", pause),
    Page("POST", "/console/accounts/{account}/resume", "operator", resume),
    Page("POST", "/console/sources/{hook}/test-delivery", "operator", send_test_delivery),
]
