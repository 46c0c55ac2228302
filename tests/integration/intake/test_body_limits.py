"""413, and lengths that are wrong."""

import http.client
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from app.ledger.redis import Redis
from tests.support.harness import (
    sign_standard,
)
from tests.support.intake import (
    MAX_BODY,
    WebProcess,
    is_error_response,
    new_event_body,
    padded_body,
    request,
    stored_keys,
)

# -- 413 --


def in_chunks(raw: bytes, size: int = 50_000) -> Iterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with Content-Length", "without"])
@pytest.mark.parametrize(("size", "status"), [(MAX_BODY, 202), (MAX_BODY + 1, 413), (2 * MAX_BODY, 413)])
async def test_a_body_is_taken_up_to_the_cap_and_not_a_byte_beyond(
    web: WebProcess, redis: Redis, size: int, status: int, is_chunked: bool
) -> None:
    raw = padded_body(size)

    answer = web.post(in_chunks(raw) if is_chunked else raw, sign_standard(raw))

    assert status == answer.status_code
    assert status == 202 or is_error_response(answer, 413)
    assert (status == 202) == bool(await stored_keys(redis))


async def test_a_claim_beyond_the_cap_is_refused_before_a_byte_of_it_came(web: WebProcess) -> None:
    answer = web.send_bytes(request(content_length=str(MAX_BODY + 1)))

    assert is_error_response(answer, 413)
    assert "close" == answer.headers["connection"]


def test_a_sender_that_listens_only_when_it_has_sent_all_hears_that_it_was_too_much(web: WebProcess) -> None:
    # To close a connection on which unread bytes wait resets it, and most clients then never see the answer.
    heard = []
    for _ in range(3):
        with closing(http.client.HTTPConnection("127.0.0.1", web.server.port, timeout=10)) as client:
            try:
                client.request("POST", "/hooks/standard", body=b"a" * 10_000_000)
                heard.append(str(client.getresponse().status))
            except OSError as error:
                heard.append(repr(error))

    assert ["413"] * 3 == heard


@pytest.mark.parametrize("claim", ["-1", "+2", "0x2", "2x", "", "two", "2, 2", "9" * 18, "9" * 25, "1e3"])
async def test_a_claim_that_is_no_length_is_refused(web: WebProcess, redis: Redis, claim: str) -> None:
    answer = web.send_bytes(request(body=b"{}", content_length=claim))

    assert answer.status in (400, 413)
    assert set() == await stored_keys(redis)


async def test_white_space_around_a_claim_is_no_part_of_it(web: WebProcess) -> None:
    # RFC 9110, 5.5: optional white space around a field's value is not part of it.
    assert is_error_response(web.send_bytes(request(body=b"{}", content_length=" 2 ")), 401)


@pytest.mark.parametrize("twice", ["content-length: 3", "transfer-encoding: chunked"])
async def test_two_claims_about_the_length_are_refused(web: WebProcess, redis: Redis, twice: str) -> None:
    raw = new_event_body("standard")
    lines = "".join(f"{name}: {value}\r\n" for name, value in sign_standard(raw).items())
    head = f"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{twice}\r\n{lines}\r\n"

    answer = web.send_bytes(head.encode() + raw, half_closes=True)

    assert 400 <= answer.status < 500
    assert set() == await stored_keys(redis)


async def test_a_claim_of_less_than_was_sent_is_not_believed(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    signed = {name.replace("-", "_"): value for name, value in sign_standard(raw).items()}

    answer = web.send_bytes(request(body=raw, content_length=str(len(raw) - 1), **signed))

    assert is_error_response(answer, 401)
    assert set() == await stored_keys(redis)


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n{}\r\n", b"-2\r\n{}\r\n", b"f" * 40 + b"\r\n{}", b"2\r\n{}XX0\r\n\r\n"], ids=repr
)
async def test_broken_chunks_are_refused(web: WebProcess, redis: Redis, chunks: bytes) -> None:
    answer = web.send_bytes(request(body=chunks, transfer_encoding="chunked"), half_closes=True)

    assert 400 == answer.status
    assert set() == await stored_keys(redis)


def test_what_follows_a_delivery_at_once_on_its_connection_is_answered_too(web: WebProcess) -> None:
    raw = padded_body(MAX_BODY)

    def signed(how: str) -> bytes:
        lines = [*sign_standard(raw).items(), ("content-length", str(MAX_BODY)), ("connection", how), ("host", "x")]
        return b"POST /hooks/standard HTTP/1.1\r\n%s\r\n" % "".join(f"{a}: {b}\r\n" for a, b in lines).encode() + raw

    for _ in range(10):
        with closing(web.connect()) as connection:
            first, second = signed("keep-alive"), signed("close")
            connection.sendall(first + second[:50])
            web.http.get("/healthz")  # so that these 50 bytes were read with what stands before them
            answered = b""
            with suppress(OSError):
                connection.sendall(second[50:])
                while part := connection.recv(65_536):
                    answered += part

            assert 2 == answered.count(b"HTTP/1.1 202"), answered
