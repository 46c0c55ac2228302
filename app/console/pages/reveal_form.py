"""Reads the form that reveals personal data. The pages decide what they show."""

import re

from starlette.requests import Request

from app.ledger.records import NotFound


def field_to_reveal(request: Request) -> str:
    """Return the path of a field, or `*` for a whole body. Raises NotFound for anything else."""
    field: str = request.state.form.get("field", "")
    if not re.fullmatch(r"[\w.#-]{1,200}|\*", field):
        raise NotFound(field[:200], "field")
    return field
