"""Sources with their hooks, test deliveries, and the pause of an account."""

import asyncio
import re
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response

from app.console.context import ConsoleContext, actions, context
from app.console.rendering import redirect, render
from app.ledger.records import NotFound
from app.operators.overview import HookStats, load_hooks
from app.operators.setup_steps import (
    SetupStep,
    capabilities,
    new_secret,
    setup_steps,
    terms_of,
    with_field_names,
)
from app.settings.model import Hook
from app.telemetry import counters
from app.telemetry.connections import load_connections
from app.telemetry.health import CIRCUIT_REASONS, open_circuits
from app.telemetry.payload_watch import payload_changes, undocumented_fields
from app.webhooks.evidence import VERIFIED_BY
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.source import LoadedSource
from app.webhooks.specimens import UnknownSpecimen, sign_specimen

#: Replaces a token that this user may not see, or that does not exist yet.
HIDDEN_TOKEN = "•••"


async def sources(request: Request) -> Response:
    settings, redis = context(request).settings, context(request).redis
    connections = await load_connections(redis, settings)
    hooks, circuits = await asyncio.gather(load_hooks(redis, settings, connections), open_circuits(redis, settings))
    cards = [_card(name, source, hooks) for name, source in load_sources().items()]
    return await render(
        request,
        "sources.html",
        sources=sorted(cards, key=_urgency),
        connections={each.hook: each for each in connections},
        accounts={account: settings.hooks_for(account) for account in settings.accounts.values()},
        circuits={circuit.account: circuit for circuit in circuits},
        reasons=CIRCUIT_REASONS,
    )


def _card(name: str, source: LoadedSource, hooks: Sequence[HookStats]) -> dict[str, Any]:
    return {
        "name": name,
        "title": source.definition.title,
        "capabilities": capabilities(name),
        "verified_by": VERIFIED_BY[source.definition.evidence],
        "coverage": source.definition.signature.coverage,
        "hooks": [hook for hook in hooks if hook.source == name],
    }


def _urgency(card: dict[str, Any]) -> tuple[bool, bool]:
    """Sort sources with a problem first, and those without a hook last."""
    return not any(hook.has_problem for hook in card["hooks"]), not card["hooks"]


async def source(request: Request) -> Response:
    """Show a source; the name of a hook leads to its source."""
    name = request.path_params["name"]
    hook = context(request).settings.active_hooks.get(name)
    if hook and name not in load_sources():
        return redirect(f"/console/sources/{hook.source.name}#hook-{name}")
    return await _page(request, name)


async def _page(request: Request, name: str, response: dict[str, Any] | None = None) -> Response:
    console, source = context(request), load_sources().get(name)
    if source is None:
        raise NotFound(name, "source or active hook")
    connections = await load_connections(console.redis, console.settings)
    all_hooks = await load_hooks(console.redis, console.settings, connections)
    hooks = [hook for hook in all_hooks if hook.source == name]
    names, addresses = [hook.name for hook in hooks], hook_addresses(request)
    new_hook = _new_hook(request, name, names)
    setup = {hook: _steps(request, source, hook) for hook in ([new_hook] if new_hook else names)}
    return await render(
        request,
        "source.html",
        source=source,
        capabilities=capabilities(name),
        verified_by=VERIFIED_BY[source.definition.evidence],
        hooks=hooks,
        connections={each.hook: each for each in connections},
        stored=console.settings.stored_hooks.keys(),
        secrets={hook: await _secrets(console, hook) for hook in names},
        addresses=addresses,
        hidden_token=HIDDEN_TOKEN,
        setup=setup,
        new_hook=new_hook,
        future_address=_future_address(request, source, new_hook),
        new_secret=new_secret(source.definition) if "operator" in request.auth.scopes else None,
        terms=list(terms_of(source.definition)),
        payload_changes=await payload_changes(console.redis, name),
        undocumented=await undocumented_fields(console.redis, name) if hooks else [],
        specimens=load_specimens(name)["deliveries"],
        specimen=_number_of_first_with_changes(name),
        response=response,
    )


def _number_of_first_with_changes(source: str) -> int:
    """Return the number of the first specimen that is no handshake and no irrelevant event."""
    recorded = load_specimens(source)["deliveries"]
    return next((number for number, each in enumerate(recorded, 1) if isinstance(each.get("expect"), list)), 1)


def _new_hook(request: Request, source: str, hooks: Sequence[str]) -> str:
    """Return the hook that a user wants to add, or the first hook of a source without one; else an empty string."""
    name = request.query_params.get("hook", "").strip().lower()
    is_free = re.fullmatch("[a-z][a-z0-9_]{0,30}", name) and name not in context(request).settings.hooks
    return name if is_free and "__" not in name else "" if hooks else source


def _steps(request: Request, source: LoadedSource, hook: str) -> list[SetupStep]:
    """Return the setup steps of a hook. A stored hook has no variables: its settings are those of the form."""
    address = hook_addresses(request).get(hook) or _future_address(request, source, hook)
    steps = setup_steps(source, hook, address)
    is_stored = context(request).settings.is_stored(hook)
    return with_field_names(steps, source, hook, address) if is_stored else steps


def _future_address(request: Request, source: LoadedSource, hook: str) -> str:
    token = f"/{HIDDEN_TOKEN}" if source.definition.signature.needs_secret_key else ""
    return f"{context(request).settings.public_url or ''}/hooks/{hook}{token}"


async def _secrets(console: ConsoleContext, hook: str) -> list[dict[str, Any]]:
    secrets = console.settings.active_hooks[hook].settings.secrets
    matched = await counters.secret_last_used(console.redis, hook, secrets, console.settings.secret_key)
    return [{"fingerprint": fingerprint, "matched": at} for fingerprint, at in matched.items()]


def hook_addresses(request: Request) -> dict[str, str]:
    """Return the URLs of all hooks for the tools; without PUBLIC_URL only their paths.

    A request does not tell it: a router in front of Doorbell ends TLS. Only operators see a token, because it is enough to
    send deliveries.
    """
    settings, addresses = context(request).settings, dict[str, str]()
    for name, hook in settings.active_hooks.items():
        address = settings.hook_url(hook)
        if hook.source.definition.signature.needs_secret_key and "operator" not in request.auth.scopes:
            address = f"{address.rpartition('/')[0]}/{HIDDEN_TOKEN}"
        addresses[name] = address
    return addresses


# -- actions --


async def acknowledge_changes(request: Request) -> Response:
    """Mark the changes of the payloads of a source as known."""
    name = request.path_params["name"]
    if name not in load_sources():
        raise NotFound(name, "source")
    await actions(request).acknowledge_payload_changes(name)
    return redirect(f"/console/sources/{name}#payload")


async def send_test_delivery(request: Request) -> Response:
    """Send a specimen with a new signature to our own endpoint."""
    console, name = context(request), request.path_params["hook"]
    hook = console.settings.active_hooks.get(name)
    if hook is None:
        raise NotFound(name, "active hook")
    source, form = hook.source.name, request.state.form
    # The same booking as that of the last test delivery, so that it can be moved and cancelled, or else a new one.
    fresh = form.get("fresh", "")
    row = await _send_specimen(request, hook, form.get("specimen", "1"), fresh) if fresh.isalnum() else {}
    if not row or row["is_repeat"]:
        fresh = token_hex(3)
        row = await _send_specimen(request, hook, form.get("specimen", "1"), fresh)
    # The page shows when each secret last matched.
    await console.counters.flush(console.redis)
    return await _page(request, source, {"hook": name, "fresh": fresh, "specimen": form.get("specimen", "1"), **row})


async def _send_specimen(request: Request, hook: Hook, specimen: str, fresh: str) -> dict[str, Any]:
    settings, name = context(request).settings, hook.name
    secrets, secret_key = hook.settings.secrets, settings.secret_key
    url = f"{settings.public_url or 'http://doorbell'}{hook.path}"
    try:
        signed = sign_specimen(hook.source.name, specimen, name, secrets, secret_key, url, hook.settings.auth, fresh)
    except UnknownSpecimen:
        raise NotFound(specimen, "specimen") from None
    await actions(request).record("sent a test delivery", f"{name}: {signed.name}")
    transport = httpx.ASGITransport(request.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://doorbell") as http:
        response = await http.request(signed.method, signed.url(hook.path), content=signed.body, headers=signed.headers)
    return _response_row(response)


def _response_row(response: httpx.Response) -> dict[str, Any]:
    # The response to a handshake has the tool's format, which may not be JSON.
    body = response.json() if response.headers.get("content-type") == "application/json" else {}
    summary = body.get("detail") or body.get("ignored") or ("a repeat" if body.get("repeat") else "accepted")
    return {
        "ok": response.is_success,
        "is_repeat": bool(body.get("repeat")),
        "status": response.status_code,
        "summary": summary,
        "delivery": body.get("delivery"),
    }


async def pause(request: Request) -> Response:
    await actions(request).pause(request.path_params["account"])
    return redirect("/console/sources")


async def resume(request: Request) -> Response:
    await actions(request).resume(request.path_params["account"])
    return redirect("/console/sources")
