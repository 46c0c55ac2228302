"""413, and invalid lengths."""

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
    signed_headers,
    stored_keys,
)


def in_chunks(raw: bytes, size: int = 50_000) -> Iterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with Content-Length", "without"])
@pytest.mark.parametrize(("size", "status"), [(MAX_BODY, 202), (MAX_BODY + 1, 413), (2 * MAX_BODY, 413)])
async def test_a_body_is_accepted_up_to_max_body(
    web: WebProcess, redis: Redis, size: int, status: int, is_chunked: bool
) -> None:
    raw = padded_body(size)

    response = web.post(in_chunks(raw) if is_chunked else raw, sign_standard(raw))

    assert status == response.status_code
    assert status == 202 or is_error_response(response, 413)
    assert (status == 202) == bool(await stored_keys(redis))


async def test_a_content_length_over_max_body_is_rejected_before_the_body(web: WebProcess) -> None:
    response = web.send_bytes(request(content_length=str(MAX_BODY + 1)))

    assert is_error_response(response, 413)
    assert "close" == response.headers["connection"]


def test_a_sender_that_sends_everything_first_receives_the_413(web: WebProcess) -> None:
    # Closing a connection with unread bytes resets it, and most clients then never see the response.
    results = []
    for _ in range(3):
        with closing(http.client.HTTPConnection("127.0.0.1", web.server.port, timeout=10)) as client:
            try:
                client.request("POST", "/hooks/standard", body=b"a" * 10_000_000)
                results.append(str(client.getresponse().status))
            except OSError as error:
                results.append(repr(error))

    assert ["413"] * 3 == results


@pytest.mark.parametrize("claim", ["-1", "+2", "0x2", "2x", "", "two", "2, 2", "9" * 18, "9" * 25, "1e3"])
async def test_an_invalid_content_length_is_rejected(web: WebProcess, redis: Redis, claim: str) -> None:
    response = web.send_bytes(request(body=b"{}", content_length=claim))

    assert response.status in (400, 413)
    assert set() == await stored_keys(redis)


async def test_white_space_around_a_content_length_is_ignored(web: WebProcess) -> None:
    # RFC 9110, 5.5: optional white space around a field's value is not part of it.
    assert is_error_response(web.send_bytes(request(body=b"{}", content_length=" 2 ")), 401)


@pytest.mark.parametrize("second_length", ["content-length: 3", "transfer-encoding: chunked"])
async def test_two_lengths_are_rejected(web: WebProcess, redis: Redis, second_length: str) -> None:
    raw = new_event_body("standard")
    lines = "".join(f"{name}: {value}\r\n" for name, value in sign_standard(raw).items())
    head = f"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{second_length}\r\n{lines}\r\n"

    response = web.send_bytes(head.encode() + raw, half_closes=True)

    assert 400 <= response.status < 500
    assert set() == await stored_keys(redis)


async def test_a_content_length_shorter_than_the_body_is_rejected(web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")

    response = web.send_bytes(request(body=raw, content_length=str(len(raw) - 1), **signed_headers(raw)))

    assert is_error_response(response, 401)
    assert set() == await stored_keys(redis)


@pytest.mark.parametrize(
    "chunks", [b"zz\r\n{}\r\n", b"-2\r\n{}\r\n", b"f" * 40 + b"\r\n{}", b"2\r\n{}XX0\r\n\r\n"], ids=repr
)
async def test_invalid_chunks_are_rejected(web: WebProcess, redis: Redis, chunks: bytes) -> None:
    response = web.send_bytes(request(body=chunks, transfer_encoding="chunked"), half_closes=True)

    assert 400 == response.status
    assert set() == await stored_keys(redis)


def test_a_pipelined_delivery_is_answered(web: WebProcess) -> None:
    raw = padded_body(MAX_BODY)

    def signed_request(connection_header: str) -> bytes:
        lines = [
            *sign_standard(raw).items(),
            ("content-length", str(MAX_BODY)),
            ("connection", connection_header),
            ("host", "x"),
        ]
        return b"POST /hooks/standard HTTP/1.1\r\n%s\r\n" % "".join(f"{a}: {b}\r\n" for a, b in lines).encode() + raw

    for _ in range(10):
        with closing(web.connect()) as connection:
            first, second = signed_request("keep-alive"), signed_request("close")
            connection.sendall(first + second[:50])
            web.http.get("/healthz")  # ensures that these 50 bytes were read together with the first request
            received = b""
            with suppress(OSError):
                connection.sendall(second[50:])
                while part := connection.recv(65_536):
                    received += part

            assert 2 == received.count(b"HTTP/1.1 202"), received
