"""The console at /console: pages and forms for operators, which work without JavaScript."""

from app.console.mount import Console

__all__ = ["Console"]
