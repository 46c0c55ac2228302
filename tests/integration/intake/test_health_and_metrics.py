"""/healthz, /readyz and /metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.ledger.redis import Redis
from tests.support.intake import METRICS_TOKEN, WebProcess, is_error_response

# -- health, metrics --


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_told_to_everybody_and_nothing_else_is(web: WebProcess, path: str, method: str) -> None:
    answer = web.http.request(method, path)

    assert 200 == answer.status_code
    assert method == "HEAD" or {"status": "ok"} == answer.json()


def test_metrics_do_not_exist_without_a_token(short_timeout_web: WebProcess) -> None:
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Bearer None"}):
        assert is_error_response(short_timeout_web.http.get("/metrics", headers=headers), 404)


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer x",
        METRICS_TOKEN.encode(),
        b"Basic " + METRICS_TOKEN.encode(),
        b"Bearer \xff\xfe",
    ],
    ids=repr,
)
def test_metrics_are_for_who_has_the_token(web: WebProcess, authorization: bytes) -> None:
    answer = web.http.get("/metrics", headers={"authorization": authorization})  # type: ignore[dict-item]

    assert is_error_response(answer, 401)
    assert METRICS_TOKEN not in answer.text


async def test_metrics_count_what_stands_in_the_ledger(web: WebProcess, redis: Redis) -> None:
    web.send("standard")
    web.send("standard", b"[]")

    answer = web.http.get("/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"})

    assert (200, "text/plain") == (answer.status_code, answer.headers["content-type"].partition(";")[0])
    [jobs] = [family for family in text_string_to_metric_families(answer.text) if family.name == "doorbell_tasks"]
    by_state = {sample.labels["state"]: sample.value for sample in jobs.samples}
    assert {"queued": 1, "parked": 1}.items() <= by_state.items()
