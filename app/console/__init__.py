"""The console at /console: pages for operators, made here, without a script being needed for any of it.

    access.py       who gets in, and what they may do
    pages.py      the pages that show          forms.py     the forms that do
    plans.py     replays and discards: the plan, and what came of it
    erasure.py   a person is forgotten
    overview.py     the verdict and its numbers  live.py       the event stream
    redaction.py    a body without anybody's data
    templates/, static/   all that a browser gets

Every page is a line of a table (PAGES, ACTIONS) that names its role; here, around each of
them, stands what is the same for all: closed unless configured, who it is, roles, forms, headers, and trouble.
"""

import asyncio
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from app.console import erasure, forms, pages, plans
from app.console.auth import MAX_COOKIE_BYTES, SECURITY_HEADERS, exceeds_cookie_limit
from app.console.rendering import Ask, Desk, Page
from app.intake.request_body import BodyDeadlines, HttpRejection
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.ledger.redis import RedisUnavailable
from app.settings.model import Settings
from app.telemetry.logs import log

#: The largest form; that of logging in holds one password.
MAX_FORM_BYTES, MAX_LOGIN_BYTES = 65_536, 4_096
#: In bytes, of all forms that are on their way.
MAX_OPEN_FORM_BYTES = 8_388_608

#: Every one, for whoever wants to know that none was forgotten.
ALL_PAGES = tuple(
    page
    for pages in (pages.PAGES, plans.PAGES, erasure.PAGES, forms.ACTIONS, plans.ACTIONS, erasure.ACTIONS)
    for page in pages
)

__all__ = ["Console"]


class Console:
    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.desk = Desk(settings, ledger)
        self._slow = BodyDeadlines(MAX_OPEN_FORM_BYTES)

    def routes(self) -> list[Route]:
        return [self._route(page) for page in ALL_PAGES]

    async def keep_cutting(self) -> None:
        """For ever: who sends a form slowly is cut off."""
        await self._slow.run()

    def leave(self) -> None:
        """The process is asked to go: what would not end by itself does."""
        self._slow.start_draining()
        self.desk.live.shut_down()

    async def close(self) -> None:
        self.leave()
        await self.desk.close()

    def _route(self, page: Page) -> Route:
        async def endpoint(request: Request) -> Response:
            if not self.desk.access.is_open:
                return _closed()
            response = await self._answer(page, request)
            for name, value in SECURITY_HEADERS.items():
                response.headers.setdefault(name, value)
            response.headers.setdefault("cache-control", "private, no-store")
            response.headers.setdefault("vary", "Cookie, HX-Request")
            return response

        return Route(page.path, endpoint, methods=[page.method], name=page.endpoint.__name__)

    async def _answer(self, page: Page, request: Request) -> Response:
        ask = Ask(request)
        try:
            if exceeds_cookie_limit(request):
                sentence = f"the browser sent more than {MAX_COOKIE_BYTES} bytes of cookies; remove those of this host"
                raise HttpRejection(431, "cookies_too_long", sentence)
            # The form first: what is too large is refused before anything else is asked.
            if page.method == "POST":
                ask.form = await self._form(page, request)
            if page.role == "static":
                return await page.endpoint(self.desk, ask)
            ask.user, ask.parked = await asyncio.gather(
                self.desk.access.user(request), self.desk.redis.command("ZCARD", "bell:parked")
            )
            if page.method == "POST" and not self.desk.access.is_same_origin_form(
                request, ask.form.get("token", ""), ask.user
            ):
                sentence = (
                    "This form did not come from a page of this console, or its session is over. Nothing was done."
                )
                return await self.desk.problem(ask, 403, "Not accepted", sentence)
            if page.role == "anybody":
                return await page.endpoint(self.desk, ask)
            if ask.user is None:
                return _to_login(page, request)
            if not ask.user.has_role(page.role):
                sentence = (
                    f"This needs the role {page.role}; you are {ask.user.name}, a {ask.user.role}. Nothing was done."
                )
                return await self.desk.problem(ask, 403, "Not allowed", sentence)
            return await page.endpoint(self.desk, ask)
        except HttpRejection as refused:
            response = await self.desk.problem(ask, refused.status, "Not accepted", f"{refused}.")
            response.headers.update(refused.headers)
            return response
        except NotFound:
            days = self.desk.settings.retention_days
            sentence = f"There is nothing of that name, or no longer: what is settled is kept for {days} days."
            return await self.desk.problem(ask, 404, "Not found", sentence)
        except RedisUnavailable as trouble:
            was_in = ask.user is not None or self.desk.access.session(request) is not None
            return await self.desk.redis_down(ask, str(trouble) if was_in else "")
        except Exception:
            log.exception("unhandled_exception", page=page.endpoint.__name__)
            return await self.desk.problem(
                ask, 500, "A defect of Doorbell", "This page could not be made; the log has the place."
            )

    async def _form(self, page: Page, request: Request) -> dict[str, str]:
        most = MAX_LOGIN_BYTES if page.role == "anybody" else MAX_FORM_BYTES
        raw = await self._slow.read(request.receive, request.headers.get("content-length", ""), most)
        try:
            fields = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=500)
        except ValueError:
            raise HttpRejection(400, "unreadable_form", "the form cannot be read") from None
        return _merged(fields)


def _merged(fields: list[tuple[str, str]]) -> dict[str, str]:
    """Rows that were ticked come under one name several times."""
    form: dict[str, str] = {}
    for name, value in fields:
        form[name] = f"{form[name]} {value}" if name in form else value
    return form


def _closed() -> Response:
    return JSONResponse({"error": "not_found", "detail": "there is nothing at this address"}, 404)


def _to_login(page: Page, request: Request) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/console/login"})
    query = f"?{request.url.query}" if request.url.query else ""
    target = quote(request.url.path + query) if page.method == "GET" else ""
    return RedirectResponse(f"/console/login{target and '?to=' + target}", 303)
