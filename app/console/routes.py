"""Every route of the console, with the role that it requires."""

from collections.abc import Awaitable, Callable

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.console.middleware import OwnForm, RequiredRole, RequireRole
from app.console.pages import (
    activity,
    connect,
    connection,
    deliveries,
    erasure,
    failures,
    hooks,
    listen,
    login,
    oauth,
    operations,
    overview,
    rejections,
    search,
    settings,
    sources,
    visits,
    workers,
)  # fmt: skip

Page = Callable[[Request], Awaitable[Response]]
MAX_FORM_BYTES, MAX_LOGIN_BYTES = 65_536, 4_096
#: A pasted request: URL-encoded JSON takes up to three times its size.
MAX_PASTED_BYTES = 1_048_576


def get(path: str, role: RequiredRole, page: Page, *, keeps_query: bool = True) -> Route:
    return Route(path, page, methods=["GET"], middleware=[Middleware(RequireRole, role, keeps_query)])


def post(path: str, role: RequiredRole, action: Page, max_bytes: int = MAX_FORM_BYTES) -> Route:
    max_bytes = MAX_LOGIN_BYTES if role == "anybody" else max_bytes
    middleware = [Middleware(RequireRole, role), Middleware(OwnForm, max_bytes)]
    return Route(path, action, methods=["POST"], middleware=middleware)


ROUTES = [
    get("/login", "anybody", login.login_page),
    post("/login", "anybody", login.log_in),
    post("/logout", "viewer", login.log_out),
    get("/", "viewer", overview.overview),
    get("/stream", "viewer", overview.stream),
    get("/search", "viewer", search.search),
    post("/search", "viewer", search.start),
    get("/deliveries", "viewer", deliveries.deliveries),
    post("/deliveries", "viewer", deliveries.filter_deliveries),
    get("/deliveries/newer", "viewer", deliveries.newer_count),
    get("/deliveries/{id}", "viewer", deliveries.delivery),
    get("/deliveries/{id}/state", "viewer", deliveries.state_cell),
    post("/deliveries/{id}/reveal", "operator", deliveries.reveal),
    get("/visits", "viewer", visits.visits),
    post("/visits/reveal", "operator", visits.reveal_customers),
    get("/visits/{external_id}", "viewer", visits.visit),
    post("/visits/{external_id}/reveal", "operator", visits.reveal),
    post("/visits/{external_id}/fetch", "operator", visits.fetch_remote),
    get("/failures", "viewer", failures.failures),
    get("/failures/newer", "viewer", failures.newer_count),
    get("/rejections", "viewer", rejections.rejections),
    get("/rejections/newer", "viewer", rejections.newer_count),
    get("/rejections/check", "operator", rejections.check_form),
    post("/rejections/check", "operator", rejections.check, MAX_PASTED_BYTES),
    get("/sources", "viewer", sources.sources),
    get("/sources/{name}", "viewer", sources.source),
    post("/sources/{name}/acknowledge", "operator", sources.acknowledge_changes),
    get("/sources/{hook}/listen", "viewer", listen.listen),
    post("/sources/{hook}/test-delivery", "operator", sources.send_test_delivery),
    get("/connect", "operator", connect.tools),
    get("/connect/{source}", "operator", connect.form),
    post("/connect/{source}", "operator", connect.connect),
    post("/connect/{source}/authorize", "operator", oauth.begin),
    get("/connect/{source}/callback", "operator", oauth.callback, keeps_query=False),
    get("/connect/{source}/problem", "operator", oauth.problem),
    get("/hooks", "viewer", hooks.hooks),
    post("/hooks", "operator", hooks.add),
    get("/hooks/new", "operator", hooks.new_hook),
    get("/hooks/{hook}", "viewer", hooks.hook),
    get("/hooks/{hook}/first-delivery", "viewer", connect.first_delivery),
    post("/hooks/{hook}/check", "operator", connection.check),
    post("/hooks/{hook}/disconnect", "operator", connection.disconnect),
    get("/hooks/{hook}/catch-up", "viewer", connection.catch_up),
    post("/hooks/{hook}/catch-up", "operator", connection.start),
    post("/hooks/{hook}/catch-up/plan", "operator", connection.plan),
    post("/hooks/{hook}/catch-up/cancel", "operator", connection.cancel),
    post("/hooks/{hook}", "operator", hooks.change),
    post("/hooks/{hook}/rotate", "operator", hooks.rotate),
    post("/hooks/{hook}/finish-rotation", "operator", hooks.finish_rotation),
    post("/hooks/{hook}/remove", "operator", hooks.remove),
    post("/accounts/{account}/pause", "operator", sources.pause),
    post("/accounts/{account}/resume", "operator", sources.resume),
    get("/workers", "viewer", workers.workers),
    get("/plan", "viewer", operations.plan),
    get("/operations", "viewer", operations.operations),
    post("/operations", "operator", operations.start),  # replay and discard
    get("/operations/{operation}", "viewer", operations.operation),
    get("/operations/{operation}/tasks", "viewer", operations.tasks),
    post("/operations/{operation}/cancel", "operator", operations.cancel),
    get("/activity", "viewer", activity.activity),
    get("/activity/newer", "viewer", activity.newer_count),
    get("/settings", "viewer", settings.settings),
    post("/settings", "viewer", settings.save_preferences),
    get("/settings/retention", "viewer", settings.retention),
    get("/settings/erasure", "operator", erasure.erasure_form),
    post("/settings/erasure", "operator", erasure.erase),
    post("/times", "viewer", settings.save_times),
    post("/sessions/end", "operator", settings.end_sessions),
]
