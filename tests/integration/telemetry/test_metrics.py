"""What operators see from outside: one line per delivery and attempt, names that go along, counts that are true."""

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
from app.ledger.ledger import Ledger
from app.ledger.records import CircuitSignal
from app.ledger.redis import Redis
from app.telemetry.counters import Counters, hourly_counts, totals
from app.telemetry.metric_names import METRICS
from tests.processes.test_worker import LedgerClient
from tests.support.harness import ROOT, Harness, Server, http_client, sign_standard, standard_body, wait_until
from tests.support.ledger import accept, change, start_run, waiting

TRACE_ID, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SENDER}-01"
VISIT: dict[str, Any] = {"contact": {"id": "cont_KYdl3lftgZXGRbxqoj"}, "time_scheduled": "2026-03-14T16:00:00Z"}


def lines(server: Server, event: str) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in read if line["event"].startswith(event)]


def ring(harness: Harness, visit_id: str, **headers: str) -> Any:
    raw = standard_body("visit.created", visit_id, **VISIT)
    return harness.post(raw, sign_standard(raw) | headers)


# -- what goes along --


@dataclass
class Service:
    """A door and a worker, and what was heard from them since the test began."""

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


def test_the_names_of_a_request_go_from_the_tool_to_the_visits_api(service: Service) -> None:
    harness, worker = service.harness, service.worker

    answer = ring(harness, "A", **{"x-request-id": "req-17", "traceparent": TRACEPARENT})
    wait_until(lambda: harness.visit("standard-A"))
    [line] = wait_until(lambda: lines(worker, "visit_run_finished"))

    assert "req-17" == answer.headers["x-request-id"]
    delivery = answer.json()["delivery"]
    told = {"request_id": "req-17", "trace_id": TRACE_ID, "parent_id": SENDER}
    assert {"req-17"} == {call["request_id"] for call in harness.journal() if call["route"] != "GET /visits"}
    assert {TRACEPARENT} == {call["traceparent"] for call in harness.journal() if call["route"] != "GET /visits"}
    assert told.items() <= line.items()
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
    assert (told | expected | {"outcome": "accepted"}).items() <= line.items()


def test_a_sender_that_names_nothing_gets_a_name_and_costs_no_byte(service: Service) -> None:
    harness = service.harness

    answer = ring(harness, "A")
    wait_until(lambda: harness.visit("standard-A"))

    delivery = answer.json()["delivery"]
    assert delivery == answer.headers["x-request-id"]
    calls = [call for call in harness.journal() if call["route"] != "GET /visits"]
    assert [(delivery, "")] == sorted({(call["request_id"], call["traceparent"]) for call in calls})
    meta = service.command("GET", f"bell:delivery:{delivery}").partition(b"\n")[0]
    assert b"trace" not in meta
    assert b'"request_id":""' in meta


def test_the_newest_delivery_of_a_visit_names_the_call(harness: Harness) -> None:
    harness.start_web()
    for n in range(3):
        ring(harness, "A", **{"x-request-id": f"req-{n}"})

    harness.start_worker()
    wait_until(lambda: harness.visit("standard-A"))

    assert {"req-2"} == {call["request_id"] for call in harness.journal() if call["route"] != "GET /visits"}


@pytest.mark.parametrize(
    "given",
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
def test_what_is_no_trace_is_not_kept(service: Service, given: str) -> None:
    delivery = ring(service.harness, "A", traceparent=given).json()["delivery"]

    assert b"traceparent" not in service.command("GET", f"bell:delivery:{delivery}")


def test_a_body_cannot_pose_as_a_trace(service: Service) -> None:
    harness = service.harness
    note = '"traceparent":"' + TRACEPARENT + '"'
    raw = standard_body("visit.created", "A", note=note, **VISIT)
    raw = raw.replace(b"}}", b'},"request_id":"forged","traceparent":"' + TRACEPARENT.encode() + b'"}', 1)

    delivery = harness.post(raw, sign_standard(raw)).json()["delivery"]
    wait_until(lambda: harness.visit("standard-A"))

    calls = [call for call in harness.journal() if call["route"] != "GET /visits"]
    assert [(delivery, "")] == sorted({(call["request_id"], call["traceparent"]) for call in calls})


def test_a_strangers_name_for_a_request_is_answered_and_not_logged_unless_a_machine_made_it(service: Service) -> None:
    harness, made = service.harness, "3f2c8a4e-1f0b-4a6e-9a38-0a1b2c3d4e5f"

    for name in ("zebediah-canary", made):
        answer = harness.post(b"{}", {"x-request-id": name})
        assert (401, name) == (answer.status_code, answer.headers["x-request-id"])
    nameless = harness.post(b"{}", {})

    # A line is written when its answer is on the way already.
    named, other, own = wait_until(lambda: len(told := lines(harness.web_server, "webhook_handled")) == 3 and told)
    assert {"rejected"} == {line["outcome"] for line in (named, other, own)}
    assert {"signature_missing"} == {line["reason"] for line in (named, other, own)}
    assert ("request_id" in named, other["request_id"]) == (False, made)
    assert own["request_id"] == nameless.headers["x-request-id"]


# -- /metrics --


def metrics(door: Server, **headers: str) -> httpx.Response:
    with http_client() as client:
        return client.get(f"{door.url}/metrics", headers={"authorization": "Bearer t"} | headers)


def scrape(door: Server) -> dict[str, float]:
    return samples(text_string_to_metric_families(metrics(door).text))


def samples(families: Iterable[Metric]) -> dict[str, float]:
    """The values by their names with labels, these in the order that SIGNALS has, as `name{a="b",c="d"}`."""
    return {written(sample): sample.value for family in families for sample in family.samples}


def written(sample: Sample) -> str:
    signal = METRICS[re.sub("_(bucket|sum|count)$", "", sample.name)]
    labels = ",".join(f'{label}="{sample.labels[label]}"' for label in (*signal.labels, "le") if label in sample.labels)
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def test_any_process_tells_what_all_of_them_did(harness: Harness) -> None:
    other = harness.start_web(
        METRICS_TOKEN="t",
        HOOKS__STANDARD__SECRETS=f"whsec_b3RoZXItc2VjcmV0LW9mLXRlc3Rz {harness.env['HOOKS__STANDARD__SECRETS']}",
    )
    ring(harness, "other")
    door = harness.start_web(METRICS_TOKEN="t")
    harness.start_worker()
    raw = standard_body("visit.created", "A", **VISIT)
    headers = sign_standard(raw)
    for _ in range(3):
        harness.post(raw, headers)
    harness.post(raw, {})
    harness.post(raw, sign_standard(raw, at=1_000_000_000))
    harness.post(raw, {}, hook="zebediah@example.com")
    nonsense = b"[]"
    parked = harness.post(nonsense, sign_standard(nonsense)).json()["delivery"]
    ran = harness.doorbell("discard", parked, "--yes")
    assert 0 == ran.returncode, ran.stderr + ran.stdout

    def requests(outcome: str, source: str = "standard") -> str:
        return f'doorbell_webhook_requests_total{{source="{source}",outcome="{outcome}"}}'

    expected = {
        requests("accepted"): 3,  # `other`, A, and the nonsense, which waits for an operator
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
    with suppress(AssertionError):  # what is still missing is shown below
        wait_until(lambda: expected.items() <= scrape(door).items())
    here, there = scrape(door), scrape(other)

    assert expected == {name: here.get(name) for name in expected}, here
    assert expected == {name: there.get(name) for name in expected}
    assert abs(here['doorbell_webhook_last_accepted_timestamp_seconds{source="standard"}'] - time.time()) < 60
    assert here["doorbell_worker_heartbeat_age_seconds"] < 30
    assert here["doorbell_redis_memory_used_bytes"] > 100_000
    assert any(name.startswith(f'doorbell_build_info{{version="{__version__}"') for name in here)
    assert "zebediah" not in repr(here)


def test_the_first_burst_of_bad_signatures_is_a_rise(harness: Harness) -> None:
    told = scrape(harness.start_web(METRICS_TOKEN="t"))

    for source in ("standard", "calendly"):
        assert 0 == told[f'doorbell_webhook_requests_total{{source="{source}",outcome="bad_signature"}}']
        assert 0 == told[f'doorbell_webhook_rejections_total{{hook="{source}",reason="signature_mismatch"}}']


def test_without_redis_metrics_say_so_and_nothing_else(harness: Harness) -> None:
    told = scrape(harness.start_web(METRICS_TOKEN="t", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"))

    assert 0 == told.pop("doorbell_redis_up")
    assert ["doorbell_build_info"] == [name.partition("{")[0] for name in told]


async def test_a_gate_that_is_shut_is_told(harness: Harness, ledger: Ledger) -> None:
    door = harness.start_web(METRICS_TOKEN="t")
    await accept(ledger, change("A"))
    verdict = CircuitSignal(kind="unauthorized", pause_s=60)
    await ledger.complete(await start_run(ledger, "A", "main"), waiting(circuit_signal=verdict), account="main")

    assert 1 == scrape(door)['doorbell_visits_api_circuit_open{account="main"}']


async def test_a_flush_that_fails_half_way_counts_nothing_twice(redis: Redis) -> None:
    tally = Counters()
    tally.count_for_hour("standard", "accepted")
    tally.record_request("standard", "accepted", 1, 0.2)
    await redis.command("SET", keys.METRICS, "not a hash")

    await tally.flush(redis)
    await redis.command("DEL", keys.METRICS)
    await tally.flush(redis)
    await tally.flush(redis)

    [(_, hour)] = await hourly_counts(redis, 1)
    assert {("standard", "accepted"): 1} == hour
    written = await totals(redis)
    assert 1 == written["doorbell_webhook_requests_total|standard|accepted"]
    assert 200_000 == written["doorbell_webhook_request_duration_seconds|standard|us"]


def test_every_name_is_told_with_its_help_and_follows_the_rules_of_prometheus(service: Service) -> None:
    told = metrics(service.harness.web_server).text

    assert list(METRICS) == re.findall(r"^# HELP (\S+) .+$", told, re.M) == re.findall(r"^# TYPE (\S+)", told, re.M)
    for name, signal in METRICS.items():
        assert re.fullmatch("doorbell_[a-z_]+", name)
        assert name.endswith("_total") == (signal.kind == "counter")
        assert bool(signal.buckets) == (signal.kind == "histogram")
        assert signal.help.endswith(".") or "; " in signal.help


def test_a_scraper_that_accepts_openmetrics_gets_the_same_in_it(service: Service) -> None:
    ring(service.harness, "A")
    wait_until(lambda: service.harness.visit("standard-A"))
    wait_until(lambda: scrape(service.harness.web_server).get('doorbell_end_to_end_seconds_count{source="standard"}'))

    plain = metrics(service.harness.web_server)
    other = metrics(
        service.harness.web_server, accept="application/openmetrics-text; version=1.0.0, text/plain; version=0.0.4"
    )

    assert "text/plain; version=0.0.4; charset=utf-8" == plain.headers["content-type"]
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = list(openmetrics(other.text))
    assert {name.removesuffix("_total"): signal.kind for name, signal in METRICS.items()} == {
        family.name: family.type for family in families
    }
    assert samples(text_string_to_metric_families(plain.text)).keys() == samples(families).keys()


def test_buckets_are_cumulative_and_label_values_are_escaped(service: Service) -> None:
    odd = 'a"b\\c'
    name = "doorbell_task_wait_seconds"
    service.command("HSET", keys.METRICS, f"{name}|{odd}|0", "2", f"{name}|{odd}|3", "1", f"{name}|{odd}|us", "1500000")

    text = metrics(service.harness.web_server).text

    [family] = [one for one in text_string_to_metric_families(text) if one.name == name]
    found = {
        (sample.name.removeprefix(name), sample.labels.get("le")): sample.value
        for sample in family.samples
        if sample.labels["kind"] == odd
    }
    below_a_second = {("_bucket", bound): 2 for bound in ("0.1", "0.25", "0.5")}
    above = ("1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "300.0", "1800.0", "7200.0", "21600.0", "86400.0", "+Inf")
    expected = below_a_second | {("_bucket", bound): 3 for bound in above} | {("_sum", None): 1.5, ("_count", None): 3}
    assert expected == found


@pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain; version=x"])
def test_whatever_a_scraper_accepts_it_gets_metrics(service: Service, accept: str) -> None:
    answer = metrics(service.harness.web_server, accept=accept)

    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status_code, answer.headers["content-type"])


def test_the_version_is_the_one_of_the_package() -> None:
    assert __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


# -- what other people's tools read --


def names(query: str) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"doorbell_\w+", query)}


def test_the_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())

    panels = dashboard["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert set() == set().union(*map(names, queries)) - METRICS.keys()
    assert all(map(names, queries))
    assert len(panels) == len({panel["id"] for panel in panels})
    taken = [(place["x"], place["y"]) for place in (panel["gridPos"] for panel in panels)]
    assert len(taken) == len(set(taken))


def test_the_alert_rules_ask_for_what_there_is_and_say_what_to_do() -> None:
    [group] = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"]

    assert {"DoorbellBadSignatures", "DoorbellWorkWaits", "DoorbellFailures", "DoorbellSilentSource"} <= {
        rule["alert"] for rule in group["rules"]
    }
    for rule in group["rules"]:
        assert names(rule["expr"])
        assert set() == names(rule["expr"]) - METRICS.keys()
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert {"summary", "description"} == rule["annotations"].keys()


def test_who_asks_several_processes_counts_nothing_twice() -> None:
    """All of them tell the same numbers: `max` folds those before anything is added up."""
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    [group] = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"]
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    for query in queries + [rule["expr"] for rule in group["rules"]]:
        assert "doorbell" not in re.sub(FOLDED, "", query), query


FOLDED = r"(max|min)( by \([a-z, ]+\))? ?\((max_over_time\(\()?(time\(\) - )?((rate|increase|delta)\()?doorbell_\w+"


def test_labels_in_files_are_labels_that_there_are() -> None:
    for file in ("grafana.json", "alerts.yaml"):
        text = (ROOT / "deploy" / file).read_text().replace('\\"', '"')
        for name, label in re.findall(r"(doorbell_\w+)\{(\w+)", text):
            assert label in METRICS[name].labels, (file, name, label)
