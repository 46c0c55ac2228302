"""Bodies are compressed with a dictionary of their source, and every stored form stays readable."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.ledger import compression, train_dictionaries
from app.ledger.bodies import Bodies, BodyUnreadable
from app.ledger.compression import compress, decompress
from app.ledger.train_dictionaries import FOLDER, distinct_text, samples_of, specimen_bodies, train
from app.webhooks.fresh_specimens import refresh
from app.webhooks.registry import load_sources, load_specimens, specimen_body
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
    for cached in (compression.dictionary_files, compression._compressor, compression._load):
        cached.cache_clear()


@each("source", list(load_sources()))
def test_every_recorded_body_is_read_as_it_was_received(source: str) -> None:
    for body in specimen_bodies(source):
        assert body == decompress(compress(body, source))


def test_a_body_that_no_dictionary_contains_takes_less_than_half() -> None:
    """The text of the dictionary lacks the body that it compresses."""
    plain = with_dictionary = 0
    for source in load_sources():
        bodies, samples = list(specimen_bodies(source)), samples_of(source)
        for body in bodies:
            plain += len(zstandard.compress(body, level=1))
            with_dictionary += compressed_size(body, train((other for other in bodies if other != body), samples))

    assert with_dictionary < plain / 2


def test_code_tables_save_a_tenth_of_a_delivery_with_other_ids_and_dates() -> None:
    text_only = with_tables = 0
    for source in load_sources():
        dictionary, samples = train(specimen_bodies(source), samples_of(source)), specimen_variants(source)
        text_only += sum(compressed_size(body, distinct_text(specimen_bodies(source))) for body in samples)
        with_tables += sum(compressed_size(body, dictionary) for body in samples)

    assert with_tables < text_only * 0.9


def specimen_variants(source: str) -> list[bytes]:
    """Return deliveries that are not among the samples of the dictionary."""
    now = datetime(2027, 5, 6, tzinfo=UTC)
    recorded = [specimen for specimen in load_specimens(source)["deliveries"] if isinstance(specimen["expect"], list)]
    return [specimen_body(refresh(source, one, f"test.{number}", now)) for number, one in enumerate(recorded)]


def compressed_size(body: bytes, dictionary: bytes) -> int:
    compressor = zstandard.ZstdCompressor(
        level=compression.LEVEL, dict_data=compression.as_dictionary(dictionary or b" "), write_dict_id=False
    )
    return 5 + len(compressor.compress(body))


@given(
    text=st.text(max_size=3_000) | st.text("0123456789abcdef", max_size=3_000) | st.text("жабвгдеё 漢字", max_size=900)
)
def test_text_that_differs_from_all_specimens_takes_little_more_than_without_a_dictionary(text: str) -> None:
    body = json.dumps({"notes": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stored = compress(body, "standard")

    assert body == decompress(stored)
    assert len(stored) <= len(zstandard.compress(body, level=1)) * 1.4 + 16


def test_no_dictionary_was_changed() -> None:
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:8] for file in FOLDER.iterdir()}

    assert digests
    assert digests == {name: name.split(".")[2] for name in digests}


@each("source", list(load_sources()))
def test_bodies_of_the_first_dictionaries_which_have_no_tables_are_read(source: str) -> None:
    [path] = FOLDER.glob(f"{source}.1.*.txt")
    text = zstandard.ZstdCompressionDict(path.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    frame = zstandard.ZstdCompressor(level=1, dict_data=text).compress(BODY)

    assert BODY == decompress(b"\x02" + bytes.fromhex(path.name.split(".")[2]) + frame)


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
        BodyUnreadable, match=r"a newer version of Doorbell compressed its body \(dictionary deadbeef\)"
    ):
        Bodies().decode(stored, "d1")
