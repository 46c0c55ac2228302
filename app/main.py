"""`uvicorn app.main:app` starts the web process, which app/web.py describes."""

import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def __getattr__(name: str) -> "ASGIApp":
    """Create `app` when uvicorn asks for it, so that importing this module needs no settings."""
    if name != "app":
        raise AttributeError(name)
    # Until web.py enables it: what start-up makes stays, so the collector would find nothing, in a tenth of the start.
    gc.disable()
    # pydantic would read the metadata of all packages to find plugins, which takes 5 ms; none is used.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from app.web import start

    return start()
