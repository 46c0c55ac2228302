"""The log contains no personal data and no secret."""

import json

from app.ledger.redis import Redis
from tests.support.harness import (
    CALENDLY_SECRET,
    SECRET,
    sign_standard,
    standard_body,
)
from tests.support.intake import KEYS, METRICS_TOKEN, OLD_SECRET, SOURCES, WebProcess, request

CANARIES = ("canary", "zebediah", "0177777")


PERSON = {
    "id": "cont_Canary",
    "email": "zebediah@canary.example",
    "first_name": "Zebediah",
    "last_name": "Canary",
    "phone": "+15550177777",
}


async def test_the_log_contains_nothing_of_a_delivery(web: WebProcess, redis: Redis) -> None:
    before = len(web.log)
    good = standard_body("visit.created", "canary-1", time_scheduled="2026-10-01T15:00:00Z", contact=PERSON)
    bodies = [
        good,
        good,
        standard_body("visit.canary", "A", contact=PERSON),
        standard_body("visit.created", "A", contact={"email": ["zebediah@canary.example"]}),
        standard_body("visit.created", "A", time_scheduled="zebediah@canary.example"),
        standard_body("visit.created", "A", amount_collected="canary"),
        json.dumps({"canary": PERSON, "type": PERSON}).encode(),
        b'{"email":"zebediah@canary.example"',
        b"zebediah@canary.example",
        b"\xffcanary",
        b"canary" * 100_000,
    ]

    for raw in bodies:
        web.post(raw, sign_standard(raw))
        web.post(raw, {"webhook-signature": "v1,canary", "webhook-id": "canary", "webhook-timestamp": "canary"})
        web.post(raw, {"authorization": "Bearer canary", "cookie": "canary", "x-request-id": "canary-zebediah"})
        web.post(raw, {"content-type": "text/canary", "user-agent": "canary"})
    for source in SOURCES[1:]:
        raw = json.dumps({"event": "canary", "type": "canary", "payload": PERSON}).encode()
        web.send(source, raw if source != "acuity" else b"action=canary&email=zebediah%40canary.example")
    for path in (
        "/hooks/zebediah@canary.example",
        "/hooks/%0acanary",
        "/canary",
        "/hooks/standard?email=zebediah@canary",
    ):
        web.send_bytes(request(path, body=b"canary", content_length="6"))
        web.http.get(path.replace("%0a", ""))
    web.send_bytes(b"canary zebediah\r\n\r\n")
    web.send_bytes(b"POST /hooks/standard HTTP/1.1\r\ncanary\xff: zebediah\r\n\r\n")
    web.http.get("/metrics", headers={"authorization": "Bearer canary"})

    log = web.log[before:]
    assert "webhook_handled" in log
    assert [] == [line for line in log.splitlines() if any(name in line.lower() for name in CANARIES)]


def test_the_log_contains_no_secret(web: WebProcess) -> None:
    for secret in (SECRET, OLD_SECRET, CALENDLY_SECRET, *KEYS.values(), METRICS_TOKEN, "visits-canary-token"):
        assert secret not in web.log
        assert secret.removeprefix("whsec_") not in web.log


def test_every_line_of_the_log_is_a_json_event(web: WebProcess) -> None:
    web.post(b"{}", {})
    web.send_bytes(request("/hooks/%0a%0d%22", body=b"", content_length="0"))

    for line in web.log.splitlines():
        assert {"ts", "level", "event"} <= set(json.loads(line))
