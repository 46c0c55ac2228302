"""The rules of the fuzzing targets, over where a fuzzer starts and over every input that once broke one."""

import random
from pathlib import Path

import pytest
from fuzz.targets import TARGETS, seeds

CORPUS = Path(__file__).parent / "fuzz" / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_no_rule_is_broken_where_a_fuzzer_starts_nor_by_what_once_broke_one(target: str) -> None:
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]

    for given in [*seeds(target), *kept]:
        TARGETS[target](given)


@pytest.mark.parametrize("target", TARGETS)
def test_no_rule_is_broken_by_seeds_with_random_bytes_changed(target: str) -> None:
    dice = random.Random(1)
    for seed in seeds(target):
        changed = bytearray(seed + dice.randbytes(40))
        for _ in range(dice.randrange(6)):
            changed[dice.randrange(2, len(changed))] = dice.randrange(256)
        TARGETS[target](bytes(changed))
