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

# -- what tools send --


#: Genuine, and nothing to do with visits: the event's name, and the body.
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


# -- 200: nothing to do, or not again --


@pytest.mark.parametrize("source", SOURCES)
async def test_an_event_of_no_visit_is_ignored_by_its_name(web: WebProcess, redis: Redis, source: str) -> None:
    name, raw = OTHER_EVENTS[source]

    answer = web.send(source, raw)

    assert 200 == answer.status_code, answer.text
    assert {"delivery": answer.json()["delivery"], "ignored": name} == answer.json()
    assert 0 == await redis.command("EXISTS", *QUEUE_KEYS, "bell:parked", "bell:queued")


async def test_a_customer_who_opted_out_gets_no_visit(web: WebProcess, redis: Redis) -> None:
    event = json.loads(new_event_body("housecallpro"))
    event["job"]["customer"]["notifications_enabled"] = False

    answer = web.send("housecallpro", json.dumps(event).encode())

    assert (200, "opted_out") == (answer.status_code, answer.json()["ignored"])


async def test_an_ignored_event_of_a_long_name_is_answered_in_short(web: WebProcess, redis: Redis) -> None:
    answer = web.send("standard", standard_body("x" * 100_000, "A"))

    assert 200 == answer.status_code
    assert len(answer.content) < 1_000


@pytest.mark.parametrize("source", SOURCES)
async def test_the_same_delivery_again_is_a_repeat_with_the_first_id(
    web: WebProcess, redis: Redis, source: str
) -> None:
    raw = new_event_body(source)
    headers = SIGN[source](raw)
    first = web.post(raw, headers, source)
    before = await stored_keys(redis)

    again = web.post(raw, headers, source)

    assert 200 == again.status_code
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()
    assert before == await stored_keys(redis)


@pytest.mark.parametrize("source", ["standard", "square"])
async def test_the_tools_own_id_names_an_event_whatever_else_changed(
    web: WebProcess, redis: Redis, source: str
) -> None:
    event, other = json.loads(new_event_body(source)), json.loads(new_event_body(source))
    id = {"id": "msg_1"} if source == "standard" else {}
    other["event_id"] = event.get("event_id")
    one, two = json.dumps(event).encode(), json.dumps(other).encode()

    first = web.post(one, sign_standard(one, at=time.time() - 60, **id) if id else SIGN[source](one), source)
    again = web.post(two, sign_standard(two, **id) if id else SIGN[source](two), source)

    assert (202, 200) == (first.status_code, again.status_code)
    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()


@pytest.mark.parametrize("source", ["calendly", "housecallpro"])
async def test_a_repeat_that_was_signed_anew_is_a_repeat(web: WebProcess, redis: Redis, source: str) -> None:
    raw = new_event_body(source)
    sign: Any = {"calendly": sign_calendly, "housecallpro": sign_housecallpro}[source]

    first = web.post(raw, sign(raw, at=time.time() - 100), source)
    again = web.post(raw, sign(raw), source)

    assert (202, 200) == (first.status_code, again.status_code)
    assert first.json()["delivery"] == again.json()["delivery"]


async def test_two_events_with_the_same_body_are_two(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")

    answers = [web.post(raw, sign_standard(raw, id=id)) for id in ("msg_1", "msg_2")]

    assert [202, 202] == [answer.status_code for answer in answers]
    assert 2 == len({answer.json()["delivery"] for answer in answers})


async def test_an_unsigned_header_does_not_make_another_event_of_a_repeat(web: WebProcess, redis: Redis) -> None:
    # Whoever recorded one delivery may add headers to it; what the signature does not cover must not count.
    raw = new_event_body("standard")
    headers = sign_standard(raw)
    web.post(raw, headers)

    again = web.post(raw, headers | {"svix-id": "msg_other"})

    assert again.status_code in (200, 401)
    assert 1 == await redis.command("ZCARD", "bell:deliveries:standard")


async def test_the_svix_names_of_the_headers_mean_the_same(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    headers = {name.replace("webhook-", "svix-"): value for name, value in sign_standard(raw).items()}

    first, again = web.post(raw, headers), web.post(raw, headers)

    assert (202, 200) == (first.status_code, again.status_code)


@pytest.mark.parametrize("source", ["standard", "calendly"])
async def test_of_fifty_at_once_exactly_one_is_the_first(web: WebProcess, redis: Redis, source: str) -> None:
    raw = new_event_body(source)
    headers = SIGN[source](raw)

    async with httpx.AsyncClient(base_url=web.server.url, timeout=20) as client:
        answers = await asyncio.gather(
            *(client.post(f"/hooks/{source}", content=raw, headers=headers) for _ in range(50))
        )

    assert [200] * 49 + [202] == sorted(answer.status_code for answer in answers)
    assert 1 == len({answer.json()["delivery"] for answer in answers})
    assert 49 == sum(answer.json().get("repeat") is True for answer in answers)
    assert (1, 1) == (await redis.command("ZCARD", "bell:queue:visits"), await redis.command("ZCARD", "bell:queued"))


async def test_a_repeat_of_what_failed_puts_it_back_to_work(web: WebProcess, redis: Redis) -> None:
    raw, headers = b"[]", sign_standard(b"[]")
    first = web.post(raw, headers)

    again = web.post(raw, headers)

    assert (202, 200) == (first.status_code, again.status_code)
    assert [f"event:{first.json()['delivery']}".encode()] == await redis.command("ZRANGE", "bell:queued", 0, -1)
    assert 0 == await redis.command("ZCARD", "bell:parked")


@pytest.mark.parametrize("raw", [b'{"foo":"bar"}', b'{ "foo": "bar" }\n'], ids=repr)
async def test_housecall_pro_tries_the_address_unsigned_and_nothing_comes_of_it(
    web: WebProcess, redis: Redis, raw: bytes
) -> None:
    answer = web.post(raw, {"content-type": "application/json"}, "housecallpro")

    assert 200 == answer.status_code
    assert set() == await stored_keys(redis)
