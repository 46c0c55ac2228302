"""Read models: redacted responses, ids, facts and attempts."""

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, DeliveryInfo, Lease, NewDelivery, Outcome
from app.ledger.redis import Redis
from app.operators.explain import ALL_FIELDS, Explain
from app.operators.filter import Filter
from app.operators.lists import Lists
from app.operators.redaction import REDACTED, redact_text, response_sentence
from app.settings.environment import read_environment
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery
from tests.support.cases import each
from tests.support.ledger import accept, attempt, change, done, visit_task


@each(
    ("expected", "response_text"),
    [
        ('{"name": "•••"}', '{"name": "Ada Lovelace"}'),
        ('{"first_name":"•••","last_name":"•••"}', '{"first_name":"Ada","last_name":"Love\\"lace"}'),
        ('{"contact": {"fullName": "•••", "id": 7}}', '{"contact": {"fullName": "Ada Lovelace", "id": 7}}'),
        ('{"company" : "•••"}', '{"company" : "Lovelace & Sons"}'),
        ('{"address": {"line1": "•••", "city": "•••"}}', '{"address": {"line1": "5 Example St", "city": "Exeter"}}'),
        ('{"names": "•••", "ok": true}', '{"names": ["Ada", "Bob"], "ok": true}'),
        ('{"name": "•••"', '{"name": "Ada Lov'),  # truncated at 500 characters
        ("email=•••&first_name=•••&external_id=a-1", "email=ada%40example.com&first_name=Ada&external_id=a-1"),
        ("contact[last_name]=•••", "contact[last_name]=Lovelace"),
        ("•••@••• is taken", "ada@example.com is taken"),
        ("call •••", "call +1 555 010 0001"),
    ],
)
def test_personal_data_in_a_response_is_hidden(expected: str, response_text: str) -> None:
    assert expected == redact_text(response_text)


@each(
    ("sentence", "response_text"),
    [
        ("email must be an e-mail address", '{"error":"unprocessable","detail":"email must be an e-mail address"}'),
        ('"a" is \\ taken', '{"message": "\\"a\\" is \\\\ taken", "deta'),  # truncated at 500 characters
        ("•••@••• is taken", '{"detail": "ada@example.com is taken"}'),
        ("", '{"detail": "it ends in the midd'),
        ("", '{"detail": null}'),
        ("", "<h1>502 Bad Gateway</h1>"),
        ("", ""),
    ],
)
def test_the_sentence_of_a_response_is_found_and_redacted(sentence: str, response_text: str) -> None:
    assert sentence == response_sentence(response_text)


@each(
    "response_text",
    [
        '{"error": "unprocessable", "field": "amount_collected", "detail": "must be a decimal"}',
        '{"time_scheduled": "is missing", "external_id": "calendly-I1"}',
        "<html><body>Something went wrong</body></html>",
    ],
)
def test_an_error_message_is_not_hidden(response_text: str) -> None:
    assert response_text == redact_text(response_text)


async def test_a_visit_is_matched_by_an_id_that_is_stored_with_a_digest(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    change = VisitChange(action="create", visit_id="1562609287450015", version=1)
    delivery = Delivery("standard", "standard", (), b"", datetime.now(UTC))
    await ledger.accept(NewDelivery(delivery, DeliveryInfo("standard", "standard", 1), [change], "main", dedup_id=None))

    task_ids = await Explain(ledger, settings).visit_task_ids("standard-1562609287450015")

    # Sixteen digits look like the digest of a shortened id, so this id is stored with a digest.
    assert ["visit:main/standard-1562609287450015-"] == [task_id[: -len("0123456789abcdef")] for task_id in task_ids]


async def test_the_facts_belong_to_the_current_contact_and_list_every_payment(redis: Redis) -> None:
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
    await ledger.accept(NewDelivery(delivery, DeliveryInfo("standard", "standard", 1), changes, "main", dedup_id=None))

    [visit] = await Explain(ledger, settings, ALL_FIELDS).visit("standard-A")

    assert {
        "contact.email": "ada@example.com",
        "contact.first_name": "Ada",
        "amount_collected": "90.00",
        "amount_collected of pi_1": "40.00",
        "amount_collected of pi_2": "50.00",
    } == {name: fact["value"] for name, fact in visit["facts"].items()}


@pytest.mark.parametrize(("age_s", "expected"), [(0, 1), (0.5, 1), (60, 0)])
async def test_a_delivery_has_the_attempts_after_it_arrived_despite_clock_skew(
    redis: Redis, age_s: float, expected: int
) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    received_at_ms = int(time.time() * 1000)
    delivery = Delivery("standard", "standard", (), b"{}", datetime.now(UTC))
    changes = [VisitChange(action="create", visit_id="A", version=1)]
    receipt = await ledger.accept(
        NewDelivery(delivery, DeliveryInfo("standard", "standard", received_at_ms), changes, "main", dedup_id=None)
    )
    lease = await ledger.lease("visit:main/standard-A")
    assert isinstance(lease, Lease)
    attempt = Attempt(started_at_ms=received_at_ms - int(age_s * 1000), took_ms=1, outcome="waiting")
    await ledger.complete(lease, Outcome(state="waiting", attempt=attempt, reason="time_unknown", retry_in_s=60))

    details = await Explain(ledger, settings).delivery(receipt.delivery_id)

    assert expected == len(details["attempts"])


async def test_an_empty_value_is_not_hidden(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    contact = Contact(email="", first_name="", phone="+15550100001")
    await accept(ledger, change("A", contact=contact))

    [visit] = await Explain(ledger, settings).visit("standard-A")

    shown = {name: fact["value"] for name, fact in visit["facts"].items()}
    assert {"contact.email": "", "contact.first_name": "", "contact.phone": REDACTED} == shown
    assert shown == visit["changes"][0]["fields"]


@pytest.mark.parametrize(
    ("outcome", "state", "summary"),
    [
        ("ignored: record_gone", "ignored", "Ignored: the tool has deleted the record."),
        ("translated", "done", "It changes no visit."),
    ],
)
async def test_a_delivery_that_a_worker_ignored_says_so(
    redis: Redis, ledger: Ledger, outcome: str, state: str, summary: str
) -> None:
    delivery = (await accept(ledger, event_state="queued")).delivery_id
    lease = await ledger.lease(TaskId.event(delivery))
    assert isinstance(lease, Lease)
    await ledger.complete(lease, Outcome(state="done", attempt=attempt(outcome)))
    settings = read_environment({"REDIS_URL": "redis://127.0.0.1/0"})
    explain = Explain(ledger, settings)
    lists = Lists(ledger, settings, explain)

    assert summary == (await explain.delivery(delivery))["summary"]
    assert [state] == [row["state"] for row in (await lists.deliveries(Filter())).rows]
    assert ([delivery] if state == "ignored" else []) == [
        row["delivery"] for row in (await lists.deliveries(Filter(state="ignored"))).rows
    ]


async def test_a_delivery_has_each_of_its_visits_once(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    moved = [change("A"), change("B", "A", 2), change("B", "A", 3)]  # one visit with two ids
    receipt = await accept(ledger, *moved, change("C"))
    explain = Explain(ledger, settings)

    summary, details = await explain.delivery_summary(receipt.delivery_id), await explain.delivery(receipt.delivery_id)

    assert ["standard-A", "standard-C"] == sorted(summary["visits"])
    assert ["standard-A", "standard-C"] == sorted(row["visit"] for row in details["changes"])


async def test_an_applied_change_hides_a_superseded_one_of_the_same_delivery(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    older, newer = (change("A", version=n, time_scheduled=datetime(2026, 3, 14, n, tzinfo=UTC)) for n in (1, 2))
    receipt = await accept(ledger, older, newer)
    lease = await ledger.lease(visit_task("A"))
    assert isinstance(lease, Lease)
    await ledger.complete(lease, done())

    details = await Explain(ledger, settings).delivery(receipt.delivery_id)

    assert [{"visit": "standard-A", "state": "applied"}] == details["changes"]


async def test_a_discarded_visit_shows_the_discarded_changes(redis: Redis) -> None:
    ledger, settings = Ledger(redis, 30), read_environment({"REDIS_URL": "redis://127.0.0.1:1"})
    receipt = await accept(ledger, change("A", contact=Contact(email="ada@example.com")))
    await ledger.discard(visit_task("A"))

    [visit] = await Explain(ledger, settings).visit("standard-A")

    assert [] == visit["changes"]
    [discarded] = visit["discarded_changes"]
    assert (receipt.delivery_id, {"contact.email": REDACTED}) == (discarded["delivery"], discarded["fields"])
