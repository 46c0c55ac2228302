"""Connects a tool with a log-in there: the form that begins it, and the address where the tool sends the browser back."""

import asyncio
import time
from urllib.parse import urlencode, urlsplit

from itsdangerous import BadSignature
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.connections.connector import OUTAGES, REFUSALS, describe
from app.connections.oauth import AuthorizationFailed, Authorizations
from app.console.context import actions, context
from app.console.pages.connect import connect_request, form_page, is_again, name_is_taken, with_field_name
from app.console.rendering import redirect, render
from app.ledger.redis import RedisUnavailable
from app.settings.environment import SettingsError
from app.settings.signing import signer
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource

#: A connection needs a few calls to the tool. Platforms end a request after 30 s.
FINISH_TIMEOUT_S = 25.0
PROBLEM_SALT, PROBLEM_TTL_S, MAX_PROBLEM_CHARS = "doorbell oauth problem", 600, 1_000


async def begin(request: Request) -> Response:
    """Send the browser to the tool's page.

    A form may only redirect to our own pages, by the Content-Security-Policy: therefore this page does.
    """
    console, source, form = context(request), _source(request), request.state.form
    name = form.get("name", "").strip()
    if name in console.settings.hooks and not is_again(form):
        return await form_page(request, form, [name_is_taken(name)])
    try:
        _check_origin(request)
        url = await _authorizations(request).begin(connect_request(request, source, name), request.user.identity)
    except SettingsError as error:
        return await form_page(request, form, [with_field_name(problem) for problem in error.problems])
    except AuthorizationFailed as failed:
        return await form_page(request, form, [str(failed)])
    response = await render(request, "oauth_begin.html", tool=source, url=url, host=urlsplit(url).hostname)
    response.headers["refresh"] = f"0; url={url}"
    return response


async def callback(request: Request) -> Response:
    """End the log-in. Always redirect, so that the code stays in no address bar, history or Referer."""
    source, started_ms = _source(request), int(time.time() * 1000)
    existing = set(context(request).settings.hooks)
    try:
        async with asyncio.timeout(FINISH_TIMEOUT_S):
            finish = _authorizations(request).finish(source.name, request.query_params, request.user.identity)
            connected = await finish
    except AuthorizationFailed as failed:
        return _to_problem(request, source, str(failed), failed.hook)
    except SettingsError as error:
        return _to_problem(request, source, " ".join(map(str, error.problems)))
    except (*REFUSALS, *OUTAGES) as error:
        return _to_problem(request, source, f"{describe(error, source.definition.title).rstrip('.')}.")
    except RedisUnavailable:
        return _to_problem(request, source, "Redis does not answer: connect again when it does.")
    except TimeoutError:
        return _to_problem(request, source, f"{source.definition.title} answers too slowly: connect again.")
    query = "?done=connected" if connected.hook.name in existing else f"/first-delivery?since={started_ms}"
    return redirect(f"/console/hooks/{connected.hook.name}{query}")


async def problem(request: Request) -> Response:
    """Show why a log-in failed. The sentence is in the address, signed: nobody else can put one there."""
    source, signing = _source(request), signer(context(request).settings, PROBLEM_SALT)
    try:
        signed = request.query_params.get("text", "")
        text = signing.unsign(signed, max_age=PROBLEM_TTL_S).decode() if signing else ""
    except BadSignature:
        raise HTTPException(404, "This page has expired.") from None
    hook = request.query_params.get("hook", "")
    existing = hook if context(request).settings.is_stored(hook) else ""
    return await render(request, "oauth_problem.html", 409, tool=source, text=text, existing=existing)


def _to_problem(request: Request, source: LoadedSource, text: str, hook: str = "") -> Response:
    signing = signer(context(request).settings, PROBLEM_SALT)
    assert signing  # a console has a SECRET_KEY
    signed = signing.sign(text[:MAX_PROBLEM_CHARS]).decode()
    return redirect(f"/console/connect/{source.name}/problem?{urlencode({'text': signed, 'hook': hook})}")


def _check_origin(request: Request) -> None:
    """Refuse to begin at another address than PUBLIC_URL: the tool sends the browser back there, without this session."""
    public_url, origin = context(request).settings.public_url, request.headers.get("origin")
    if public_url and origin and urlsplit(origin)[:2] != urlsplit(public_url)[:2]:
        raise AuthorizationFailed(f"A log-in must begin at PUBLIC_URL. Open {public_url}/console, and connect there.")


def _authorizations(request: Request) -> Authorizations:
    console = context(request)
    return Authorizations(console.tools, console.stored_hooks, actions(request))


def _source(request: Request) -> LoadedSource:
    source = load_sources().get(request.path_params["source"])
    if source is None or source.oauth is None:
        raise HTTPException(404, "There is no tool with this name that is connected with a log-in.")
    return source
