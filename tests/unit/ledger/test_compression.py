"""Bodies are compressed with a dictionary of their source, and every stored form stays readable."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from app.ledger import compression, train_dictionaries
from app.ledger.bodies import Bodies, BodyUndecryptable
from app.ledger.compression import compress, decompress
from app.ledger.train_dictionaries import FOLDER, specimen_bodies, train
from app.webhooks.registry import load_sources
from tests.support.cases import each

BODY = b'{"event": "booked", "customer": {"email": "ada@example.com"}, "start": "2026-03-14T16:00:00Z"}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace the folder of dictionaries by an empty one."""
    monkeypatch.setattr(compression, "FOLDER", tmp_path)
    monkeypatch.setattr(train_dictionaries, "FOLDER", tmp_path)
    forget_dictionaries()
    yield tmp_path
    forget_dictionaries()


def forget_dictionaries() -> None:
    for cached in (compression.dictionaries, compression._compressor, compression._read):
        cached.cache_clear()


@each("source", list(load_sources()))
def test_every_recorded_body_is_read_as_it_was_received(source: str) -> None:
    for body in specimen_bodies(source):
        assert body == decompress(compress(body, source))


def test_a_body_that_no_dictionary_contains_takes_less_than_half() -> None:
    """The dictionary of each source is trained without the body that it compresses."""
    plain = with_dictionary = 0
    for source in load_sources():
        bodies = list(specimen_bodies(source))
        for body in bodies:
            dictionary = compression.as_dictionary(train(other for other in bodies if other != body) or b" ")
            plain += len(zstandard.compress(body, level=1))
            compressor = zstandard.ZstdCompressor(level=compression.LEVEL, dict_data=dictionary)
            with_dictionary += 5 + len(compressor.compress(body))

    assert with_dictionary < plain / 2


def test_no_dictionary_was_changed() -> None:
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:8] for file in FOLDER.iterdir()}

    assert digests
    assert digests == {name: name.split(".")[2] for name in digests}


def test_bodies_without_a_dictionary_are_read() -> None:
    assert BODY == decompress(zstandard.compress(BODY, level=1))
    assert BODY == decompress(compress(BODY, "a-source-without-dictionary"))


def test_the_newest_dictionary_compresses_and_the_others_stay_readable(folder: Path) -> None:
    (folder / f"acuity.9.{compression.digest_of(b'first')}.txt").write_bytes(b"first")
    first = compress(BODY, "acuity")
    forget_dictionaries()
    (folder / f"acuity.10.{compression.digest_of(BODY)}.txt").write_bytes(BODY)
    second = compress(BODY, "acuity")

    assert len(second) < len(first)
    assert [BODY, BODY] == [decompress(first), decompress(second)]


def test_training_adds_the_next_dictionary_and_keeps_the_first(folder: Path) -> None:
    train_dictionaries.main([])
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    forget_dictionaries()
    train_dictionaries.main([])
    train_dictionaries.main(["calendly"])
    names = {file.name for file in folder.iterdir()}

    assert set(load_sources()) == {name.partition(".")[0] for name in first}
    assert ["calendly.2"] == [name.rpartition(".")[0].rpartition(".")[0] for name in names - first.keys()]
    assert first.items() <= {file.name: file.read_bytes() for file in folder.iterdir()}.items()


def test_a_dictionary_of_a_newer_version_is_reported_in_a_sentence() -> None:
    stored = b"\x02\xde\xad\xbe\xef" + zstandard.compress(BODY)

    with pytest.raises(
        BodyUndecryptable, match=r"a newer version of Doorbell compressed its body \(dictionary deadbeef\)"
    ):
        Bodies().decode(stored, "d1")
