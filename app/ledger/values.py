"""Long values of a hash, which lib/values.lua cuts: they continue in the fields `<name>+1`, `<name>+2` and so on."""

from collections.abc import Sequence


def join_values(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the whole values by name. flat: names and values of the fields, as Redis returns them."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return {name: _join(fields, name) for name in fields if b"+" not in name}


def _join(fields: dict[bytes, bytes], name: bytes) -> bytes:
    value, number = fields[name], 1
    while piece := fields.get(b"%s+%d" % (name, number)):
        value, number = value + piece, number + 1
    return value
