"""Which field a form asks to reveal."""

import re

from starlette.requests import Request

from app.ledger.records import NotFound


def field_to_reveal(request: Request) -> str:
    """A field's name, or `*` for all of a body. Raises NotFound for anything that cannot be a field's name."""
    field: str = request.state.form.get("field", "")
    if not re.fullmatch(r"[\w.#-]{1,200}|\*", field):
        raise NotFound("field")
    return field
