"""Events of field service, salons and practices that the specimens do not include."""

import base64
import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.ledger.ids import delivery_key
from app.visits.change import UNSET, VisitChange, encode_change
from app.visits.merge import DesiredVisit, RecordedChange, desired_visit, merge_changes
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources
from app.webhooks.source import RECORD_GONE, Ignored
from tests.support.cases import each
from tests.support.source_world import SourceWorld
from tests.support.specimens import BY_TOOL, Specimen

FETCHED_AT = datetime(2026, 3, 14, 18, tzinfo=UTC)


def make_event(source: str, body: Any, **more: Any) -> Event:
    return Event(source, Payload(body), datetime(2026, 3, 14, 17, 59, tzinfo=UTC), **more)


def with_record(event: Event, record: Any, related: Mapping[str, Any] | None = None) -> Event:
    request = load_sources()[event.source].fetch(event)[0]  # type: ignore[misc]
    return event.with_record(record, FETCHED_AT, related, request.path)


def changes(event: Event) -> list[VisitChange]:
    result = load_sources()[event.source].translate(event)
    assert not isinstance(result, Ignored), result
    return result


# -- GoHighLevel --


def appointment_of(contact: Mapping[str, Any]) -> Event:
    appointment = {
        "id": "apt_1",
        "contactId": "con_1",
        "appointmentStatus": "confirmed",
        "startTime": "2026-03-14T09:00:00-06:00",
        "dateUpdated": "2026-03-10T15:20:38.000Z",
    }
    body = {"type": "AppointmentCreate", "timestamp": "2026-03-10T15:20:39.000Z", "appointment": appointment}
    return with_record(make_event("gohighlevel", body), {"contact": {"email": "ada@example.com", **contact}})


def email_status(status: str | None) -> dict[str, Any]:
    return {"dndSettings": {"Email": {"status": status, "message": "unsubscribed", "code": ""}}}


@each(
    ("contact", "is_opted_out"),
    [
        ({"dnd": True}, True),
        ({"dnd": False}, False),
        ({"dnd": False, **email_status("active")}, True),
        ({"dnd": False, **email_status("permanent")}, True),
        ({"dnd": False, **email_status("Permanent")}, True),
        ({"dnd": False, **email_status("inactive")}, False),
        ({"dnd": True, **email_status("inactive")}, True),
        (email_status("active"), True),
        (email_status("inactive"), False),
        ({"dnd": False, "dndSettings": {"Call": {"status": "active"}}}, False),
        ({"dnd": False, "dndSettings": {"SMS": {"status": "permanent"}, "Email": {"status": None}}}, False),
    ],
)
def test_gohighlevel_contact_who_unsubscribed_has_opted_out(contact: Mapping[str, Any], is_opted_out: bool) -> None:
    [change] = changes(appointment_of(contact))

    assert is_opted_out is change.opted_out


def test_gohighlevel_undocumented_email_status_is_untranslatable() -> None:
    with pytest.raises(Untranslatable, match=r"dndSettings\.Email\.status"):
        changes(appointment_of({"dnd": False, **email_status("snoozed")}))


# -- Housecall Pro --

SENT_AT = {"Api-Timestamp": "1773306061"}  # 2026-03-12T09:01:01Z
BOOKED_AT = "2026-03-10T15:20:38Z"


def housecall_job(**more: Any) -> dict[str, Any]:
    schedule = {"scheduled_start": "2026-03-14T15:00:00Z", "scheduled_end": "2026-03-14T17:00:00Z"}
    customer = {"first_name": "Ada", "email": "ada@example.com"}
    return {"id": "job_1", "customer": customer, "work_status": "scheduled", "schedule": schedule, **more}


def from_housecall(kind: str, occurred_at: str | None, headers: Mapping[str, str] = SENT_AT, **record: Any) -> Event:
    occurred = {"event_occurred_at": occurred_at} if occurred_at else {}
    return make_event("housecallpro", {"event": kind, **occurred, **record}, headers=headers)


def merged_visit(*events: Event) -> DesiredVisit:
    return desired_visit(
        merge_changes(
            RecordedChange.decode(str(n), encode_change(c)) for n, event in enumerate(events) for c in changes(event)
        )
    )


def invoice_event(kind: str, minute: int, id: str, paid: int, **more: Any) -> Event:
    """Return an event about an invoice of 245.00."""
    payments = [{"status": "succeeded", "amount": paid}] if paid else []
    amounts = {"amount": 24_500, "due_amount": 24_500 - paid, "payments": payments}
    invoice = {"id": id, "job_id": "job_1", **amounts, **more}
    return from_housecall(f"invoice.{kind}", f"2026-03-14T17:{minute:02d}:00Z", invoice=invoice)


@each(
    "cancels",
    [
        invoice_event("voided", 2, "A", 24_500, status="voided"),
        invoice_event("canceled", 2, "A", 0, due_amount=0),
        invoice_event("updated", 2, "A", 24_500, status="voided"),
        invoice_event("updated", 2, "A", 0),
    ],
)
def test_housecallpro_invoice_on_which_nothing_is_paid_anymore_does_not_count(cancels: Event) -> None:
    paid, paid_again = invoice_event("paid", 1, "A", 24_500), invoice_event("paid", 3, "B", 24_500)

    assert "245.00" == merged_visit(paid, cancels, paid_again).fields["amount_collected"]
    assert merged_visit(paid, cancels).fields["amount_collected"] is None


def test_housecallpro_void_lowers_the_amount_of_a_job_that_was_read_before_it() -> None:
    job = housecall_job(total_amount=24_500, outstanding_balance=0)
    paid = from_housecall("job.paid", "2026-03-14T17:01:00Z", job=job)

    assert merged_visit(paid, invoice_event("voided", 2, "A", 24_500)).fields["amount_collected"] is None


def test_housecallpro_unpaid_invoice_of_an_unknown_job_makes_no_visit() -> None:
    assert merged_visit(invoice_event("updated", 1, "A", 0)).is_empty
    assert merged_visit(invoice_event("voided", 1, "A", 24_500)).is_empty


DISCARDED = from_housecall(
    "job.appointment.appointment_discarded", "2026-03-12T09:01:00Z", appointment={"id": "appt_1", "job_id": "job_1"}
)


def test_housecallpro_discarded_appointment_clears_the_time_of_its_visit() -> None:
    booked = from_housecall("job.created", BOOKED_AT, job=housecall_job())

    assert "2026-03-14T15:00:00Z" == merged_visit(booked).fields["event_date"]
    for arrived in ([booked, DISCARDED], [DISCARDED, booked]):
        assert {"time_scheduled": None, "event_date": None}.items() <= merged_visit(*arrived).fields.items()


def test_housecallpro_completed_job_keeps_its_completion_after_a_discarded_appointment() -> None:
    times = {"completed_at": "2026-03-11T17:00:00Z"}
    done = from_housecall(
        "job.completed",
        "2026-03-11T17:00:02Z",
        job=housecall_job(work_status="complete unrated", work_timestamps=times),
    )

    fields = merged_visit(done, DISCARDED).fields

    assert (None, "2026-03-11T17:00:00Z") == (fields["time_scheduled"], fields["event_date"])


def test_housecallpro_next_event_of_a_job_sets_its_remaining_time() -> None:
    remains = housecall_job(schedule={"scheduled_start": "2026-03-20T15:00:00Z"})
    moved = from_housecall("job.updated", "2026-03-12T09:01:05Z", job=remains)

    assert "2026-03-20T15:00:00Z" == merged_visit(DISCARDED, moved).fields["event_date"]


def test_housecallpro_event_without_a_time_is_ordered_by_its_signed_time() -> None:
    [resign] = changes(from_housecall("job.updated", None, job=housecall_job()))
    [occurred] = changes(from_housecall("job.updated", "2026-03-12T09:00:00Z", job=housecall_job()))

    assert (1773306061_000000, 1773306000_000000) == (resign.version, occurred.version)


@each("headers", [{}, {"Api-Timestamp": "soon"}, {"Api-Timestamp": "\u0661"}])
def test_housecallpro_event_without_any_time_is_untranslatable(headers: Mapping[str, str]) -> None:
    with pytest.raises(Untranslatable, match="event_occurred_at"):
        changes(from_housecall("job.updated", None, headers, job=housecall_job()))


def test_housecallpro_late_retry_without_a_time_does_not_undo_a_cancellation() -> None:
    cancelled = from_housecall("job.canceled", "2026-03-12T09:00:00Z", job=housecall_job(work_status="pro canceled"))
    retried = from_housecall("job.scheduled", None, job=housecall_job())

    assert "2026-03-12T09:00:00Z" == merged_visit(retried, cancelled).fields["date_cancelled"]
    assert merged_visit(retried, cancelled).is_cancelled


# -- Boulevard --

APPOINTMENT, ORDER = "urn:blvd:Appointment:c3253094", "urn:blvd:Order:77777777"
REFUND = "urn:blvd:OrderRefund:88888888"
PAID = {"lineGroups": [{"__typename": "OrderAppointmentLineGroup", "id": "c3253094"}]}


def from_boulevard(event: str, id: str, node: Mapping[str, Any] | None = None) -> Event:
    body = {"event": event, "eventType": event.partition(".")[0], "resource": {"id": id}, "data": {"node": node}}
    return make_event("boulevard", {**body, "timestamp": "2026-03-14T15:02:06Z"})


COMPLETED, PAID_FOR = from_boulevard("appointment.completed", APPOINTMENT), from_boulevard("order.completed", ORDER)


@each(("name", "event"), [("appointment", COMPLETED), ("order", PAID_FOR)])
@each(
    "errors",
    [
        [{"message": "Not authorized", "code": "FORBIDDEN"}],
        [{"message": "Not authorized", "extensions": {"code": "FORBIDDEN"}}],
        [{"message": "Cannot query field"}],
        [None, 7],
    ],
)
def test_boulevard_response_with_errors_is_not_a_deleted_record(name: str, event: Event, errors: list[Any]) -> None:
    for data in ({name: None}, None):
        with pytest.raises(Untranslatable, match=f"Boulevard answered without the {name}"):
            load_sources()["boulevard"].translate(with_record(event, {"data": data, "errors": errors}))


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        ("UNAUTHENTICATED", "waiting", "credentials_rejected"),
        ("FORBIDDEN", "parked", "untranslatable: Boulevard answered without the order: check the token"),
    ],
)
async def test_boulevard_payment_that_the_api_refuses_waits_or_is_parked(
    world: SourceWorld, code: str, state: str, reason: str
) -> None:
    [paid] = [
        specimen
        for specimen in BY_TOOL["boulevard"]
        if specimen.recorded["name"].endswith("the event has no order in it")
    ]
    [path] = paid.recorded["records"]
    refused = {"data": {"order": None}, "errors": [{"message": "ada@example.com", "code": code}]}
    world.configure_source(paid)
    world.api.add_records(replace(paid, recorded={**paid.recorded, "records": {path: refused}}))

    response = await world.receive(paid)
    await world.run()

    event = await world.ledger.load_task(f"event:{response.json()['delivery']}")
    assert (state, reason) == (event.state, event.reason[: len(reason)])


def test_boulevard_record_is_deleted_where_the_api_says_so() -> None:
    not_found = {"data": {"order": None}, "errors": [{"message": "no", "code": "NOT_FOUND"}]}

    for response in (None, {"data": {"order": None}}, not_found):
        assert RECORD_GONE == load_sources()["boulevard"].translate(with_record(PAID_FOR, response))


@each(
    "node",
    [
        {"id": REFUND, "orderId": ORDER},
        {"id": REFUND, "__typename": "OrderRefund", "order": {"id": ORDER}},
        {"id": REFUND, "orderId": ORDER, "lineGroups": [], "summary": {"currentTotal": 5651}},
    ],
)
def test_boulevard_refund_updates_the_amount_of_its_order(node: Mapping[str, Any]) -> None:
    refunded = from_boulevard("order_refund.closed", REFUND, node)
    response = {"data": {"order": {"id": ORDER, "summary": {"currentTotal": 20000}, **PAID}}}

    [change] = changes(with_record(refunded, response))

    assert ORDER == load_sources()["boulevard"].fetch(refunded)[0].variables["id"]  # type: ignore[misc]
    assert ("c3253094", "77777777", Decimal(200)) == (change.visit_id, change.payment_id, change.amount_collected)


@each("node", [None, {"id": REFUND}, {"id": "88888888", "lineGroups": []}])
def test_boulevard_refund_without_an_order_id_is_untranslatable(node: Mapping[str, Any] | None) -> None:
    with pytest.raises(Untranslatable, match="does not name its order"):
        load_sources()["boulevard"].fetch(from_boulevard("order_refund.closed", REFUND, node))  # type: ignore[misc]


def test_boulevard_refund_of_a_missing_order_is_untranslatable() -> None:
    refunded = from_boulevard("order_refund.closed", REFUND, {"id": REFUND, "orderId": ORDER})

    with pytest.raises(Untranslatable, match="no order"):
        changes(with_record(refunded, {"data": {"order": None}}))


@each(
    ("client", "names"),
    [
        ({"name": "Ada Lovelace"}, ("Ada", "Lovelace")),
        ({"name": "Ada King Lovelace"}, ("Ada King", "Lovelace")),
        ({"name": "Ada"}, ("Ada", None)),
        ({"name": "Somebody Else", "firstName": "Ada"}, ("Ada", None)),
        ({}, (None, None)),
    ],
)
def test_boulevard_client_with_one_name_is_split_into_two(
    client: Mapping[str, Any], names: tuple[str | None, ...]
) -> None:
    node = {"id": APPOINTMENT, "startAt": "2026-03-14T10:00:00-04:00", "client": {"email": "ada@example.com", **client}}
    [change] = changes(from_boulevard("appointment.created", APPOINTMENT, node))

    assert change.contact
    assert names == (change.contact.first_name, change.contact.last_name)


# -- Jobber --

CLIENT = {"firstName": "Ada", "lastName": "Lovelace", "emails": [{"address": "ada@example.com", "primary": True}]}
FIRST = "Rmlyc3Q="
BEFORE, AFTER = "2026-03-10T15:00:00Z", "2026-03-17T15:00:00Z"  # the event occurred between the two


def from_jobber(topic: str, item: str = FIRST) -> Event:
    event = {"topic": topic, "itemId": item, "occurredAt": "2026-03-10T15:20:38Z"}
    return make_event("jobber", {"data": {"webHookEvent": event}})


def jobber_visit(id: str, starts: str | None, **more: Any) -> dict[str, Any]:
    return {"id": id, "startAt": starts, "isComplete": False, "allDay": False, **more}


def created(visits: list[dict[str, Any]], page: Mapping[str, Any] | None = None, **first: Any) -> dict[str, Any]:
    job = {"id": "Sm9i", "visits": {"nodes": visits, "pageInfo": page or {"hasPreviousPage": False}}}
    return {"data": {"visit": {**jobber_visit(FIRST, "2026-03-12T15:00:00Z"), "client": CLIENT, **first, "job": job}}}


def test_jobber_first_visit_of_a_recurring_job_includes_all_future_visits() -> None:
    visits = [
        jobber_visit("T2xk", BEFORE),
        jobber_visit("RG9uZQ==", AFTER, isComplete=True),
        jobber_visit("QW55dGltZQ==", None),
        jobber_visit(FIRST, "2026-03-12T15:00:00Z"),
        jobber_visit("TmV4dA==", AFTER),
        jobber_visit("RGF5", "2026-03-24T00:00:00Z", allDay=True, endAt="2026-03-24T23:59:59Z"),
    ]
    record = created(visits, completedAt="2026-03-14T17:00:00Z", isComplete=True)

    results = changes(with_record(from_jobber("VISIT_CREATE"), record))

    assert [
        ("Rmlyc3Q", "2026-03-12T15:00:00Z", "2026-03-14T17:00:00Z"),
        ("TmV4dA", AFTER, None),
        ("RGF5", "2026-03-24T23:59:59Z", None),
    ] == [(change.visit_id, change.facts()["time_scheduled"], change.facts()["time_completed"]) for change in results]
    assert {"ada@example.com"} == {change.contact.email for change in results if change.contact}
    assert ["create"] * 3 == [change.action for change in results]


def test_jobber_other_events_change_one_visit() -> None:
    results = changes(with_record(from_jobber("VISIT_UPDATE"), created([jobber_visit("TmV4dA==", AFTER)])))

    assert ["Rmlyc3Q"] == [change.visit_id for change in results]


def test_jobber_long_series_is_fetched_in_two_pages() -> None:
    [get] = load_sources()["jobber"].fetch(from_jobber("VISIT_CREATE"))  # type: ignore[misc]
    page = {"hasPreviousPage": True, "startCursor": "MTAw"}
    record = created([jobber_visit("TmV4dA==", AFTER)], page)
    earlier = {
        "data": {"job": {"visits": {"nodes": [jobber_visit("RWFybHk=", "2026-03-13T15:00:00Z")], "pageInfo": page}}}
    }

    follow_ups = get.follow_up(Payload(record))
    results = changes(with_record(from_jobber("VISIT_CREATE"), record, {"earlier": earlier}))

    assert {"earlier": {"id": "Sm9i", "before": "MTAw"}} == {
        name: request.variables for name, request in follow_ups.items()
    }
    assert {} == follow_ups["earlier"].follow_up(Payload(earlier))
    assert {"Rmlyc3Q", "TmV4dA", "RWFybHk"} == {change.visit_id for change in results}


async def test_jobber_two_hundred_visits_of_a_series_are_recorded_together(world: SourceWorld) -> None:
    [booked] = [specimen for specimen in BY_TOOL["jobber"] if specimen.recorded["name"].startswith("a recurring job")]
    records = copy.deepcopy(booked.recorded["records"])
    numbers = iter(range(200))
    for path, record in records.items():
        job = record["data"]["job"] if path.startswith("job/") else record["data"]["visit"]["job"]
        ids = [base64.b64encode(f"gid://Jobber/Visit/{next(numbers)}".encode()).decode() for _ in range(100)]
        job["visits"]["nodes"] = [jobber_visit(id, AFTER) for id in ids]
    booked = replace(booked, recorded={**booked.recorded, "records": records})
    world.configure_source(booked)
    world.api.add_records(booked)

    event = f"event:{(await world.receive(booked)).json()['delivery']}"
    await world.run_task(event)

    assert 201 == len(set((await world.ledger.load_task(event)).targets))


@each(
    ("visits", "page"),
    [
        ([jobber_visit("TmV4dA==", AFTER)], {"hasPreviousPage": False, "startCursor": "MTAw"}),
        (
            [jobber_visit("T2xk", BEFORE), jobber_visit("TmV4dA==", AFTER)],
            {"hasPreviousPage": True, "startCursor": "MTAw"},
        ),
        ([], {"hasPreviousPage": True, "startCursor": None}),
    ],
)
def test_jobber_past_visits_are_not_fetched(visits: list[dict[str, Any]], page: Mapping[str, Any]) -> None:
    [get] = load_sources()["jobber"].fetch(from_jobber("VISIT_CREATE"))  # type: ignore[misc]

    assert {} == get.follow_up(Payload(created(visits, page)))


def test_jobber_page_with_errors_is_untranslatable() -> None:
    event = with_record(from_jobber("VISIT_CREATE"), created([]), {"earlier": {"errors": [{"message": "no"}]}})

    with pytest.raises(Untranslatable, match="Jobber answered without the job"):
        changes(event)


def billed(*ids: str, paid: float) -> dict[str, Any]:
    invoice = {"amounts": {"paymentsTotal": paid}}
    return {"visits": {"nodes": [{**jobber_visit(id, AFTER), "client": CLIENT, "invoice": invoice} for id in ids]}}


def test_jobber_invoice_for_several_visits_sets_no_amount() -> None:
    paid = with_record(from_jobber("INVOICE_UPDATE", "SW52"), {"data": {"invoice": billed("QQ==", "Qg==", paid=150.0)}})
    invoice = {"amounts": {"paymentsTotal": 150.0}, "visits": {"nodes": [{"id": "QQ=="}, {"id": "Qg=="}]}}
    visit = {"data": {"visit": {**jobber_visit("QQ==", AFTER), "client": CLIENT, "invoice": invoice}}}
    updated = with_record(from_jobber("VISIT_UPDATE", "QQ=="), visit)

    assert [None, None, None] == [change.amount_collected for event in (paid, updated) for change in changes(event)]


def test_jobber_two_invoices_of_a_payment_are_counted_separately() -> None:
    record = {
        "invoice": billed("QQ==", paid=50.0),
        "allocations": {"nodes": [{"invoice": billed("Qg==", "Qw==", paid=70.0)}]},
    }
    event = with_record(from_jobber("PAYMENT_CREATE", "UGF5"), {"data": {"paymentRecord": record}})

    assert {"QQ": Decimal(50), "Qg": None, "Qw": None} == {
        change.visit_id: change.amount_collected for change in changes(event)
    }


@each(("receives", "is_opted_out"), [(False, True), (True, False), (None, UNSET)])
def test_jobber_client_who_receives_no_review_requests_has_opted_out(
    receives: bool | None, is_opted_out: object
) -> None:
    client = {**CLIENT, "receivesReviewRequests": receives}
    [change] = changes(with_record(from_jobber("VISIT_UPDATE"), created([], client=client)))

    assert is_opted_out is change.opted_out


# -- Stripe --

OLDER, BASIL = "2024-06-20", "2025-03-31.basil"
INVOICE = "in_1SVWoDDwzgQ85STg31e2DgXy"


def from_stripe(kind: str, version: str | None, paid: Mapping[str, Any], created: int = 1773510000) -> Event:
    data = {"currency": "usd", "metadata": {"visit_external_id": "acuity-1"}, **paid}
    return make_event("stripe", {"type": kind, "created": created, "api_version": version, "data": {"object": data}})


def stripe_charge(captured: int, refunded: int) -> dict[str, Any]:
    amounts = {"amount": 20675, "amount_captured": captured, "amount_refunded": refunded}
    return {"id": "ch_1", "payment_intent": "pi_1", "captured": True, "status": "succeeded", **amounts}


@each(
    ("version", "refunded", "collected"),
    [
        (OLDER, 375, "203.00"),  # released, not refunded
        (OLDER, 0, "203.00"),
        (OLDER, 1375, "193.00"),
        (OLDER, 20675, None),
        (BASIL, 375, "199.25"),
        ("2025-11-17.clover", 0, "203.00"),
        (None, 375, "199.25"),
    ],
)
def test_stripe_uncaptured_amount_is_not_a_refund(version: str | None, refunded: int, collected: str | None) -> None:
    received = {"id": "pi_1", "amount": 20675, "amount_received": 20300}
    events = [
        from_stripe("payment_intent.succeeded", version, received),
        from_stripe("charge.captured", version, stripe_charge(20300, refunded)),
        from_stripe("charge.refunded", version, stripe_charge(20300, refunded), 1773510001),
    ]

    assert collected == merged_visit(*events).fields["amount_collected"]
    assert collected == merged_visit(*reversed(events)).fields["amount_collected"]


def test_stripe_charge_before_2020_has_no_captured_amount() -> None:
    charge = stripe_charge(0, 375)
    del charge["amount_captured"]

    assert "203.00" == merged_visit(from_stripe("charge.refunded", OLDER, charge)).fields["amount_collected"]


@each("reference", [INVOICE, INVOICE[:25]])
def test_stripe_invoice_and_its_payment_count_once_even_with_a_short_reference(reference: str) -> None:
    invoice = from_stripe("invoice.paid", "2025-11-17.clover", {"id": INVOICE, "amount_paid": 5000})
    intent = {"id": "pi_2", "amount_received": 5000, "payment_details": {"order_reference": reference}}
    payment = from_stripe("payment_intent.succeeded", "2025-11-17.clover", intent)

    for arrived in ([invoice, payment], [payment, invoice]):
        assert "50.00" == merged_visit(*arrived).fields["amount_collected"]


def test_stripe_two_invoices_of_one_visit_are_added() -> None:
    invoices = [
        from_stripe("invoice.paid", BASIL, {"id": id, "amount_paid": 5000})
        for id in (INVOICE, "in_1SVWoDDwzgQ85STg31e2ZZXy")
    ]

    assert "100.00" == merged_visit(*invoices).fields["amount_collected"]


# -- NexHealth --


def from_nexhealth(envelope: Mapping[str, Any], headers: Mapping[str, str] | None = None, **more: Any) -> Event:
    appointment = {"id": 7, "patient_id": 5001, "start_time": "2026-03-14T15:00:00Z", **more}
    defaults = {"event_name": "appointment_updated", "event_time": "2026-03-10T15:20:38Z", "institution_id": 11}
    return make_event(
        "nexhealth", {**defaults, **envelope, "data": {"appointment": appointment}}, headers=headers or {}
    )


NAMED, IN_ADDRESS = {"subdomain": "example-dental"}, {"?subdomain": "example-dental"}


@each(
    ("envelope", "headers"),
    [(NAMED, {}), ({}, IN_ADDRESS), (NAMED, {"?subdomain": "another"}), ({"subdomain": None}, IN_ADDRESS)],
)
def test_nexhealth_practice_comes_from_the_event_or_the_hook_url(
    envelope: Mapping[str, Any], headers: Mapping[str, str]
) -> None:
    [get] = load_sources()["nexhealth"].fetch(from_nexhealth(envelope, headers))  # type: ignore[misc]

    assert ("patients/5001", "example-dental") == (get.path, get.params["subdomain"])


@each("headers", [{}, {"?subdomain": ""}, {"?subdomain": "a/b"}, {"?subdomain": "a&x=1"}])
def test_nexhealth_event_without_a_practice_is_untranslatable(headers: Mapping[str, str]) -> None:
    event = from_nexhealth({}, headers)

    with pytest.raises(Untranslatable, match="subdomain"):
        load_sources()["nexhealth"].fetch(event)  # type: ignore[misc]


def test_nexhealth_test_event_is_ignored() -> None:
    tool, event = load_sources()["nexhealth"], from_nexhealth({"test": True}, patient={"email": "example@example.com"})

    assert [] == tool.fetch(event)  # type: ignore[misc]
    assert Ignored("a test event") == tool.translate(event)
    assert tool.definition.tenant_of
    assert None is tool.definition.tenant_of(event)


def test_nexhealth_event_with_its_patient_needs_no_practice() -> None:
    [change] = changes(from_nexhealth({}, patient={"email": "ada@example.com", "cell_phone_number": "5550100002"}))
    [cancelled] = changes(from_nexhealth({}, cancelled=True))

    assert change.contact
    assert ("ada@example.com", "5550100002") == (change.contact.email, change.contact.phone)
    assert "cancel" == cancelled.action


@each(
    ("patient", "phone"),
    [
        ({"bio": {"cell_phone_number": "1", "phone_number": "2"}}, "1"),
        ({"bio": {"cell_phone_number": "", "phone_number": "2"}}, "2"),
        ({"cell_phone_number": "3", "preferred_phone_number": "4", "bio": {"phone_number": "2"}}, "3"),
        ({"cell_phone_number": None, "preferred_phone_number": "4", "bio": {}}, "4"),
        ({"phone_number": "5"}, "5"),
        ({"bio": {}}, None),
    ],
)
def test_nexhealth_phone_is_found_in_every_version(patient: Mapping[str, Any], phone: str | None) -> None:
    record = {"data": {"id": 5001, "email": "ada@example.com", **patient}}
    [change] = changes(with_record(from_nexhealth(NAMED), record))

    assert change.contact
    assert phone == change.contact.phone


def resign(specimen: Specimen, body: Mapping[str, Any], query: str = "") -> Specimen:
    """Return the specimen with another body and query, and a valid signature."""
    delivery = specimen.changed(body=json.dumps(body).encode(), query=query.encode())
    signature = specimen.scheme.sign(delivery, specimen.sender_context())
    lines = tuple((name.lower().encode(), value.encode()) for name, value in signature.items())
    return replace(specimen, delivery=replace(delivery, headers=lines))


async def test_nexhealth_event_without_a_practice_is_parked_and_not_ignored(world: SourceWorld) -> None:
    specimen = BY_TOOL["nexhealth"][0]
    world.configure_source(specimen, HOOKS__NEXHEALTH__TENANTS="example-dental")
    world.api.add_records(specimen)
    body = {name: value for name, value in specimen.recorded["body"].items() if name != "subdomain"}

    response = await world.receive(resign(specimen, body))
    await world.receive(
        resign(specimen, {**body, "event_time": "2026-03-10T15:20:39.000Z"}, "subdomain=example-dental")
    )
    await world.run()

    event = await world.ledger.load_task(f"event:{response.json()['delivery']}")
    assert ("parked", True) == (event.state, "?subdomain=" in event.reason)
    assert ["nexhealth-11-700001"] == [visit["external_id"] for visit in world.harness.visits()]
    assert {"v20240412"} == {headers["nex-api-version"] for headers in world.api.request_headers}


# -- Tekmetric --


@pytest.mark.parametrize(
    ("sentence", "name"),
    [
        ("Repair Order #1042 created by grace@example.com", "repair_order.created"),
        ("Repair Order #1042 status updated to Work-In-Progress by Grace Hopper", "repair_order.status_updated"),
        ("Repair Order #1042 posted by Grace Hopper", "repair_order.posted"),
        ("Repair Order #1042 unposted by Grace Hopper", "repair_order.unposted"),
        ("Repair Order #1042 sent to A/R by Grace Hopper", "repair_order.sent_to_a_r"),
        ("Grace Hopper approved 1 job(s) and declined 0 job(s) for Repair Order #1042", "repair_order.approved"),
        ("Inspection for Repair Order #1042 marked complete by Grace Hopper", "inspection.marked_complete"),
        ("Payment made by Grace Hopper", "payment.made"),
        ("Payment voided for Grace Hopper", "payment.voided"),
        ("Refund issued to Grace Hopper", "refund.issued"),
        ("Grace Hopper", "something_else"),
    ],
)
async def test_tekmetric_event_name_contains_no_person(world: SourceWorld, sentence: str, name: str) -> None:
    specimen = BY_TOOL["tekmetric"][0]
    world.configure_source(specimen)
    body = {"event": sentence, "data": {"shopId": 77}}

    response = await world.receive(specimen, raw=json.dumps(body).encode())

    id = response.json()["delivery"]
    meta, _ = await world.ledger.load_delivery(id)
    header_line = (await world.redis.command("GET", delivery_key(id))).partition(b"\n")[0].lower()
    assert name == meta.event_name
    assert (False, False) == (b"hopper" in header_line, b"grace" in header_line)


@pytest.mark.parametrize("body", [{}, {"event": None, "data": {"id": 1}}, {"event": ["Grace"]}])
async def test_tekmetric_event_without_a_sentence_has_no_name(world: SourceWorld, body: Mapping[str, Any]) -> None:
    specimen = BY_TOOL["tekmetric"][0]
    world.configure_source(specimen, HOOKS__TEKMETRIC__TENANTS="")

    response = await world.receive(specimen, raw=json.dumps(body).encode())

    meta, _ = await world.ledger.load_delivery(response.json()["delivery"])
    assert (202, "") == (response.status_code, meta.event_name)


# -- ServiceM8 --

JOB = "de305d54-75b4-431b-adb2-eb6b9e546013"


def from_servicem8(status: str, completion_date: str, changed_at: str, fetched_at: datetime) -> Event:
    body = {"object": "job", "entry": [{"uuid": JOB, "changed_fields": ["status"], "time": changed_at}]}
    event = make_event("servicem8", body, zone=ZoneInfo("Australia/Sydney"))
    job = {"uuid": JOB, "active": 1, "status": status, "completion_date": completion_date}
    related: dict[str, Any] = {"jobcontact": [], "jobactivity": [], "jobpayment": []}
    return replace(with_record(event, job, related), fetched_at=fetched_at)


def test_servicem8_completion_without_a_date_has_the_time_of_its_first_observation() -> None:
    never = "0000-00-00 00:00:00"
    booked = from_servicem8("Work Order", never, "2026-03-14T06:00:00Z", datetime(2026, 3, 14, 6, 1, tzinfo=UTC))
    done = from_servicem8("Completed", never, "2026-03-14T06:32:05Z", datetime(2026, 3, 14, 6, 33, tzinfo=UTC))
    paid = from_servicem8("Completed", never, "2026-03-16T06:00:00Z", datetime(2026, 3, 16, 6, 1, tzinfo=UTC))
    dated = from_servicem8(
        "Completed", "2026-03-14 17:31:00", "2026-03-17T06:00:00Z", datetime(2026, 3, 17, tzinfo=UTC)
    )

    assert "2026-03-14T06:32:05Z" == merged_visit(paid, booked, done).fields["event_date"]
    assert "2026-03-14T06:31:00Z" == merged_visit(dated, paid, booked, done).fields["event_date"]
    assert merged_visit(booked).fields["event_date"] is None


def test_servicem8_job_without_a_start_has_no_date() -> None:
    """The first day on which somebody may begin a job (`joballocation`) is not the time of a visit."""
    event = from_servicem8("Work Order", "", "2026-03-14T06:00:00Z", datetime(2026, 3, 14, 6, 1, tzinfo=UTC))
    [get] = load_sources()["servicem8"].fetch(event)  # type: ignore[misc]

    assert {"jobcontact", "jobactivity", "jobpayment"} == get.follow_up(Payload({"uuid": JOB})).keys()
    assert not merged_visit(event).has_date
