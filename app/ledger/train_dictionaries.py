"""Writes dictionaries for compression.py from the specimens: `python -m app.ledger.train_dictionaries [SOURCE…]`.

Without names: the first dictionary of each source that has none. With names: the next one of these sources.
"""

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from string import ascii_letters, digits
from uuid import UUID

import orjson
import zstandard

from app.ledger.compression import FOLDER, LEVEL, as_dictionary, dictionary_files, digest_of
from app.webhooks.fresh_specimens import refresh
from app.webhooks.registry import load_sources, load_specimens, specimen_body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_TEXT_BYTES, MAX_TABLES_BYTES = 16_000, 2_000
#: A body that the dictionary compresses to a smaller part adds nothing to it.
MAX_RATIO = 1 / 10

#: zstd uses the code tables of a dictionary for up to a kilobyte of text that the dictionary lacks, whatever it is. So they
#: must fit more than the specimens: notes that people write, and ids. Other languages are here for their letters.
NOTES = (
    "Please ring twice, the dog is afraid of strangers. The water heater in the basement leaks and makes a loud noise. "
    "Same haircut as last time, shoulder length with layers and a little color. We move into a new house in March and "
    "need the furnace checked before. My daughter has a cold, so we may be ten minutes late. The gate code is 4711; park "
    "in the driveway, not on the street. First visit of a new patient, who is allergic to penicillin and latex. The "
    "customer asked to reschedule because of work and prefers mornings. Brake pads and rotors; the engine light came on "
    "yesterday. Deep tissue massage for ninety minutes, focus on neck and lower back. The kitchen sink is clogged again, "
    "and the dishwasher does not drain. Thanks for your quick help, everybody was very friendly. Por favor llame dos "
    "veces, el perro está nervioso. La calefacción no funciona desde ayer y hace mucho frío en la casa. Mi hija tiene "
    "alergia; preferimos la mañana después de las nueve. Bitte zweimal klingeln, die Heizung wird nicht warm. Der "
    "Schlüssel liegt unter der Fußmatte, wir kommen später nach Hause. Merci de me rappeler après dix heures, l'évier de "
    "la cuisine est bouché et le chauffe-eau fuit. Пожалуйста, позвоните за час до приезда, домофон не работает. "
)
SAMPLE_CHARS = (100, 300, 600, 900) * 5
#: How often each specimen is a sample, with other ids and dates.
VARIANTS = 4


def train(bodies: Iterable[bytes], samples: Sequence[bytes]) -> bytes:
    """Return a dictionary with the text of the bodies, and with code tables that fit the samples."""
    text = zstd.ZstdDict(distinct_text(bodies), is_raw=True)
    dictionary = zstd.finalize_dict(text, samples, len(text) + MAX_TABLES_BYTES, LEVEL)
    return dictionary.dict_content


def distinct_text(bodies: Iterable[bytes]) -> bytes:
    """Return the bodies that differ from each other, the first one last: the end of a dictionary costs the least."""
    text = b""
    for body in bodies:
        compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=as_dictionary(text) if text else None)
        if len(compressor.compress(body)) > len(body) * MAX_RATIO:
            text = (body + text)[-MAX_TEXT_BYTES:]
    return text


def specimen_bodies(source: str) -> Iterator[bytes]:
    return map(specimen_body, _specimens(source))


def _specimens(source: str) -> Iterator[dict[str, object]]:
    for recorded in load_specimens(source)["deliveries"]:
        if isinstance(recorded["expect"], list):  # neither a handshake nor ignored
            yield recorded


def samples_of(source: str) -> list[bytes]:
    """Return the specimens with other ids and dates, notes, and ids, the same in each call."""
    rng, now = random.Random(source), datetime(2026, 1, 1, tzinfo=UTC)
    variants = [
        specimen_body(refresh(source, recorded, f"{number}.{variant}", now))
        for number, recorded in enumerate(_specimens(source))
        for variant in range(VARIANTS)
    ]
    notes = [orjson.dumps({"id": _random_id(rng), "notes": _random_note(rng, chars)}) for chars in SAMPLE_CHARS]
    ids = [orjson.dumps({"ids": [_random_id(rng) for _ in range(chars // 30)]}) for chars in SAMPLE_CHARS]
    return variants + notes + ids


def _random_note(rng: random.Random, chars: int) -> str:
    start = rng.randrange(len(NOTES))
    return (NOTES[start:] + NOTES)[:chars]


def _random_id(rng: random.Random) -> str:
    bits = rng.getrandbits(128)
    letters = "".join(rng.choice(ascii_letters + digits) for _ in range(22))
    return rng.choice((f"{bits:032x}", str(UUID(int=bits)), letters, str(bits % 10**9)))


def main(sources: Sequence[str]) -> None:
    latest = {file.source: file.number for file in dictionary_files()}
    for source in sources or [name for name in load_sources() if name not in latest]:
        dictionary = train(specimen_bodies(source), samples_of(source))
        path = FOLDER / f"{source}.{latest.get(source, 0) + 1}.{digest_of(dictionary)}.dict"
        path.write_bytes(dictionary)
        print(f"{path.name}  {len(dictionary)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
