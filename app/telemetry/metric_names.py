"""What is measured: every name of /metrics, with what it means, its labels, and the buckets of those that are spread.

Labels are sources, hooks, routes and words of ours: never an id, an address or a text from outside. The names stay: what
stands in deploy/ and on other people's dashboards asks for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: In seconds. Of one request or call; and of everything between a delivery and its visit.
QUICK = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 21_600, 86_400)


@dataclass(frozen=True, slots=True)
class Signal:
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(help: str, *labels: str) -> Signal:
    return Signal("counter", help, labels)


def _gauge(help: str, *labels: str) -> Signal:
    return Signal("gauge", help, labels)


REQUESTS = "doorbell_webhook_requests_total"
REQUEST_S = "doorbell_webhook_request_duration_seconds"
LAST_ACCEPTED = "doorbell_webhook_last_accepted_timestamp_seconds"
MATCHES = "doorbell_webhook_secret_matches_total"
REFUSED = "doorbell_webhook_refused_total"
ATTEMPTS = "doorbell_job_attempts_total"
FINISHED = "doorbell_jobs_finished_total"
JOB_WAIT_S = "doorbell_job_wait_seconds"
JOB_TOOK_S = "doorbell_job_duration_seconds"
END_TO_END_S = "doorbell_end_to_end_seconds"
JOBS = "doorbell_queue_jobs"
OLDEST_S = "doorbell_queue_oldest_age_seconds"
NO_PROGRESS_S = "doorbell_queue_no_progress_seconds"
WORKERS = "doorbell_workers"
HEARTBEAT_S = "doorbell_worker_heartbeat_age_seconds"
CALLS = "doorbell_visits_api_requests_total"
CALL_S = "doorbell_visits_api_request_duration_seconds"
GATE = "doorbell_visits_api_circuit_open"
REDIS_UP = "doorbell_redis_up"
REDIS_USED = "doorbell_redis_memory_used_bytes"
REDIS_MAX = "doorbell_redis_memory_max_bytes"
REDIS_CLIENTS = "doorbell_redis_clients"
ACTIONS = "doorbell_operator_actions_total"
BUILD = "doorbell_build_info"

SIGNALS: Mapping[str, Signal] = {
    REQUESTS: _counter("Requests at the door, by what they were answered.", "source", "outcome"),
    REQUEST_S: Signal("histogram", "From the head of a request until its answer was handed over.", ("source",), QUICK),
    LAST_ACCEPTED: _gauge("When the source's newest delivery was written down.", "source"),
    MATCHES: _counter("Signatures that held, by the place of the secret in the hook's list, from 1.", "source", "slot"),
    REFUSED: _counter(
        "Requests at the door that were refused, or were from another account, by reason.", "hook", "reason"
    ),
    ATTEMPTS: _counter(
        "Runs over a visit, or over an event whose record is fetched.", "operation", "outcome", "reason"
    ),
    FINISHED: _counter("Work that came to an end, until something new is said of it.", "operation", "outcome"),
    JOB_WAIT_S: Signal("histogram", "From when a job was queued until a worker took it.", ("operation",), LONG),
    JOB_TOOK_S: Signal("histogram", "How long a worker had a job.", ("operation",), QUICK),
    END_TO_END_S: Signal("histogram", "From the delivery of a change until its visit was settled.", ("source",), LONG),
    JOBS: _gauge("Work that is not settled.", "state"),
    OLDEST_S: _gauge("How long the oldest work of that state has been overdue.", "state"),
    NO_PROGRESS_S: _gauge("For how long work has been due and none came to an end."),
    WORKERS: _gauge("Workers that gave a sign of life in the last 30 seconds."),
    HEARTBEAT_S: _gauge("Since the last sign of life of any worker."),
    CALLS: _counter("Calls to the Visits API.", "method", "route", "status"),
    CALL_S: Signal("histogram", "How long the Visits API took to answer.", ("method", "route"), QUICK),
    GATE: _gauge("1 while the account's calls to the Visits API are held back.", "account"),
    REDIS_UP: _gauge("1 if Redis answers; without it nothing else is known."),
    REDIS_USED: _gauge("Memory that Redis uses."),
    REDIS_MAX: _gauge("Memory that Redis may use; 0: not limited."),
    REDIS_CLIENTS: _gauge("Connections to Redis, whoever's they are."),
    ACTIONS: _counter("What operators did, at the console and the command line.", "action"),
    BUILD: _gauge("1; the version that answers.", "version", "revision", "python"),
}
