"""Writes dictionaries for compression.py from the specimens: `python -m app.ledger.train_dictionaries [SOURCE…]`.

Without names: the first dictionary of each source that has none. With names: the next one of these sources.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence

import zstandard

from app.ledger.compression import FOLDER, LEVEL, as_dictionary, dictionaries, digest_of
from app.webhooks.registry import load_sources, load_specimens, specimen_body

MAX_BYTES = 8_000
#: A body that the dictionary compresses to a smaller part adds nothing to it.
MAX_RATIO = 1 / 6


def train(bodies: Iterable[bytes]) -> bytes:
    """Return the bodies that differ from each other, the first one last: the end of a dictionary costs the least."""
    text = b""
    for body in bodies:
        compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=as_dictionary(text) if text else None)
        if len(compressor.compress(body)) > len(body) * MAX_RATIO:
            text = (body + text)[-MAX_BYTES:]
    return text


def specimen_bodies(source: str) -> Iterator[bytes]:
    for recorded in load_specimens(source)["deliveries"]:
        if isinstance(recorded["expect"], list):  # neither a handshake nor ignored
            yield specimen_body(recorded)


def main(sources: Sequence[str]) -> None:
    latest = {source: number for source, number, _ in dictionaries()}
    for source in sources or [name for name in load_sources() if name not in latest]:
        text = train(specimen_bodies(source))
        path = FOLDER / f"{source}.{latest.get(source, 0) + 1}.{digest_of(text)}.txt"
        path.write_bytes(text)
        print(f"{path.name}  {len(text)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
