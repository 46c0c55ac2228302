"""202: a delivery is stored before the response, even if an operator has to decide."""

import pytest

from app.ledger.ids import delivery_key
from app.ledger.redis import Redis
from tests.support.harness import (
    SECRET,
    sign_standard,
)
from tests.support.intake import OLD_SECRET, QUEUE_KEYS, SOURCES, WebProcess, new_event_body

# -- events that become changes --


@pytest.mark.parametrize("source", SOURCES)
async def test_an_event_is_stored_with_its_job_before_the_202(web: WebProcess, redis: Redis, source: str) -> None:
    raw = new_event_body(source)

    response = web.send(source, raw)

    assert (202, "application/json") == (response.status_code, response.headers["content-type"])
    assert {"delivery", "changes"} == set(response.json())
    assert 1 == response.json()["changes"]
    assert await redis.command("EXISTS", delivery_key(response.json()["delivery"]))
    assert 1 == sum([await redis.command("ZCARD", queue) for queue in QUEUE_KEYS])


async def test_a_hook_with_another_name_accepts_the_events_of_its_source(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")

    assert 202 == web.post(raw, sign_standard(raw), "shop").status_code


async def test_the_query_of_a_hook_is_ignored(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")

    assert 202 == web.post(raw, sign_standard(raw), "standard?a=b&c").status_code


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET], ids=["newest", "oldest"])
async def test_both_secrets_are_accepted_during_a_rotation(web: WebProcess, redis: Redis, secret: str) -> None:
    raw = new_event_body("standard")

    assert 202 == web.post(raw, sign_standard(raw, secret=secret)).status_code


# -- events that are parked --

WRONG_SHAPES = [
    b"[]",
    b'"x"',
    b"null",
    b"1",
    b"1.5",
    b"true",
    b"{}",
    b'{"type":{"a":[]}}',
    b'{"type":null}',
    b'{"type":"visit.created"}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z"}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":[]}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":null}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05","data":{"visit_id":"A"}}',  # no offset, no TIMEZONE
    b'{"type":"visit.created","timestamp":"0001-01-01T00:00:00+23:59","data":{"visit_id":"A"}}',
    b'{"type":"visit.created","timestamp":123456789012345678901234567890,"data":{"visit_id":"A"}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":1e300}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A","amount_collected":"1e999999"}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A","amount_collected":"NaN"}}',
    b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A","contact":{"email":[1]}}}',
    b"[" * 900 + b"]" * 900,
]


@pytest.mark.parametrize("raw", WRONG_SHAPES, ids=lambda raw: raw[:90].decode())
async def test_an_untranslatable_event_is_stored_and_parked(web: WebProcess, redis: Redis, raw: bytes) -> None:
    response = web.send("standard", raw)

    assert 202 == response.status_code, response.text
    assert {"delivery": response.json()["delivery"], "changes": 0} == response.json()
    assert [f"event:{response.json()['delivery']}".encode()] == await redis.command(
        "ZRANGE", "bell:state:parked", 0, -1
    )
    assert await redis.command("EXISTS", delivery_key(response.json()["delivery"]))


@pytest.mark.parametrize(
    ("source", "raw"),
    [
        ("calendly", b"[]"),
        ("calendly", b'{"event":"invitee.created","payload":{}}'),
        ("calendly", b'{"event":"invitee.created","created_at":"2026-01-01T00:00:00Z","payload":[]}'),
        ("housecallpro", b'{"event":"job.created"}'),
        ("housecallpro", b'{"event":"job.created","event_occurred_at":"x","job":7}'),
        ("square", b'{"type":"booking.created","event_id":"e","data":7}'),
        ("square", b'{"type":"booking.created","event_id":["e"],"data":{"object":{"booking":{"status":"NEW"}}}}'),
        ("square", b"[]"),
        ("acuity", b"action=scheduled"),
        ("acuity", b"action=scheduled&id=../../orders/1"),
        ("acuity", b"what=ever"),
        ("jobber", b'{"data":{}}'),
        ("jobber", b'{"data":[1]}'),
        ("jobber", b'{"data":{"webHookEvent":{"topic":"VISIT_CREATE","itemId":"../x y"}}}'),
    ],
    ids=lambda value: value[:80].decode() if isinstance(value, bytes) else value,
)
async def test_an_untranslatable_event_of_any_tool_is_parked(
    web: WebProcess, redis: Redis, source: str, raw: bytes
) -> None:
    response = web.send(source, raw)

    assert (202, 0) == (response.status_code, response.json().get("changes")), response.text
    assert 1 == await redis.command("ZCARD", "bell:state:parked")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"visit.created","type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A"},"data":{"visit_id":"B"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":18446744073709551615}}',
        b'{"type":"visit.created","timestamp":"9999-12-31T23:59:59Z","data":{"visit_id":"A"}}',
        b'{"type":"visit.created","timestamp":"0001-01-01T00:00:00Z","data":{"visit_id":"A"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"\\u0000/../\\ud83d\\ude00 \\" }"}}',
        b'{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"' + b"a" * 100_000 + b'"}}',
        b' \n{"type":"visit.created","timestamp":"2026-03-14T17:32:05Z","data":{"visit_id":"A"}}\n ',
    ],
    ids=["a key twice", "data twice", "2**64-1", "year 9999", "year 1", "odd id", "long id", "white space"],
)
async def test_an_unusual_but_valid_event_is_queued(web: WebProcess, redis: Redis, raw: bytes) -> None:
    response = web.send("standard", raw)

    assert (202, 1) == (response.status_code, response.json().get("changes")), response.text
    assert 1 == await redis.command("ZCARD", "bell:state:queued")
