"""The load generator and its deliveries, without measuring anything."""

import socket
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from app.webhooks.translation import parse_event, translate_event
from tests.bench.__main__ import SPECIAL, STANDARD, summary
from tests.bench.deliveries import FORM_KEY, KINDS, PUBLIC_KEY, SECRET
from tests.bench.intake import HOOKS, load_once
from tests.bench.load import Load, Run
from tests.bench.servers import servers

SOURCES = {"standard": ("standard", SECRET), "public_key": ("gohighlevel", PUBLIC_KEY), "form": ("acuity", FORM_KEY)}


def parse(request: bytes, source: str) -> Delivery:
    head, _, raw = request.partition(b"\r\n\r\n")
    lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
    headers = tuple((name, value) for name, _, value in lines)
    return Delivery(source, source, headers, raw, datetime.now(UTC))


def verify(delivery: Delivery, secret: str) -> None:
    load_sources()[delivery.source].definition.signature.verify(delivery, VerificationContext([secret], time.time()))


@pytest.mark.parametrize("kind", SOURCES)
def test_deliveries_are_valid_and_change_visits(kind: str) -> None:
    name, secret = SOURCES[kind]
    delivery, source = parse(KINDS[kind]("/", 7, 1), name), load_sources()[name]
    verify(delivery, secret)
    translation = translate_event(source, parse_event(source, delivery))
    assert translation.state == "queued" or len(translation.changes) == 1


def test_a_delivery_that_was_changed_is_rejected() -> None:
    with pytest.raises(SignatureError):
        verify(parse(KINDS["rejected"]("/", 7, 1), "standard"), SECRET)


@pytest.mark.parametrize("size", [1_024, 2_048, 65_536])
@pytest.mark.parametrize("kind", ["standard", "rejected", "public_key"])
def test_bodies_have_the_size_that_was_asked_for(kind: str, size: int) -> None:
    _, _, raw = KINDS[kind]("/", 7, 1, size).partition(b"\r\n\r\n")
    assert size * 0.98 <= len(raw) <= size * 1.02


def test_an_open_load_counts_latency_from_the_time_at_which_a_request_was_due() -> None:
    """A server that needs 20 ms for each request, on one connection, is late for requests that are due every 10 ms."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer_slowly, args=(server,))
        answering.start()
        run = Run(Load(server.getsockname()[1], "/", seed=1, size=0, connections=1, requests=10))
        run.open(rate=100)
        run.close()
        answering.join()
    assert run.statuses == {202: 10}
    assert run.latencies_ms[-1] >= 10 * 20 - 9 * 10


def answer_slowly(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while connection.recv(65_536):
            time.sleep(0.02)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.skipif(sys.platform != "linux", reason="the servers are pinned to cores, and measured in /proc")
def test_the_web_process_answers_each_kind_of_delivery() -> None:
    with servers() as stack:
        endpoint = stack.web(**HOOKS)
        load_once(stack, endpoint, requests=20, seed=1)
        load_once(stack, endpoint, "200", requests=20, seed=1, rate=500.0)
        load_once(stack, endpoint, "401", requests=20, kind="rejected")
        load_once(stack, endpoint._replace(path="/hooks/gohighlevel"), requests=20, kind="public_key")
        load_once(stack, endpoint._replace(path="/hooks/acuity"), requests=20, kind="form")
        assert stack.unfinished() == 20 + 20 + 20


def test_every_part_is_a_sentence_in_the_list() -> None:
    assert all(summary(part).endswith(".") for part in (*STANDARD, *SPECIAL))
