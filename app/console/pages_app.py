"""All pages of the console as one ASGI application."""

from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Mount, Router
from starlette.types import ASGIApp

from app.console.context import ConsoleContext
from app.console.errors import HANDLERS
from app.console.middleware import ResponseHeaders
from app.console.rendering import STATIC, VersionedFiles
from app.console.routes import ROUTES


def create_pages(context: ConsoleContext) -> ASGIApp:
    authentication = Middleware(AuthenticationMiddleware, backend=context.sessions)
    files = Mount("/static/{version}", VersionedFiles(directory=STATIC))
    pages = Mount("", routes=ROUTES, middleware=[authentication])
    common = [Middleware(ResponseHeaders), Middleware(ExceptionMiddleware, handlers=HANDLERS)]
    return Router(routes=[files, pages], middleware=common)
