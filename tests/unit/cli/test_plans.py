"""The rows of a plan: what would happen to a task, in words."""

from app.cli.replay import _plan_rows
from app.ledger.ids import TaskId
from app.operators.operations import OperationKind
from app.operators.replay import Call, PlannedTask
from tests.support.cases import each


@each(
    ("kind", "obstacle", "calls", "expected"),
    [
        ("replay", "contact_unknown", (Call("wait: contact_unknown", "standard-1"),), "fail: No e-mail address"),
        ("replay", "", (), "send nothing: Review Rover is up to date"),
        ("replay", "", (Call("POST /visits", "standard-1", {"amount_collected": None}),), "POST /visits"),
        ("discard", "", (), None),
    ],
)
def test_a_plan_says_in_words_what_would_happen(
    kind: OperationKind, obstacle: str, calls: tuple[Call, ...], expected: str | None
) -> None:
    task_id = TaskId.visit("main", "standard-1")
    planned = PlannedTask(id="standard-1", task_id=task_id, state="parked", obstacle=obstacle, calls=calls)

    [row] = _plan_rows(planned, kind)

    assert ("standard-1", "Needs attention") == (row["id"], row["state"])
    assert expected == row.get("what would happen")
    assert row.get("sends", "") in ("", "Amount none")
