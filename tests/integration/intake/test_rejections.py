"""Rejections: 400, 401, 404, 405 and 415."""

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.ledger.redis import Redis
from tests.support.cases import each
from tests.support.harness import (
    sign_calendly,
    sign_standard,
)
from tests.support.intake import (
    KEYS,
    OLD_SECRET,
    PUBLIC_URL,
    SIGN,
    SOURCES,
    WebProcess,
    is_error_response,
    new_event_body,
    request,
    sha256_mac,
    sign_housecallpro,
    signed_headers,
    stored_keys,
)

# -- 400 --


UNREADABLE = {
    "nothing": b"",
    "white space": b"  ",
    "not UTF-8": b'{"type":"\xff"}',
    "UTF-16": '{"type":"visit.created"}'.encode("utf-16"),
    "NaN": b'{"type":NaN}',
    "Infinity": b'{"type":-Infinity}',
    "1e400": b'{"type":1e400}',
    "10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "100,000 deep, objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "cut short": b'{"type":"visit.created"',
    "trailing data": b"{} {}",
    "single quotes": b"{'type':'visit.created'}",
    "a trailing comma": b'{"a":1,}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a NUL in a text": b'{"a":"\x00"}',
}


@each("raw", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_signed_unreadable_body_is_rejected_and_not_stored(web: WebProcess, redis: Redis, raw: bytes) -> None:
    assert is_error_response(web.send("standard", raw), 400)
    assert set() == await stored_keys(redis)


@each(
    ("source", "raw"),
    [
        ("acuity", b""),
        ("acuity", b"action"),
        ("acuity", b"action=%ff&id=1"),
        ("acuity", b"action=\xff&id=1"),
        ("acuity", b"&".join(b"a%d=1" % n for n in range(1_000))),
        ("jobber", b""),
        ("jobber", b"{"),
        ("jobber", b"x"),
        ("square", b""),
        ("calendly", b"x"),
        ("housecallpro", b""),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else value,
)
async def test_an_unreadable_body_of_any_tool_is_rejected(
    web: WebProcess, redis: Redis, source: str, raw: bytes
) -> None:
    assert is_error_response(web.send(source, raw), 400)
    assert set() == await stored_keys(redis)


# -- 401 --


def _without(name: str) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: {key: value for key, value in headers.items() if key != name}


def _with(name: str, value: Any) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: headers | {name: value(headers[name]) if callable(value) else value}


def _doubled(name: str) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: [*headers.items(), (name, headers[name])]


def _signed_at(seconds: float) -> Callable[[dict[str, Any], bytes], Any]:
    return lambda headers, raw: sign_standard(raw, at=time.time() + seconds)


SIGNATURE = "webhook-signature"


FORGED: dict[str, Callable[[dict[str, Any], bytes], Any]] = {
    "no header at all": lambda headers, raw: {"content-type": "application/json"},
    "no signature": _without(SIGNATURE),
    "no id": _without("webhook-id"),
    "no time": _without("webhook-timestamp"),
    "an empty signature": _with(SIGNATURE, ""),
    "a version alone": _with(SIGNATURE, "v1,"),
    "another version": _with(SIGNATURE, lambda it: it.replace("v1,", "v2,")),
    "no version": _with(SIGNATURE, lambda it: it.removeprefix("v1,")),
    "made up": _with(SIGNATURE, "v1," + base64.b64encode(b"\0" * 32).decode()),
    "a bit less": _with(SIGNATURE, lambda it: it[:-2]),
    "a bit more": _with(SIGNATURE, lambda it: it + "A"),
    "half of it": _with(SIGNATURE, lambda it: it[:20]),
    "other letters' case": _with(SIGNATURE, lambda it: "v1," + it[3:].swapcase()),
    "not ASCII": _with(SIGNATURE, "v1,é😀".encode()),
    "a surrogate's bytes": _with(SIGNATURE, b"v1,\xed\xa0\x80"),
    "doubled signature": _doubled(SIGNATURE),
    "doubled id": _doubled("webhook-id"),
    "doubled time": _doubled("webhook-timestamp"),
    "another id": _with("webhook-id", "msg_other"),
    "an empty id": _with("webhook-id", ""),
    "another time": _with("webhook-timestamp", lambda it: str(int(it) - 1)),
    "a time that is no number": _with("webhook-timestamp", "nan"),
    "an infinite time": _with("webhook-timestamp", "inf"),
    "a time with a sign": _with("webhook-timestamp", lambda it: "+" + it),
    "a time before 1970": _with("webhook-timestamp", "-1"),
    "a time in foreign digits": _with("webhook-timestamp", "١٢٣٤٥٦٧٨٩٠".encode()),
    "a time of a thousand digits": _with("webhook-timestamp", "9" * 1_000),
    "too old": _signed_at(-310),
    "too new": _signed_at(310),
    "with another secret": lambda headers, raw: sign_standard(
        raw, secret="whsec_" + base64.b64encode(b"x" * 24).decode()
    ),
    "as Calendly signs": lambda headers, raw: sign_calendly(raw),
    "another body": lambda headers, raw: sign_standard(raw + b" "),
    "headers of two families": lambda headers, raw: {
        "svix-signature": headers[SIGNATURE],
        **_without(SIGNATURE)(headers, raw),
    },
    "a thousand signatures": _with(SIGNATURE, " ".join(["v1," + "A" * 43 + "="] * 1_000)),
}


@each("forge", FORGED.values(), ids=FORGED.keys())
async def test_an_invalid_signature_is_rejected_and_nothing_is_stored(
    web: WebProcess, redis: Redis, forge: Callable[[dict[str, Any], bytes], Any]
) -> None:
    raw = new_event_body("standard")
    headers = forge(sign_standard(raw), raw)

    response = web.http.post("/hooks/standard", content=raw, headers=headers)

    assert is_error_response(response, 401)
    assert set() == await stored_keys(redis)


async def test_a_signature_of_white_space_is_rejected(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    signed = signed_headers(raw) | {"webhook_signature": "   "}

    assert is_error_response(web.send_bytes(request(body=raw, content_length=str(len(raw)), **signed)), 401)


@each("source", SOURCES)
@each("how", ["unsigned", "for another body", "of another length", "empty"])
async def test_a_forged_delivery_of_any_tool_is_rejected(web: WebProcess, redis: Redis, source: str, how: str) -> None:
    raw = new_event_body(source)
    headers = SIGN[source](raw + b" " if how == "for another body" else raw)
    signature = next(name for name in headers if "signature" in name or "hmac" in name)
    if how == "unsigned":
        del headers[signature]
    elif how != "for another body":
        headers[signature] = headers[signature][:-3] if how == "of another length" else ""

    assert is_error_response(web.post(raw, headers, source), 401)
    assert set() == await stored_keys(redis)


@each(
    ("hook", "seconds", "status"),
    [
        ("standard", -290, 202),
        ("standard", 290, 202),
        ("calendly", -170, 202),
        ("calendly", -190, 401),  # Calendly's example allows three minutes
        ("calendly", 190, 401),
        ("housecallpro", -290, 202),
        ("housecallpro", -310, 401),
        ("housecallpro", 310, 401),
        ("shop", -20, 202),  # its TOLERANCE is 30
        ("shop", -40, 401),
        ("shop", 40, 401),
    ],
)
async def test_the_signed_time_may_differ_by_the_tolerance_both_ways(
    web: WebProcess, redis: Redis, hook: str, seconds: float, status: int
) -> None:
    sign: Any = {"calendly": sign_calendly, "housecallpro": sign_housecallpro}.get(hook, sign_standard)
    raw = new_event_body("standard" if hook == "shop" else hook)

    assert status == web.post(raw, sign(raw, at=time.time() + seconds), hook).status_code


async def test_square_signs_the_public_url_and_not_the_called_url(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("square")
    as_called = base64.b64encode(sha256_mac(KEYS["square"], f"{web.server.url}/hooks/square".encode() + raw))

    headers = {"x-square-hmacsha256-signature": as_called.decode(), "x-forwarded-host": "127.0.0.1"}

    assert is_error_response(web.post(raw, headers, "square"), 401)


async def test_square_signs_the_query_of_the_configured_url(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("square")
    pasted = sha256_mac(KEYS["square"], f"{PUBLIC_URL}/hooks/square?shop=1".encode() + raw)

    headers = {"x-square-hmacsha256-signature": base64.b64encode(pasted).decode()}

    assert is_error_response(web.post(raw, headers, "square?shop=2"), 401)
    assert is_error_response(web.post(raw, headers, "square"), 401)
    assert 202 == web.post(raw, headers, "square?shop=1").status_code


async def test_the_secret_of_one_hook_is_invalid_at_another(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")

    assert is_error_response(web.post(raw, sign_standard(raw, secret=OLD_SECRET), "shop"), 401)


# -- 404, 405 --


NO_HOOKS = {
    "unknown": "/hooks/nobody",
    "without a secret": "/hooks/calcom",
    "none": "/hooks/",
    "no slash": "/hooks",
    "a slash at the end": "/hooks/standard/",
    "an encoded slash at the end": "/hooks/standard%2F",
    "something behind it": "/hooks/standard/x",
    "something encoded behind it": "/hooks/standard%2Fx",
    "in capitals": "/hooks/STANDARD",
    "doubled slash": "/hooks//standard",
    "doubled slash at first": "//hooks/standard",
    "a way up": "/hooks/x/../standard",
    "an encoded way up": "/hooks/%2e%2e/hooks/standard",
    "a blank": "/hooks/standard%20",
    "a line feed": "/hooks/standard%0a",
    "a NUL": "/hooks/standard%00",
    "not UTF-8": "/hooks/%ff%fe",
    "half an escape": "/hooks/%",
    "a parameter": "/hooks/standard;a=b",
    "10 kB": "/hooks/" + "a" * 10_000,
    "10 kB encoded": "/hooks/" + "%F0%9F%98%80" * 800,
    "a Python name": "/hooks/__class__",
}


@each("path", NO_HOOKS.values(), ids=NO_HOOKS.keys())
async def test_a_signed_request_to_an_unknown_hook_is_answered_404(web: WebProcess, redis: Redis, path: str) -> None:
    raw = new_event_body("standard")
    headers = {name: value for name, value in sign_standard(raw).items() if name != "content-type"}

    response = web.send_bytes(request(path, body=raw, content_length=str(len(raw)), **headers))

    assert is_error_response(response, 404)
    assert set() == await stored_keys(redis)


@each("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@each("hook", ["standard", "calendly", "acuity"])
async def test_a_hook_accepts_only_post(web: WebProcess, redis: Redis, method: str, hook: str) -> None:
    response = web.http.request(method, f"/hooks/{hook}")

    assert (405, "POST") == (response.status_code, response.headers["allow"])
    assert method == "HEAD" or is_error_response(response, 405)
    assert set() == await stored_keys(redis)


@each("method", ["GET", "HEAD", "PUT"])
async def test_an_unknown_hook_is_answered_404_for_every_method(web: WebProcess, method: str) -> None:
    assert [404, 404] == [web.http.request(method, path).status_code for path in ("/hooks/nobody", "/hooks/calcom")]


async def test_no_path_is_answered_with_a_redirect(web: WebProcess) -> None:
    for path in ("/", "/hooks/standard/", "/healthz/", "/readyz/", "/metrics/"):
        response = web.http.post(path, headers={"host": "evil.example"})

        assert not response.is_redirect, path
        assert "evil.example" not in str(response.headers) + response.text


# -- 415 --


@pytest.mark.parametrize(
    ("hook", "content_type", "is_accepted"),
    [
        ("standard", None, True),
        ("standard", "", True),
        ("standard", "application/json", True),
        ("standard", "application/json; charset=utf-8", True),
        ("standard", 'Application/JSON;charset="UTF-8"', True),
        ("standard", "application/cloudevents+json", True),
        ("standard", "text/json", True),
        ("standard", "text/plain", False),
        ("standard", "application/xml", False),
        ("standard", "application/x-www-form-urlencoded", False),
        ("standard", "multipart/form-data; boundary=x", False),
        ("standard", "application/jsonp", False),
        ("standard", "text/html; application/json", False),
        ("acuity", "application/x-www-form-urlencoded; charset=utf-8", True),
        ("acuity", None, True),
        ("acuity", "application/json", False),
        ("acuity", "multipart/form-data; boundary=x", False),
        ("jobber", "application/json", True),
        ("jobber", "application/x-www-form-urlencoded", True),
        ("jobber", "text/plain", False),
    ],
)
async def test_a_wrong_content_type_is_rejected(
    web: WebProcess, redis: Redis, hook: str, content_type: str | None, is_accepted: bool
) -> None:
    raw = new_event_body(hook)
    headers = SIGN[hook](raw)
    del headers["content-type"]

    response = web.post(raw, headers | ({} if content_type is None else {"content-type": content_type}), hook)

    assert 202 == response.status_code if is_accepted else is_error_response(response, 415)
    assert is_accepted == bool(await stored_keys(redis))
