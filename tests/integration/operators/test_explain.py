"""What is quoted to operators: enough to see what is wrong, and nobody's name."""

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, DeliveryInfo, Lease, Outcome
from app.ledger.redis import Redis
from app.operators.explain import ALL_FIELDS, Explain
from app.operators.redaction import redact_text
from app.settings.environment import read_environment
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery


@pytest.mark.parametrize(
    ("shown", "answered"),
    [
        ('{"name": "•••"}', '{"name": "Ada Lovelace"}'),
        ('{"first_name":"•••","last_name":"•••"}', '{"first_name":"Ada","last_name":"Love\\"lace"}'),
        ('{"contact": {"fullName": "•••", "id": 7}}', '{"contact": {"fullName": "Ada Lovelace", "id": 7}}'),
        ('{"company" : "•••"}', '{"company" : "Lovelace & Sons"}'),
        ('{"address": {"line1": "•••", "city": "•••"}}', '{"address": {"line1": "5 Example St", "city": "Exeter"}}'),
        ('{"names": "•••", "ok": true}', '{"names": ["Ada", "Bob"], "ok": true}'),
        ('{"name": "•••"', '{"name": "Ada Lov'),  # cut off at 500 characters
        ("email=•••&first_name=•••&external_id=a-1", "email=ada%40example.com&first_name=Ada&external_id=a-1"),
        ("contact[last_name]=•••", "contact[last_name]=Lovelace"),
        ("•••@••• is taken", "ada@example.com is taken"),
        ("call •••", "call +1 555 010 0001"),
    ],
)
def test_what_is_personal_is_masked(shown: str, answered: str) -> None:
    assert shown == redact_text(answered)


@pytest.mark.parametrize(
    "answered",
    [
        '{"error": "unprocessable", "field": "amount_collected", "detail": "must be a decimal"}',
        '{"time_scheduled": "is missing", "external_id": "calendly-I1"}',
        "<html><body>Something went wrong</body></html>",
    ],
)
def test_what_says_what_is_wrong_stays(answered: str) -> None:
    assert answered == redact_text(answered)


async def test_a_visit_is_found_by_the_tools_own_id_however_its_name_is_written(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    change = VisitChange(action="create", visit_id="1562609287450015", version=1)
    delivery = Delivery("standard", "standard", (), b"", datetime.now(UTC))
    await ledger.accept(delivery, DeliveryInfo("standard", "standard", 1), [change], "main", dedup_id=None)

    found = await Explain(ledger, settings).visit_task_ids("standard-1562609287450015")

    # Sixteen digits look like the end of a name that was shortened, so that this one had to be written with its digest.
    assert ["visit:main/standard-1562609287450015-"] == [work[: -len("0123456789abcdef")] for work in found]


async def test_the_facts_are_those_of_whose_visit_it_is_and_every_payment_is_one(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    zoe = Contact(email="zoe@example.com", first_name="Zoe", phone="+15550100001")
    ada = Contact(email="ada@example.com", first_name="Ada")
    changes = [
        VisitChange(action="create", visit_id="A", version=1, contact=zoe, amount_collected=Decimal(90)),
        VisitChange(action="update", visit_id="A", version=2, contact=ada),
        VisitChange(action="update", visit_id="A", version=3, payment_id="pi_1", amount_collected=Decimal(40)),
        VisitChange(action="update", visit_id="A", version=4, payment_id="pi_2", amount_collected=Decimal(50)),
    ]
    delivery = Delivery("standard", "standard", (), b"", datetime.now(UTC))
    await ledger.accept(delivery, DeliveryInfo("standard", "standard", 1), changes, "main", dedup_id=None)

    [visit] = await Explain(ledger, settings, ALL_FIELDS).visit("standard-A")

    assert {
        "contact.email": "ada@example.com",
        "contact.first_name": "Ada",
        "amount_collected": "90.00",
        "amount_collected of pi_1": "40.00",
        "amount_collected of pi_2": "50.00",
    } == {name: fact["value"] for name, fact in visit["facts"].items()}


@pytest.mark.parametrize(("behind_s", "shown"), [(0, 1), (0.5, 1), (60, 0)])
async def test_a_delivery_tells_the_attempts_since_it_arrived_by_the_clocks_of_two_machines(
    redis: Redis, behind_s: float, shown: int
) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    arrived = int(time.time() * 1000)
    delivery = Delivery("standard", "standard", (), b"{}", datetime.now(UTC))
    changes = [VisitChange(action="create", visit_id="A", version=1)]
    written = await ledger.accept(
        delivery, DeliveryInfo("standard", "standard", arrived), changes, "main", dedup_id=None
    )
    hold = await ledger.lease("visit:main/standard-A")
    assert isinstance(hold, Lease)
    attempt = Attempt(started_at_ms=arrived - int(behind_s * 1000), took_ms=1, outcome="waiting")
    await ledger.complete(hold, Outcome(state="waiting", attempt=attempt, reason="time_unknown", retry_in_s=60))

    story = await Explain(ledger, settings).delivery(written.delivery_id)

    assert shown == len(story["attempts"])
