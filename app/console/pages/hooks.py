"""All hooks, and the forms that add, change and remove stored ones. No page contains a stored secret or credential."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from app.connections.catch_up import can_list
from app.connections.connect import OAUTH_CREDENTIALS, can_call
from app.console.context import actions, context
from app.console.rendering import redirect, render
from app.ledger.records import NotFound
from app.operators.hooks import HookSummary, list_hooks
from app.operators.overview import load_hooks
from app.operators.setup_steps import new_secret
from app.settings.environment import SettingsError
from app.settings.model import HookSettings
from app.settings.stored import build_hook
from app.telemetry.connections import load_connection, load_connections
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource

#: Settings that a form shows with their values; empty for the default.
PLAIN_SETTINGS = ("account", "timezone", "tenants", "reconcile", "api_url", "token_url")
CREDENTIAL = "credential-"


async def hooks(request: Request) -> Response:
    console = context(request)
    connections = await load_connections(console.redis, console.settings)
    stats = await load_hooks(console.redis, console.settings, connections)
    return await render(
        request,
        "hooks.html",
        hooks=list_hooks(console.settings),
        stats={each.name: each for each in stats},
        connections={each.hook: each for each in connections},
        disconnected=request.query_params.get("disconnected", ""),
    )


# -- a new hook --


async def new_hook(request: Request) -> Response:
    """Ask for the tool first, then for what the tool needs."""
    return await _new_page(request, request.query_params)


async def add(request: Request) -> Response:
    form, console = request.state.form, context(request)
    name, tool = form.get("name", "").strip(), _tool(form)
    if tool is None:
        raise NotFound(form.get("source", ""), "source")
    fields = {field: value for field, value in _plain_settings(form).items() if value} | _secret_settings(form)
    try:
        hook = build_hook(fields | {"source": tool.name, "credentials": _credentials(form)})
        await console.stored_hooks.add(name, hook, actions(request))
    except SettingsError as error:
        return await _new_page(request, form, error)
    return redirect(f"/console/hooks/{name}?done=added")


async def _new_page(request: Request, values: Mapping[str, str], error: SettingsError | None = None) -> Response:
    tool = _tool(values)
    free_name = tool.name if tool and tool.name not in context(request).settings.hooks else ""
    return await render(
        request,
        "hook_new.html",
        409 if error else 200,
        tool=tool,
        tools=load_sources(),
        name=values.get("name") or free_name,
        values=values,
        problems=error.problems if error else [],
        required=tool.definition.missing_credentials({}) if tool and tool.fetch else [],
        new_secret=new_secret(tool.definition) if tool else None,
    )


# -- an existing hook --

#: What a page says after a form, by `?done=`.
MESSAGES = {
    "added": "Stored. All processes have the hook within 5 seconds.",
    "connected": "Connected: the tool sends its webhooks here. All processes apply this within 5 seconds.",
    "changed": "Changed. All processes apply this within 5 seconds.",
    "rotated": "The new secret and the old ones are accepted. When the tool uses the new one, reject the old ones below.",
    "finished": "Only the newest secret is accepted.",
    "checked": "The tool was just checked: its answer is below.",
}


async def hook(request: Request) -> Response:
    return await page(request)


async def change(request: Request) -> Response:
    form, name = request.state.form, request.path_params["hook"]
    hook, credentials = _stored_hook(request, name), _credentials(form)
    if hook.uses_oauth and not credentials.keys().isdisjoint(OAUTH_CREDENTIALS):
        return await page(request, message="This hook was connected with a log-in: reconnect it instead.")
    current = hook_values(hook)
    fields = {field: value or None for field, value in _plain_settings(form).items() if value != current[field]}
    token = form.get("visits_api_token", "").strip()
    if token or form.get("remove_token"):
        fields["visits_api_token"] = token or None
    try:
        await context(request).stored_hooks.change(name, fields, actions(request), credentials=credentials)
    except SettingsError as error:
        return await page(request, error)
    return redirect(f"/console/hooks/{name}?done=changed")


async def rotate(request: Request) -> Response:
    form, name = request.state.form, request.path_params["hook"]
    if _stored_hook(request, name).uses_oauth:
        return await page(request, message="The secret of a hook that was connected with a log-in is not set by hand.")
    keep_old = not form.get("only_new")
    try:
        await context(request).stored_hooks.rotate_secret(
            name, form.get("secret", "").strip(), actions(request), keep_old=keep_old
        )
    except SettingsError as error:
        return await page(request, error)
    return redirect(f"/console/hooks/{name}?done={'rotated' if keep_old else 'finished'}")


async def finish_rotation(request: Request) -> Response:
    name = request.path_params["hook"]
    _stored_hook(request, name)
    await context(request).stored_hooks.drop_old_secrets(name, actions(request))
    return redirect(f"/console/hooks/{name}?done=finished")


async def remove(request: Request) -> Response:
    name = request.path_params["hook"]
    find_hook(request)
    if request.state.form.get("confirm", "").strip() != name:
        return await page(request, message="The confirmation does not match. Nothing was removed.")
    try:
        await context(request).stored_hooks.remove(name, actions(request))
    except SettingsError as error:
        return await page(request, error)
    return redirect("/console/hooks")


async def page(request: Request, error: SettingsError | None = None, message: str = "") -> Response:
    """Return the page of a hook. error, message: why a form was refused."""
    name, console = request.path_params["hook"], context(request)
    summary, settings = find_hook(request), console.settings
    hook = settings.hook(name) if summary.is_in_use else None
    stored = settings.stored_hooks.get(name)
    tool = load_sources().get(summary.source)
    connection = await load_connection(console.redis, settings, name) if hook else None
    stats = await load_hooks(console.redis, settings, [connection] if connection else [])
    uses_oauth, credential_names = bool(stored and stored.uses_oauth), tool.definition.credential_names if tool else ()
    return await render(
        request,
        "hook.html",
        409 if error or message else 200,
        hook=summary,
        overrides_stored=summary.origin == "environment" and name in settings.overridden_hooks,
        tool=tool,
        connection=connection,
        stats=next((each for each in stats if each.name == name), None),
        can_call=hook and can_call(hook),
        can_list=hook and can_list(hook),
        values=hook_values(stored) if stored else {},
        has_token=bool(stored and stored.visits_api_token),
        login=connection if uses_oauth else None,
        credential_names=[name for name in credential_names if not (uses_oauth and name in OAUTH_CREDENTIALS)],
        new_secret=new_secret(tool.definition) if tool else None,
        problems=error.problems if error else [],
        message=message,
        done=MESSAGES.get(request.query_params.get("done", ""), ""),
    )


def find_hook(request: Request) -> HookSummary:
    """Return the hook of the path. If the environment overrides a stored hook, `?origin=stored` selects the stored one."""
    name, origin = request.path_params["hook"], request.query_params.get("origin", "")
    matches = [hook for hook in list_hooks(context(request).settings) if hook.name == name]
    matches = [hook for hook in matches if origin in ("", hook.origin)]
    if not matches:
        raise NotFound(name, "hook")
    return max(matches, key=lambda hook: hook.is_in_use)


def _stored_hook(request: Request, name: str) -> HookSettings:
    hook = context(request).settings.stored_hooks.get(name)
    if hook is None:
        raise NotFound(name, "stored hook")
    return hook


def _tool(values: Mapping[str, str]) -> LoadedSource | None:
    return load_sources().get(values.get("source", ""))


def hook_values(hook: HookSettings) -> dict[str, str]:
    return {
        "account": hook.account or "",
        "timezone": hook.timezone or "",
        "tenants": " ".join(hook.tenants),
        "api_url": hook.api_url or "",
        "token_url": hook.token_url or "",
        "reconcile": hook.reconcile or "",
    }


def _plain_settings(form: Mapping[str, str]) -> dict[str, str]:
    return {field: form[field].strip() for field in PLAIN_SETTINGS if field in form}


def _secret_settings(form: Mapping[str, str]) -> dict[str, str]:
    fields = {"secrets": form.get("secret", "").strip(), "visits_api_token": form.get("visits_api_token", "").strip()}
    return {field: value for field, value in fields.items() if value}


def _credentials(form: Mapping[str, str]) -> dict[str, str]:
    """Return the credentials that were typed; an empty field leaves a credential as it is."""
    values = {
        name.removeprefix(CREDENTIAL): value.strip() for name, value in form.items() if name.startswith(CREDENTIAL)
    }
    return {name: value for name, value in values.items() if value}
