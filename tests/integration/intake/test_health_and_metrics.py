"""/healthz, /readyz and /metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.ledger.redis import Redis
from tests.support.intake import METRICS_TOKEN, WebProcess, is_error_response


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_needs_no_token_and_returns_only_the_status(web: WebProcess, path: str, method: str) -> None:
    response = web.http.request(method, path)

    assert 200 == response.status_code
    assert method == "HEAD" or {"status": "ok"} == response.json()


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
def test_metrics_need_the_token(web: WebProcess, authorization: bytes) -> None:
    response = web.http.get("/metrics", headers={"authorization": authorization})  # type: ignore[dict-item]

    assert is_error_response(response, 401)
    assert METRICS_TOKEN not in response.text


async def test_metrics_count_the_tasks_in_the_ledger(web: WebProcess, redis: Redis) -> None:
    web.send("standard")
    web.send("standard", b"[]")

    response = web.http.get("/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"})

    assert (200, "text/plain") == (response.status_code, response.headers["content-type"].partition(";")[0])
    [tasks] = [metric for metric in text_string_to_metric_families(response.text) if metric.name == "doorbell_tasks"]
    by_state = {sample.labels["state"]: sample.value for sample in tasks.samples}
    assert {"queued": 1, "parked": 1}.items() <= by_state.items()
