"""zstd with a dictionary for each source: small bodies with the same names of fields take a third of the bytes.

A dictionary has text of recorded deliveries, and code tables for the text that differs. Its file is
`dictionaries/<source>.<number>.<digest>.dict` (the first ones, which have no tables: `.txt`). The greatest number
compresses; the others are for stored bodies, so no file is ever changed or deleted. train_dictionaries.py writes them.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import zstandard

#: The first byte of a body that is compressed with a dictionary. Four bytes of its digest and the zstd frame follow.
WITH_DICTIONARY = b"\x02"
_DIGEST_BYTES = 4
#: Level 3 takes 1.5 times as long, a tenth of a web process' time for a delivery, and saves 3 bytes of a body of 700.
LEVEL = 1


class UnknownDictionary(Exception):
    """A newer version of Doorbell compressed the body. The argument is the digest of its dictionary."""


class DictionaryFile(NamedTuple):
    source: str
    number: int
    digest: str
    path: Path


def compress(body: bytes, source: str) -> bytes:
    """Compress with the newest dictionary of the source, if it has one."""
    prefix, compressor = _compressor(source)
    return prefix + compressor.compress(body)


def decompress(stored: bytes) -> bytes:
    """Raise UnknownDictionary. Threads share this module, so each call creates a decompressor."""
    if not stored.startswith(WITH_DICTIONARY):
        return zstandard.ZstdDecompressor().decompress(stored)
    digest, frame = stored[1 : 1 + _DIGEST_BYTES].hex(), stored[1 + _DIGEST_BYTES :]
    return zstandard.ZstdDecompressor(dict_data=_load(digest)).decompress(frame)


@cache
def _compressor(source: str) -> tuple[bytes, zstandard.ZstdCompressor]:
    digests = [file.digest for file in dictionary_files() if file.source == source]
    if not digests:
        return b"", zstandard.ZstdCompressor(level=LEVEL)
    dictionary = _load(digests[-1])
    dictionary.precompute_compress(level=LEVEL)
    prefix = WITH_DICTIONARY + bytes.fromhex(digests[-1])
    return prefix, zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary, write_dict_id=False)


@cache
def dictionary_files() -> list[DictionaryFile]:
    """Return the file of each dictionary, those of a source in the order of their numbers."""
    names = ((path.name.split("."), path) for path in FOLDER.iterdir())
    return sorted(DictionaryFile(source, int(number), digest, path) for (source, number, digest, _), path in names)


@cache
def _load(digest: str) -> zstandard.ZstdCompressionDict:
    for file in dictionary_files():
        if file.digest == digest:
            return as_dictionary(file.path.read_bytes())
    raise UnknownDictionary(digest)


def as_dictionary(content: bytes) -> zstandard.ZstdCompressionDict:
    """content: with code tables, or text only."""
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_AUTO)


FOLDER = Path(__file__).with_name("dictionaries")


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).digest()[:_DIGEST_BYTES].hex()
