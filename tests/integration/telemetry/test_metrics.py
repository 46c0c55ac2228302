"""Log lines with request ids and traces, the metrics of several processes, and the files that use them."""

import json
import os
import re
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app import __version__
from app.demo.valkey import free_port, valkey
from app.ledger import keys
from app.ledger.ids import delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import CircuitSignal
from app.ledger.redis import Redis
from app.telemetry.counters import Counters, hourly_counts, totals
from app.telemetry.metric_names import METRICS
from tests.support.harness import Harness, Server, http_client, sign_standard, standard_body, wait_until
from tests.support.ledger import accept, change, start_run, waiting
from tests.support.ledger_client import LedgerClient
from tests.support.processes import ROOT

TRACE_ID, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SENDER}-01"
VISIT: dict[str, Any] = {"contact": {"id": "cont_KYdl3lftgZXGRbxqoj"}, "time_scheduled": "2026-03-14T16:00:00Z"}


def lines(server: Server, event: str) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in read if line["event"].startswith(event)]


def send(harness: Harness, visit_id: str, **headers: str) -> Any:
    raw = standard_body("visit.created", visit_id, **VISIT)
    return harness.post(raw, sign_standard(raw) | headers)


# Request ids and traces


@dataclass
class Service:
    """A web process and a worker, whose logs begin with the test."""

    harness: Harness
    worker: Server

    def empty(self) -> None:
        self.harness.reset()
        for server in (self.harness.web_server, self.worker):
            os.truncate(server.log, 0)

    def command(self, *command: str) -> Any:
        return LedgerClient(self.harness.redis_url).command(*command)


@pytest.fixture(scope="module")
def shared_service(sandbox: Server) -> Iterator[Service]:
    with valkey() as url, Harness(url, sandbox) as harness:
        harness.start_web(METRICS_TOKEN="t")
        yield Service(harness, harness.start_worker())


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    shared_service.empty()
    yield shared_service
    wait_until(LedgerClient(shared_service.harness.redis_url).is_done)


def test_request_id_and_trace_are_sent_to_the_visits_api(service: Service) -> None:
    harness, worker = service.harness, service.worker

    response = send(harness, "A", **{"x-request-id": "req-17", "traceparent": TRACEPARENT})
    wait_until(lambda: harness.visit("standard-A"))
    [line] = wait_until(lambda: lines(worker, "visit_run_finished"))

    assert "req-17" == response.headers["x-request-id"]
    delivery = response.json()["delivery"]
    context = {"request_id": "req-17", "trace_id": TRACE_ID, "parent_id": SENDER}
    assert {"req-17"} == {call["request_id"] for call in harness.journal() if call["route"] != "GET /visits"}
    assert {TRACEPARENT} == {call["traceparent"] for call in harness.journal() if call["route"] != "GET /visits"}
    assert context.items() <= line.items()
    assert {
        "external_id": "standard-A",
        "outcome": "created",
        "attempt": 1,
        "delivery": delivery,
    }.items() <= line.items()
    assert {"calls", "took_ms"} <= line.keys()
    [line] = lines(harness.web_server, "webhook_handled")
    expected = {
        "hook": "standard",
        "source": "standard",
        "event_type": "visit.created",
        "delivery": delivery,
        "status": 202,
    }
    assert (context | expected | {"outcome": "accepted"}).items() <= line.items()


def test_a_request_without_an_id_gets_one_that_is_not_stored(service: Service) -> None:
    harness = service.harness

    response = send(harness, "A")
    wait_until(lambda: harness.visit("standard-A"))

    delivery = response.json()["delivery"]
    assert delivery == response.headers["x-request-id"]
    calls = [call for call in harness.journal() if call["route"] != "GET /visits"]
    assert [(delivery, "")] == sorted({(call["request_id"], call["traceparent"]) for call in calls})
    meta = service.command("GET", delivery_key(delivery)).partition(b"\n")[0]
    assert b"trace" not in meta
    assert b"request_id" not in meta


def test_a_call_has_the_request_id_of_the_newest_delivery(harness: Harness) -> None:
    harness.start_web()
    for n in range(3):
        send(harness, "A", **{"x-request-id": f"req-{n}"})

    harness.start_worker()
    wait_until(lambda: harness.visit("standard-A"))

    assert {"req-2"} == {call["request_id"] for call in harness.journal() if call["route"] != "GET /visits"}


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{'0' * 32}-{SENDER}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{SENDER}-01",
        f"00-{TRACE_ID.upper()}-{SENDER}-01",
        f"00-{TRACE_ID}-{SENDER}",
        f"00-{TRACE_ID}-{SENDER}-01-zebediah",
        "zebediah@example.com",
    ],
)
def test_an_invalid_traceparent_is_not_stored(service: Service, traceparent: str) -> None:
    delivery = send(service.harness, "A", traceparent=traceparent).json()["delivery"]

    assert b"traceparent" not in service.command("GET", delivery_key(delivery))


def test_a_body_cannot_set_the_trace(service: Service) -> None:
    harness = service.harness
    note = '"traceparent":"' + TRACEPARENT + '"'
    raw = standard_body("visit.created", "A", note=note, **VISIT)
    raw = raw.replace(b"}}", b'},"request_id":"forged","traceparent":"' + TRACEPARENT.encode() + b'"}', 1)

    delivery = harness.post(raw, sign_standard(raw)).json()["delivery"]
    wait_until(lambda: harness.visit("standard-A"))

    calls = [call for call in harness.journal() if call["route"] != "GET /visits"]
    assert [(delivery, "")] == sorted({(call["request_id"], call["traceparent"]) for call in calls})


def test_the_id_of_a_rejected_request_is_logged_only_if_it_is_a_uuid(service: Service) -> None:
    harness, uuid = service.harness, "3f2c8a4e-1f0b-4a6e-9a38-0a1b2c3d4e5f"

    for id in ("zebediah-canary", uuid):
        response = harness.post(b"{}", {"x-request-id": id})
        assert (401, id) == (response.status_code, response.headers["x-request-id"])
    without_id = harness.post(b"{}", {})

    # A line is written after its response.
    first, second, third = wait_until(
        lambda: len(logged := lines(harness.web_server, "webhook_handled")) == 3 and logged
    )
    assert {"rejected"} == {line["outcome"] for line in (first, second, third)}
    assert {"signature_missing"} == {line["reason"] for line in (first, second, third)}
    assert ("request_id" in first, second["request_id"]) == (False, uuid)
    assert third["request_id"] == without_id.headers["x-request-id"]


# /metrics


def metrics(web: Server, **headers: str) -> httpx.Response:
    with http_client() as client:
        return client.get(f"{web.url}/metrics", headers={"authorization": "Bearer t"} | headers)


def scrape(web: Server) -> dict[str, float]:
    return samples(text_string_to_metric_families(metrics(web).text))


def samples(metrics: Iterable[Metric]) -> dict[str, float]:
    """Return the values by name and labels: `name{a="b",c="d"}`, with the labels in the order of METRICS."""
    return {series_name(sample): sample.value for metric in metrics for sample in metric.samples}


def series_name(sample: Sample) -> str:
    spec = METRICS[re.sub("_(bucket|sum|count)$", "", sample.name)]
    labels = ",".join(f'{label}="{sample.labels[label]}"' for label in (*spec.labels, "le") if label in sample.labels)
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def test_a_cell_is_a_label_of_all_metrics(harness: Harness) -> None:
    web = harness.start_web(METRICS_TOKEN="t", CELL="east")
    send(harness, "A")
    wait_until(lambda: "doorbell_webhook_request_duration_seconds_count" in metrics(web).text)

    families = text_string_to_metric_families(metrics(web).text)
    assert {"east"} == {sample.labels.get("cell") for metric in families for sample in metric.samples}


def test_every_process_reports_the_counts_of_all(harness: Harness) -> None:
    first_web = harness.start_web(
        METRICS_TOKEN="t",
        HOOKS__STANDARD__SECRETS=f"whsec_b3RoZXItc2VjcmV0LW9mLXRlc3Rz {harness.env['HOOKS__STANDARD__SECRETS']}",
    )
    send(harness, "other")
    second_web = harness.start_web(METRICS_TOKEN="t")
    harness.start_worker()
    raw = standard_body("visit.created", "A", **VISIT)
    headers = sign_standard(raw)
    for _ in range(3):
        harness.post(raw, headers)
    harness.post(raw, {})
    harness.post(raw, sign_standard(raw, at=1_000_000_000))
    harness.post(raw, {}, hook="zebediah@example.com")
    unreadable = b"[]"
    parked = harness.post(unreadable, sign_standard(unreadable)).json()["delivery"]
    discard = harness.doorbell("discard", parked, "--yes")
    assert 0 == discard.returncode, discard.stderr + discard.stdout

    def requests(outcome: str, source: str = "standard") -> str:
        return f'doorbell_webhook_requests_total{{source="{source}",outcome="{outcome}"}}'

    expected = {
        requests("accepted"): 3,  # `other`, A, and the unreadable body, which is parked
        requests("repeat"): 2,
        requests("bad_signature"): 1,
        requests("stale_timestamp"): 1,
        requests("no_such_hook", ""): 1,
        'doorbell_webhook_request_duration_seconds_count{source="standard"}': 7,
        'doorbell_webhook_request_duration_seconds_bucket{source="standard",le="+Inf"}': 7,
        'doorbell_webhook_secret_matches_total{source="standard",secret="1"}': 4,
        'doorbell_webhook_secret_matches_total{source="standard",secret="2"}': 1,
        'doorbell_webhook_rejections_total{hook="standard",reason="signature_missing"}': 1,
        'doorbell_task_runs_total{kind="visit",outcome="done",reason="none"}': 2,
        'doorbell_tasks_finished_total{kind="visit",outcome="created"}': 2,
        'doorbell_tasks_finished_total{kind="event",outcome="discarded"}': 1,
        'doorbell_task_wait_seconds_count{kind="visit"}': 2,
        'doorbell_run_duration_seconds_count{kind="visit"}': 2,
        'doorbell_end_to_end_seconds_count{source="standard"}': 2,
        'doorbell_visits_api_requests_total{method="POST",route="/visits",status="2xx"}': 2,
        'doorbell_visits_api_request_duration_seconds_count{method="POST",route="/visits"}': 2,
        'doorbell_tasks{state="discarded"}': 1,
        'doorbell_tasks{state="queued"}': 0,
        'doorbell_visits_api_circuit_open{account="main"}': 0,
        "doorbell_workers": 1,
        "doorbell_redis_up": 1,
        'doorbell_operator_actions_total{action="started_discard"}': 1,
    }
    with suppress(AssertionError):  # the assertions below show what is missing
        wait_until(lambda: expected.items() <= scrape(second_web).items())
    second, first = scrape(second_web), scrape(first_web)

    assert expected == {name: second.get(name) for name in expected}, second
    assert expected == {name: first.get(name) for name in expected}
    assert abs(second['doorbell_webhook_last_accepted_timestamp_seconds{source="standard"}'] - time.time()) < 60
    assert second["doorbell_worker_heartbeat_age_seconds"] < 30
    assert second["doorbell_redis_memory_used_bytes"] > 100_000
    assert any(name.startswith(f'doorbell_build_info{{version="{__version__}"') for name in second)
    assert "zebediah" not in repr(second)


def test_counters_of_wrong_signatures_start_at_zero(harness: Harness) -> None:
    values = scrape(harness.start_web(METRICS_TOKEN="t"))

    for source in ("standard", "calendly"):
        assert 0 == values[f'doorbell_webhook_requests_total{{source="{source}",outcome="bad_signature"}}']
        assert 0 == values[f'doorbell_webhook_rejections_total{{hook="{source}",reason="signature_mismatch"}}']
        assert 0 == values[f'doorbell_hook_bad_signatures{{hook="{source}"}}']


def test_metrics_without_redis_contain_only_redis_up_and_build_info(harness: Harness) -> None:
    values = scrape(harness.start_web(METRICS_TOKEN="t", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"))

    assert 0 == values.pop("doorbell_redis_up")
    assert ["doorbell_build_info"] == [name.partition("{")[0] for name in values]


async def test_an_open_circuit_is_reported(harness: Harness, ledger: Ledger) -> None:
    web = harness.start_web(METRICS_TOKEN="t")
    await accept(ledger, change("A"))
    signal = CircuitSignal(kind="unauthorized", pause_s=60)
    await ledger.complete(await start_run(ledger, "A", "main"), waiting(circuit_signal=signal), account="main")

    assert 1 == scrape(web)['doorbell_visits_api_circuit_open{account="main"}']


async def test_a_flush_that_fails_partly_counts_nothing_twice(redis: Redis) -> None:
    counters = Counters()
    counters.count_for_hour("standard", "accepted")
    counters.record_request("standard", "accepted", 1, 0.2)
    await redis.command("SET", keys.METRICS, "not a hash")

    await counters.flush(redis)
    await redis.command("DEL", keys.METRICS)
    await counters.flush(redis)
    await counters.flush(redis)

    [(_, hour)] = await hourly_counts(redis, 1)
    assert {("standard", "accepted"): 1} == hour
    stored = await totals(redis)
    assert 1 == stored["doorbell_webhook_requests_total|standard|accepted"]
    assert 200_000 == stored["doorbell_webhook_request_duration_seconds|standard|us"]


def test_every_metric_has_a_help_text_and_a_name_in_prometheus_style(service: Service) -> None:
    text = metrics(service.harness.web_server).text

    assert list(METRICS) == re.findall(r"^# HELP (\S+) .+$", text, re.M) == re.findall(r"^# TYPE (\S+)", text, re.M)
    for name, spec in METRICS.items():
        assert re.fullmatch("doorbell_[a-z_]+", name)
        assert name.endswith("_total") == (spec.kind == "counter")
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert spec.help.endswith(".")


def test_openmetrics_contains_the_same_series(service: Service) -> None:
    send(service.harness, "A")
    wait_until(lambda: service.harness.visit("standard-A"))
    wait_until(lambda: scrape(service.harness.web_server).get('doorbell_end_to_end_seconds_count{source="standard"}'))

    plain = metrics(service.harness.web_server)
    open_metrics = metrics(
        service.harness.web_server, accept="application/openmetrics-text; version=1.0.0, text/plain; version=0.0.4"
    )

    assert "text/plain; version=0.0.4; charset=utf-8" == plain.headers["content-type"]
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    parsed = list(openmetrics(open_metrics.text))
    assert {name.removesuffix("_total"): spec.kind for name, spec in METRICS.items()} == {
        metric.name: metric.type for metric in parsed
    }
    assert samples(text_string_to_metric_families(plain.text)).keys() == samples(parsed).keys()


def test_buckets_are_cumulative_and_label_values_are_escaped(service: Service) -> None:
    label = 'a"b\\c'
    name = "doorbell_task_wait_seconds"
    fields = {f"{name}|{label}|0": "2", f"{name}|{label}|3": "1", f"{name}|{label}|us": "1500000"}
    service.command("HSET", keys.METRICS, *(part for pair in fields.items() for part in pair))

    text = metrics(service.harness.web_server).text

    [metric] = [metric for metric in text_string_to_metric_families(text) if metric.name == name]
    actual = {
        (sample.name.removeprefix(name), sample.labels.get("le")): sample.value
        for sample in metric.samples
        if sample.labels["kind"] == label
    }
    below_a_second = {("_bucket", bound): 2 for bound in ("0.1", "0.25", "0.5")}
    above = ("1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "300.0", "1800.0", "7200.0", "21600.0", "86400.0", "+Inf")
    expected = below_a_second | {("_bucket", bound): 3 for bound in above} | {("_sum", None): 1.5, ("_count", None): 3}
    assert expected == actual


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain; version=x"])
def test_an_unknown_accept_header_gets_the_text_format(service: Service, accept: str) -> None:
    response = metrics(service.harness.web_server, accept=accept)

    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (response.status_code, response.headers["content-type"])


def test_the_version_equals_that_of_the_package() -> None:
    assert __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


# Dashboard and alert rules


def names(query: str) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"doorbell_\w+", query)}


def test_the_dashboard_queries_existing_metrics() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())

    panels = dashboard["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert set() == set().union(*map(names, queries)) - METRICS.keys()
    assert all(map(names, queries))
    assert len(panels) == len({panel["id"] for panel in panels})
    positions = [(position["x"], position["y"]) for position in (panel["gridPos"] for panel in panels)]
    assert len(positions) == len(set(positions))


def test_the_alert_rules_query_existing_metrics_and_have_a_description() -> None:
    [group] = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"]

    assert {"DoorbellBadSignatures", "DoorbellTasksWait", "DoorbellFailures", "DoorbellSilentHook"} <= {
        rule["alert"] for rule in group["rules"]
    }
    lost = next(rule for rule in group["rules"] if rule["alert"] == "DoorbellLostConnection")
    assert ("critical", False) == (lost["labels"]["severity"], "degraded" in lost["expr"])
    for rule in group["rules"]:
        assert names(rule["expr"])
        assert set() == names(rule["expr"]) - METRICS.keys()
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert {"summary", "description"} == rule["annotations"].keys()


def test_queries_over_several_processes_count_nothing_twice() -> None:
    """All processes report the same values, so each query takes their maximum before it adds values."""
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    [group] = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"]
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    for query in queries + [rule["expr"] for rule in group["rules"]]:
        assert "doorbell" not in re.sub(AGGREGATED, "", query), query


AGGREGATED = r"(max|min)( by \([a-z, ]+\))? ?\((\w+_over_time\(\(?)?(time\(\) - )?((rate|increase)\()?doorbell_\w+"


def test_dashboard_and_alert_rules_use_existing_labels() -> None:
    for file in ("grafana.json", "alerts.yaml"):
        text = (ROOT / "deploy" / file).read_text().replace('\\"', '"')
        for name, label in re.findall(r"(doorbell_\w+)\{(\w+)", text):
            labels = METRICS[re.sub("_bucket$", "", name)].labels
            assert label in (*labels, "cell"), (file, name, label)
