"""The time limits of a run depend on each other."""

from app.ledger.ledger import LEASE_S
from app.visits.client import RESPONSE_TIMEOUT_S
from jobs.claiming_worker import JOB_TIMEOUT_S
from jobs.context import RUN_TIMEOUT_S


def test_a_run_ends_before_its_lease() -> None:
    last_call_ends_at = RUN_TIMEOUT_S + RESPONSE_TIMEOUT_S

    assert last_call_ends_at < JOB_TIMEOUT_S < LEASE_S
