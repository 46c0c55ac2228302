"""The pages that connect a tool: choose it, enter what it needs, and wait for its first webhook."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from app.connections.catch_up import store_of
from app.connections.connect import Connections, ConnectRequest, find_first_delivery, needs_copied_secret
from app.connections.connector import OUTAGES, REFUSALS, describe
from app.connections.oauth import can_authorize
from app.console.context import actions, context
from app.console.pages.hooks import CREDENTIAL, PLAIN_SETTINGS, hook_values
from app.console.pages.sources import hook_addresses
from app.console.rendering import redirect, render
from app.console.timezone import browser_zone
from app.ledger.records import NotFound
from app.operators.arrivals import Arrivals
from app.operators.setup_steps import FIELD_NAMES, SetupStep, is_secret_generated, setup_steps, with_field_names
from app.settings.environment import Problem, SettingsError
from app.settings.model import HookSettings
from app.telemetry.arrivals import listen_to
from app.telemetry.connections import load_connection
from app.visits.client import Unauthorized
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource

#: A connection needs a few calls to the tool. Platforms end a request after 30 s.
CONNECT_TIMEOUT_S = 25.0
#: The page that waits stays current for this long without a refresh.
WAIT_S = 300


async def tools(request: Request) -> Response:
    """List the tools, common ones first, or those that match a search."""
    settings, search = context(request).settings, request.query_params.get("q", "").strip()
    sources = [source for source in load_sources().values() if search.lower() in source.definition.title.lower()]
    hooks: dict[str, list[str]] = {}
    for name in sorted(settings.hooks):
        hooks.setdefault(settings.source_for(name).name, []).append(name)
    sources.sort(key=lambda source: (not source.definition.is_common, source.definition.title.lower()))
    log_ins = {source.name for source in sources if can_authorize(settings, source.name)}
    return await render(request, "connect.html", sources=sources, hooks=hooks, search=search, log_ins=log_ins)


# -- the form --


async def form(request: Request) -> Response:
    return await form_page(request, request.query_params)


async def connect(request: Request) -> Response:
    """Connect the tool. A page with the steps follows, if a person does them; else the page that waits."""
    values, console, source = request.state.form, context(request), _source(request)
    name, started_ms = values.get("name", "").strip(), int(time.time() * 1000)
    if name in console.settings.hooks and not is_again(values):
        return await form_page(request, values, [name_is_taken(name)])
    existed = name in console.settings.hooks
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            connections = Connections(console.tools, console.stored_hooks, actions(request))
            connected = await connections.connect(connect_request(request, source, name))
    except SettingsError as error:
        return await form_page(request, values, [with_field_name(problem) for problem in error.problems])
    except (*REFUSALS, *OUTAGES, TimeoutError) as error:
        again = existed or name in console.settings.hooks
        return await form_page(request, {**values, "again": "1" if again else ""}, _sentences(error, source))
    query = urlencode({"since": started_ms})
    if connected.subscribed is None and not existed and is_secret_generated(source):
        return await _waiting_page(request, name, started_ms, connected.hook.settings.secrets[0])
    return redirect(f"/console/hooks/{name}/first-delivery?{query}")


def name_is_taken(name: str) -> str:
    return f"There is a hook {name} already. Use another name, or connect it again on its own page."


def connect_request(request: Request, source: LoadedSource, name: str) -> ConnectRequest:
    values = request.state.form
    fields = (*PLAIN_SETTINGS, "visits_api_token")
    return ConnectRequest(
        source.name,
        name,
        {
            credential: value
            for credential in source.definition.credential_names
            if (value := values.get(f"{CREDENTIAL}{credential}", "").strip())
        },
        values.get("secret", "").strip(),
        {field: value for field in fields if (value := values.get(field, "").strip())},
    )


def _sentences(error: Exception, source: LoadedSource) -> list[str]:
    """Return the problem, and its fix."""
    title = source.definition.title
    if isinstance(error, TimeoutError):
        return [f"{title} answers too slowly. Try again: Doorbell uses what already exists there."]
    sentence = describe(error, title).rstrip(".")
    if isinstance(error, Unauthorized) and error.status == 401:
        return [f"{sentence}. Copy them again, completely, and check that they are still valid."]
    if isinstance(error, OUTAGES) and not isinstance(error, REFUSALS):
        return [f"{sentence}. Nothing is lost: try again in a minute."]
    return [f"{sentence}."]


def with_field_name(problem: Problem) -> str:
    """Return the problem of a setting with the name of its field."""
    name = {"NAME": "Name of the hook", **FIELD_NAMES}.get(problem.name, problem.name)
    return str(problem._replace(name=name.format(title="the tool")))


async def form_page(request: Request, values: Mapping[str, str], problems: list[str] | None = None) -> Response:
    console, source = context(request), _source(request)
    settings = console.settings
    own_hooks = [name for name in settings.hooks if settings.source_for(name).name == source.name]
    again = values.get("name" if is_again(values) else "hook", "").strip()
    existing = settings.hooks[again] if again in own_hooks else None
    name = again if existing else values.get("name") or _free_name(source.name, settings.hooks)
    shown, is_stored = FormFields(source, existing), settings.is_stored(again)
    return await render(
        request,
        "connect_form.html",
        409 if problems else 200,
        tool=source,
        fields=shown,
        existing=existing and again,
        is_stored=is_stored,
        own_hooks=own_hooks,
        accounts=sorted(settings.tokens),
        name=name,
        values=_default_values(request, shown) | dict(values),
        problems=problems or [],
        has_url=bool(settings.public_url),
        can_log_in=can_authorize(settings, source.name) and (is_stored or not existing),
        steps=_steps(request, source, name) if shown.has_steps else [],
        hook_address=_address(request, name),
    )


@dataclass
class FormFields:
    """What the form of a tool asks for. existing: the hook that is connected again; its empty fields stay as they are."""

    source: LoadedSource
    existing: HookSettings | None = None
    names: tuple[str, ...] = field(init=False)
    optional_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        definition = self.source.definition
        needed = definition.missing_credentials({})
        if self.has_alternative:
            self.names = tuple(definition.credential_help)
        else:
            self.names = tuple(sorted(needed, key=list({**definition.credential_help, **dict.fromkeys(needed)}).index))
        self.optional_names = definition.optional_credentials

    @property
    def has_alternative(self) -> bool:
        """Whether a token alone is enough, instead of the other credentials."""
        return "TOKEN" in self.source.definition.credential_help and len(self.source.definition.credential_help) > 1

    @property
    def required_settings(self) -> list[str]:
        return [setting.lower() for setting in self.source.definition.required_settings]

    def optional_settings(self, accounts: Sequence[str]) -> list[str]:
        """With several accounts, the account is not hidden among the optional ones."""
        shown = [*self.required_settings, *(["account"] if len(accounts) > 1 else [])]
        return [setting for setting in ("account", "visits_api_token", *PLAIN_SETTINGS[1:]) if setting not in shown]

    @property
    def needs_secret(self) -> bool:
        return needs_copied_secret(self.source)

    @property
    def has_steps(self) -> bool:
        """Whether a person must do the steps at the tool before the form is complete."""
        return self.source.subscription is None and self.needs_secret

    def is_set(self, credential: str) -> bool:
        return bool(self.existing and credential in self.existing.credentials)


def is_again(values: Mapping[str, str]) -> bool:
    return values.get("again") == "1"


def _default_values(request: Request, fields: FormFields) -> dict[str, str]:
    if fields.existing:
        return hook_values(fields.existing)
    return {"timezone": str(browser_zone(request) or "")} if "timezone" in fields.required_settings else {}


def _free_name(source: str, hooks: Mapping[str, HookSettings]) -> str:
    names = [source, *(f"{source}-{number}" for number in range(2, len(hooks) + 3))]
    return next(name for name in names if name not in hooks)


def _source(request: Request) -> LoadedSource:
    source = load_sources().get(request.path_params["source"])
    if source is None:
        raise NotFound(request.path_params["source"], "source")
    return source


# -- the first delivery --


async def first_delivery(request: Request) -> Response:
    since = request.query_params.get("since", "")
    since_ms = int(since) if re.fullmatch(r"[0-9]{1,15}", since) else 0
    return await _waiting_page(request, request.path_params["hook"], since_ms)


async def _waiting_page(request: Request, name: str, since_ms: int, new_secret: str = "") -> Response:
    """new_secret: the secret that Doorbell made up, which is shown once."""
    console = context(request)
    hook = console.settings.active_hooks.get(name)
    if hook is None:
        raise NotFound(name, "active hook")
    await listen_to(console.redis, name, WAIT_S)
    arrivals = Arrivals(console.ledger, console.settings, name, console.explain)
    delivery, notes, connection, catch_up = await asyncio.gather(
        find_first_delivery(console.ledger, name, since_ms),
        arrivals.notes(),
        load_connection(console.redis, console.settings, name),
        store_of(console.tools).get(name),
    )
    subscription = hook.source.subscription
    # Only some accounts may subscribe by the API of such a tool.
    is_by_api = subscription is not None and bool(connection.subscription_ids or not subscription.is_by_hand_if_refused)
    steps = [] if is_by_api else _steps(request, hook.source, name)
    return await render(
        request,
        "first_delivery.html",
        is_by_api=is_by_api,
        tool=hook.source,
        hook=name,
        since=since_ms,
        delivery=delivery,
        note=next((note for note in notes if note.at_ms >= since_ms and note.outcome != "repeat"), None),
        connection=connection,
        catch_up=catch_up,
        new_secret=new_secret,
        hook_address=hook_addresses(request)[name],
        steps=steps,
        uses_secret=any("“Signing secret”" in step.text for step in steps),
    )


def _address(request: Request, name: str) -> str:
    return hook_addresses(request).get(name) or f"{context(request).settings.public_url or ''}/hooks/{name}"


def _steps(request: Request, source: LoadedSource, name: str) -> list[SetupStep]:
    address = _address(request, name)
    return with_field_names(setup_steps(source, name, address), source, name, address)
