"""The time limits of a run depend on each other."""

from app.ledger.ledger import LEASE_S
from app.visits.client import RESPONSE_TIMEOUT_S
from jobs.apply_visit import max_rate_wait_s
from jobs.claiming_worker import JOB_TIMEOUT_S
from jobs.context import RUN_TIMEOUT_S

#: The least VISITS_API_RATE (`app/settings/model.py`).
LOWEST_RATE = 0.2


def test_a_run_ends_before_its_lease() -> None:
    last_call_ends_at = RUN_TIMEOUT_S + RESPONSE_TIMEOUT_S

    assert last_call_ends_at < JOB_TIMEOUT_S < LEASE_S


def test_the_lowest_rate_allows_the_calls_that_create_a_visit() -> None:
    """GET and POST of contact and visit: three waits for a slot."""
    assert 3 / LOWEST_RATE < RUN_TIMEOUT_S
    assert 1 / LOWEST_RATE < max_rate_wait_s(LOWEST_RATE) < RUN_TIMEOUT_S
