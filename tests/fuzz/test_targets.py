"""The fuzzing targets, run over their seeds and over every input that once violated a rule."""

import random
from pathlib import Path

import pytest

from tests.fuzz import mutants
from tests.fuzz.targets import TARGETS, seeds

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_corpus_violate_no_rule(target: str) -> None:
    corpus = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]

    for data in [*seeds(target), *corpus]:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_with_random_changes_violate_no_rule(target: str) -> None:
    rng = random.Random(1)
    for seed in seeds(target):
        changed = bytearray(seed + rng.randbytes(40))
        for _ in range(rng.randrange(6)):
            changed[rng.randrange(2, len(changed))] = rng.randrange(256)
        TARGETS[target](bytes(changed))


# -- the list of equivalent mutants --


def test_every_row_of_the_list_has_a_function_and_one_replacement() -> None:
    rows = mutants.parse_list(mutants.MUTANT_LIST.read_text("utf-8"))

    assert len(rows) > 20
    for row in rows:
        assert row.where.startswith(("app.", "jobs."))
        assert row.old != row.new
        assert row.explains(row.where, f"f({row.old})", f"f({row.new})")


@pytest.mark.parametrize(
    ("expected", "function", "line", "changed"),
    [
        (True, "app.webhooks.signatures.public_key._holds", 'f("a", "a")', 'f("a", "A")'),
        (True, "app.webhooks.signatures.public_key._holds", 'f("a", "a")', 'f("A", "a")'),
        (False, "app.webhooks.signatures.public_key._holds", 'f("a", "a")', 'f("A", "A")'),
        (False, "app.webhooks.signatures.public_key._holds", 'f("a", "b")', 'f("A", "c")'),
        (False, "app.webhooks.delivery.decompress", 'f("a")', 'f("A")'),
    ],
)
def test_a_row_explains_one_replacement_in_matching_functions(
    expected: bool, function: str, line: str, changed: str
) -> None:
    [row] = mutants.parse_list(
        '| `app.webhooks.signatures.public_key.*` | `"a"` | `"A"` | no case |\n| Where | From | To | Why |\n'
    )

    assert expected is row.explains(function, line, changed)


def test_a_row_may_contain_a_pipe_character() -> None:
    assert [mutants.Equivalent("app.x", "a | b", "a | c")] == mutants.parse_list(
        r"| `app.x` | `a \| b` | `a \| c` | why |"
    )


def test_the_output_of_mutmut_is_parsed() -> None:
    results = "    app.keys.x__holds__mutmut_1: survived\n    app.keys.xǁJwtǁ_is_by__mutmut_3: killed\n"
    diff = "--- app/keys.py\n+++ app/keys.py\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n"

    assert [("app.keys.x__holds__mutmut_1", "survived")] == list(mutants.survivors(results))
    assert ("    return 1", "    return 2") == mutants.line_of(diff)
    assert "app.keys._holds" == mutants.function_of("app.keys.x__holds__mutmut_1")
    assert "app.keys.fold" == mutants.function_of("app.keys.x_fold__mutmut_10")
    assert "app.keys.Jwt._is_by" == mutants.function_of("app.keys.xǁJwtǁ_is_by__mutmut_3")
