"""Tables at the width of the terminal."""

import re

from app.cli.tables import State, format_table, task_state

ID = "standard-walk-in-a191c1de"
SENTENCE = "The secret of this hook is not the tool's, or a proxy changed the whole body."
NAMES = ["id", "state", "cause", "next_attempt", "delivery"]
ROWS = [
    [ID, task_state("parked"), SENTENCE, "–", "d1a2269df54eb244c153f6"],
    ["standard-A-1", State("Up to date, cancelled", "done"), "–", "–", "d1a2269df54eb244c153f7"],
]


def lines(width: int | None, names: list[str] = NAMES, rows: list[list[str]] = ROWS) -> list[str]:
    return list(format_table(names, rows, width))


def test_a_file_gets_whole_cells_in_aligned_columns_without_symbols() -> None:
    heading, *rows = lines(None)

    assert ["ID", "STATE", "CAUSE", "NEXT ATTEMPT", "DELIVERY"] == re.split(r" {2,}", heading)
    assert [heading.index("CAUSE"), heading.index("DELIVERY")] == [rows[0].index(SENTENCE), rows[0].index("d1a")]
    assert rows[1].index("d1a") == rows[0].index("d1a")
    assert "✘" not in rows[0]


def test_a_wide_terminal_gets_the_whole_table_with_symbols() -> None:
    heading, parked, done = lines(180)

    assert "NEXT ATTEMPT" in heading
    assert f"{ID}  ✘ Needs attention        {SENTENCE}" in parked
    assert "✔ Up to date, cancelled" in done
    assert heading.index("DELIVERY") == parked.index("d1a") == done.index("d1a")


def test_a_narrower_terminal_gets_a_table_without_empty_columns_and_with_shorter_sentences() -> None:
    table = lines(110)

    assert "NEXT ATTEMPT" not in table[0]
    assert "The secret of this hook is not" in table[1]
    assert "…" in table[1]
    assert all(ID in table[1] and len(line) <= 110 for line in table)


def test_below_100_columns_each_row_is_a_card_that_fits() -> None:
    assert [
        f"✘ {ID}  Needs attention",
        "  cause: The secret of this hook is not the tool's, or a proxy changed the whole",
        "  body. · delivery: d1a2269df54eb244c153f6",
        "",
        "✔ standard-A-1  Up to date, cancelled",
        "  delivery: d1a2269df54eb244c153f7",
    ] == lines(80)


def test_a_small_table_stays_a_table_in_a_narrow_terminal() -> None:
    assert ["HOOK    SECRET", "calcom  1"] == lines(60, ["hook", "secret"], [["calcom", "1"]])


def test_ids_are_never_shortened() -> None:
    names, rows = ["visit", "delivery"], [["standard-" + "a" * 111, "d1a2269df54eb244c153f6"]]

    for width in (80, 120):
        assert "".join(rows[0]) == "".join(lines(width, names, rows)).replace("  delivery: ", "")


def test_only_the_first_state_has_a_symbol() -> None:
    names = ["operation", "state", "outcome"]
    rows = [["d1a2269df54eb244c153f6", State("Done", "done"), State("1 failed", "failed")]]

    assert ["✔ Done   1 failed"] == [line.partition("f6  ")[2] for line in lines(80, names, rows)[1:]]
    assert ["✔ d1a2269df54eb244c153f6  Done", "  outcome: 1 failed"] == lines(30, names, rows)


def test_a_delivery_with_several_states_has_the_symbol_of_a_failure() -> None:
    state = task_state("applied parked")

    assert ("Applied, Needs attention", "parked") == (state, state.code)


def test_a_row_without_a_state_has_no_symbol() -> None:
    rows = [["a", "–"], ["b", State("Needs attention", "parked")]]

    assert ["a     –", "b   ✘ Needs attention"] == lines(80, ["id", "state"], rows)[1:]


def test_cards_of_one_line_are_a_list() -> None:
    rows = [[ID, State("Succeeded", "succeeded")], ["standard-A-1", State("Failed again", "failed")]]

    assert [f"✔ {ID}  Succeeded", "✘ standard-A-1  Failed again"] == lines(40, ["id", "result"], rows)


def test_a_long_state_has_lines_of_its_own() -> None:
    sentence = "nothing was sent: Review Rover had these values already"
    rows = [["6:17 PM EST, 3 min ago", State(sentence, "unchanged")]]

    assert ["· 6:17 PM EST, 3 min ago", f"  {sentence}"] == lines(80, ["at", "outcome"], [*rows])
