"""All fake tools as one ASGI application, each below a path with its name."""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette

import app.vendors
from app.vendors.vendor import Vendor

#: The modules of this package that are not tools.
SHARED = ("api", "calendar", "oauth", "vendor")


def vendor_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(app.vendors.__path__) if module.name not in SHARED)


def load_vendor(name: str) -> Vendor:
    vendor: Vendor = importlib.import_module(f"app.vendors.{name}").VENDOR()
    return vendor


def create_vendors(vendors: Sequence[Vendor]) -> Starlette:
    """Return the application. Its lifespan sends the webhooks."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sending = [asyncio.create_task(vendor.run()) for vendor in vendors]
        yield
        for task in sending:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for vendor in vendors:
            await vendor.close()

    application = Starlette(routes=[route for vendor in vendors for route in vendor.routes()], lifespan=lifespan)
    application.router.redirect_slashes = False
    return application
