"""The console at /console: pages and forms for operators, which work without JavaScript."""

from app.console.app import Console

__all__ = ["Console"]
