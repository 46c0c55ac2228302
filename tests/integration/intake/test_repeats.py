"""200: ignored events and repeats."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from app.ledger.redis import Redis
from tests.support.harness import (
    sign_calendly,
    sign_standard,
    standard_body,
)
from tests.support.intake import QUEUE_KEYS, SIGN, SOURCES, WebProcess, new_event_body, sign_housecallpro, stored_keys

#: Signed events that are irrelevant to visits: name and body.
OTHER_EVENTS: dict[str, tuple[str, bytes]] = {
    "standard": ("invoice.paid", standard_body("invoice.paid", "A-1")),
    "calendly": (
        "routing_form_submission.created",
        b'{"event":"routing_form_submission.created","created_at":"2026-09-21T14:13:20Z","payload":{}}',
    ),
    "housecallpro": ("estimate.created", b'{"event":"estimate.created","event_occurred_at":"2026-09-21T14:13:20Z"}'),
    "acuity": ("order.completed", b"action=order.completed&id=12345"),
    "square": ("payment.created", b'{"type":"payment.created","event_id":"e-1","data":{}}'),
    "jobber": ("CLIENT_CREATE", b'{"data":{"webHookEvent":{"topic":"CLIENT_CREATE","itemId":"QQ=="}}}'),
}


@pytest.mark.parametrize("source", SOURCES)
async def test_an_event_irrelevant_to_visits_is_ignored_with_its_name(
    web: WebProcess, redis: Redis, source: str
) -> None:
    name, raw = OTHER_EVENTS[source]

    response = web.send(source, raw)

    assert 200 == response.status_code, response.text
    assert {"delivery": response.json()["delivery"], "ignored": name} == response.json()
    for key in (*QUEUE_KEYS, "bell:state:parked", "bell:state:queued"):
        assert not await redis.command("EXISTS", key)


async def test_an_event_of_a_customer_who_opted_out_is_ignored(web: WebProcess, redis: Redis) -> None:
    event = json.loads(new_event_body("housecallpro"))
    event["job"]["customer"]["notifications_enabled"] = False

    response = web.send("housecallpro", json.dumps(event).encode())

    assert (200, "opted_out") == (response.status_code, response.json()["ignored"])


async def test_a_long_event_name_is_shortened_in_the_response(web: WebProcess, redis: Redis) -> None:
    response = web.send("standard", standard_body("x" * 100_000, "A"))

    assert 200 == response.status_code
    assert len(response.content) < 1_000


@pytest.mark.parametrize("source", SOURCES)
async def test_a_repeat_is_answered_200_with_the_first_id(web: WebProcess, redis: Redis, source: str) -> None:
    raw = new_event_body(source)
    headers = SIGN[source](raw)
    first = web.post(raw, headers, source)
    before = await stored_keys(redis)

    again = web.post(raw, headers, source)

    assert 200 == again.status_code
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()
    assert before == await stored_keys(redis)


@pytest.mark.parametrize("source", ["standard", "square"])
async def test_an_event_with_the_same_id_and_another_body_is_a_repeat(
    web: WebProcess, redis: Redis, source: str
) -> None:
    first_event, second_event = json.loads(new_event_body(source)), json.loads(new_event_body(source))
    id = {"id": "msg_1"} if source == "standard" else {}
    second_event["event_id"] = first_event.get("event_id")
    first_raw, second_raw = json.dumps(first_event).encode(), json.dumps(second_event).encode()

    first = web.post(
        first_raw, sign_standard(first_raw, at=time.time() - 60, **id) if id else SIGN[source](first_raw), source
    )
    again = web.post(second_raw, sign_standard(second_raw, **id) if id else SIGN[source](second_raw), source)

    assert (202, 200) == (first.status_code, again.status_code)
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()


@pytest.mark.parametrize("source", ["calendly", "housecallpro"])
async def test_a_repeat_with_a_new_signature_is_a_repeat(web: WebProcess, redis: Redis, source: str) -> None:
    raw = new_event_body(source)
    sign: Any = {"calendly": sign_calendly, "housecallpro": sign_housecallpro}[source]

    first = web.post(raw, sign(raw, at=time.time() - 100), source)
    again = web.post(raw, sign(raw), source)

    assert (202, 200) == (first.status_code, again.status_code)
    assert first.json()["delivery"] == again.json()["delivery"]


async def test_two_events_with_the_same_body_are_both_accepted(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")

    responses = [web.post(raw, sign_standard(raw, id=id)) for id in ("msg_1", "msg_2")]

    assert [202, 202] == [response.status_code for response in responses]
    assert 2 == len({response.json()["delivery"] for response in responses})


async def test_an_unsigned_header_does_not_hide_a_repeat(web: WebProcess, redis: Redis) -> None:
    # An attacker may add headers to a recorded delivery. Headers that the signature does not cover must have no effect.
    raw = new_event_body("standard")
    headers = sign_standard(raw)
    web.post(raw, headers)

    again = web.post(raw, headers | {"svix-id": "msg_other"})

    assert again.status_code in (200, 401)
    assert 1 == await redis.command("ZCARD", "bell:deliveries:standard")


async def test_the_svix_header_names_are_equivalent(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    headers = {name.replace("webhook-", "svix-"): value for name, value in sign_standard(raw).items()}

    first, again = web.post(raw, headers), web.post(raw, headers)

    assert (202, 200) == (first.status_code, again.status_code)


@pytest.mark.parametrize("source", ["standard", "calendly"])
async def test_one_of_fifty_concurrent_repeats_is_the_first(web: WebProcess, redis: Redis, source: str) -> None:
    raw = new_event_body(source)
    headers = SIGN[source](raw)

    async with httpx.AsyncClient(base_url=web.server.url, timeout=20) as client:
        responses = await asyncio.gather(
            *(client.post(f"/hooks/{source}", content=raw, headers=headers) for _ in range(50))
        )

    assert [200] * 49 + [202] == sorted(response.status_code for response in responses)
    assert 1 == len({response.json()["delivery"] for response in responses})
    assert 49 == sum(response.json().get("repeat") is True for response in responses)
    assert (1, 1) == (
        await redis.command("ZCARD", "bell:queue:visits"),
        await redis.command("ZCARD", "bell:state:queued"),
    )


async def test_a_repeat_of_a_parked_event_requeues_it(web: WebProcess, redis: Redis) -> None:
    raw, headers = b"[]", sign_standard(b"[]")
    first = web.post(raw, headers)

    again = web.post(raw, headers)

    assert (202, 200) == (first.status_code, again.status_code)
    assert [f"event:{first.json()['delivery']}".encode()] == await redis.command("ZRANGE", "bell:state:queued", 0, -1)
    assert 0 == await redis.command("ZCARD", "bell:state:parked")


@pytest.mark.parametrize("raw", [b'{"foo":"bar"}', b'{ "foo": "bar" }\n'], ids=repr)
async def test_the_unsigned_test_request_of_housecall_pro_is_answered_200(
    web: WebProcess, redis: Redis, raw: bytes
) -> None:
    response = web.post(raw, {"content-type": "application/json"}, "housecallpro")

    assert 200 == response.status_code
    assert set() == await stored_keys(redis)
