"""`doorbell drift`: what tools changed in their payloads."""

from app.settings.environment import read_environment
from tests.support.command_line import activity_of, rows
from tests.support.harness import Harness
from tests.support.ledger_client import LedgerClient
from tests.support.payloads import notice_new_status


def test_changes_are_listed_and_acknowledged(service: Harness) -> None:
    settings = read_environment(service.env)
    id = LedgerClient(service.redis_url).run(lambda ledger: notice_new_status(ledger, settings))

    [change] = rows(service, "drift", "--json")
    text = service.doorbell("drift", "calendly").stdout
    overview = service.doorbell("overview").stdout
    unnamed = service.doorbell("drift", "--acknowledge")
    acknowledged = service.doorbell("drift", "calendly", "--acknowledge")
    again = service.doorbell("drift", "calendly", "--acknowledge")

    assert ("calendly", "new_word", "payload.status", "tentative", id) == (
        change["source"],
        change["change"],
        change["path"],
        change["word"],
        change["delivery"],
    )
    assert "payload.status has the new word tentative" in text
    assert "Calendly changed its payloads: payload.status has the new word tentative." in overview
    assert "    doorbell drift\n" in overview
    assert (2, 0, 5) == (unnamed.returncode, acknowledged.returncode, again.returncode)
    assert [(b"acknowledged payload changes", b"calendly: 1")] == activity_of(service)
    assert 5 == service.doorbell("drift").returncode
    [known] = rows(service, "drift", "--all", "--json")
    assert known["acknowledged_by"].endswith("(command line)")
