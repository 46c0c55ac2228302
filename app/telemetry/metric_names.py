"""What is measured: every name of /metrics, with what it means, its labels, and the buckets of those that are spread.

Labels are sources, hooks, routes and words of ours: never an id, an address or a text from outside. The names stay: what
stands in deploy/ and on other people's dashboards asks for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: In seconds. Of one request or call; and of everything between a delivery and its visit.
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
DELAY_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 21_600, 86_400)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(help: str, *labels: str) -> MetricSpec:
    return MetricSpec("counter", help, labels)


def _gauge(help: str, *labels: str) -> MetricSpec:
    return MetricSpec("gauge", help, labels)


REQUESTS = "doorbell_webhook_requests_total"
REQUEST_DURATION_S = "doorbell_webhook_request_duration_seconds"
LAST_ACCEPTED = "doorbell_webhook_last_accepted_timestamp_seconds"
SECRET_MATCHES = "doorbell_webhook_secret_matches_total"
REJECTIONS = "doorbell_webhook_rejections_total"
TASK_RUNS = "doorbell_task_runs_total"
TASKS_FINISHED = "doorbell_tasks_finished_total"
TASK_WAIT_S = "doorbell_task_wait_seconds"
RUN_DURATION_S = "doorbell_run_duration_seconds"
END_TO_END_S = "doorbell_end_to_end_seconds"
TASKS = "doorbell_tasks"
OLDEST_AGE_S = "doorbell_queue_oldest_age_seconds"
NO_PROGRESS_S = "doorbell_queue_no_progress_seconds"
WORKERS = "doorbell_workers"
HEARTBEAT_AGE_S = "doorbell_worker_heartbeat_age_seconds"
API_REQUESTS = "doorbell_visits_api_requests_total"
API_REQUEST_DURATION_S = "doorbell_visits_api_request_duration_seconds"
CIRCUIT_OPEN = "doorbell_visits_api_circuit_open"
REDIS_UP = "doorbell_redis_up"
REDIS_MEMORY_USED = "doorbell_redis_memory_used_bytes"
REDIS_MEMORY_MAX = "doorbell_redis_memory_max_bytes"
REDIS_CLIENTS = "doorbell_redis_clients"
OPERATOR_ACTIONS = "doorbell_operator_actions_total"
BUILD_INFO = "doorbell_build_info"

METRICS: Mapping[str, MetricSpec] = {
    REQUESTS: _counter("Requests at the door, by what they were answered.", "source", "outcome"),
    REQUEST_DURATION_S: MetricSpec(
        "histogram", "From the head of a request until its answer was handed over.", ("source",), REQUEST_BUCKETS_S
    ),
    LAST_ACCEPTED: _gauge("When the source's newest delivery was written down.", "source"),
    SECRET_MATCHES: _counter(
        "Signatures that held, by the place of the secret in the hook's list, from 1.", "source", "secret"
    ),
    REJECTIONS: _counter(
        "Requests at the door that were refused, or were from another account, by reason.", "hook", "reason"
    ),
    TASK_RUNS: _counter("Runs over a visit, or over an event whose record is fetched.", "kind", "outcome", "reason"),
    TASKS_FINISHED: _counter("Work that came to an end, until something new is said of it.", "kind", "outcome"),
    TASK_WAIT_S: MetricSpec(
        "histogram", "From when a job was queued until a worker took it.", ("kind",), DELAY_BUCKETS_S
    ),
    RUN_DURATION_S: MetricSpec("histogram", "How long a worker had a job.", ("kind",), REQUEST_BUCKETS_S),
    END_TO_END_S: MetricSpec(
        "histogram", "Time from the delivery of a change until its visit is up to date.", ("source",), DELAY_BUCKETS_S
    ),
    TASKS: _gauge("Tasks that are not done.", "state"),
    OLDEST_AGE_S: _gauge("How long the oldest work of that state has been overdue.", "state"),
    NO_PROGRESS_S: _gauge("For how long work has been due and none came to an end."),
    WORKERS: _gauge("Workers that gave a sign of life in the last 30 seconds."),
    HEARTBEAT_AGE_S: _gauge("Since the last sign of life of any worker."),
    API_REQUESTS: _counter("Calls to the Visits API.", "method", "route", "status"),
    API_REQUEST_DURATION_S: MetricSpec(
        "histogram", "How long the Visits API took to answer.", ("method", "route"), REQUEST_BUCKETS_S
    ),
    CIRCUIT_OPEN: _gauge("1 while the account's calls to the Visits API are held back.", "account"),
    REDIS_UP: _gauge("1 if Redis answers; without it nothing else is known."),
    REDIS_MEMORY_USED: _gauge("Memory that Redis uses."),
    REDIS_MEMORY_MAX: _gauge("Memory that Redis may use; 0: not limited."),
    REDIS_CLIENTS: _gauge("All connections to Redis, also of other programs."),
    OPERATOR_ACTIONS: _counter("What operators did, at the console and the command line.", "action"),
    BUILD_INFO: _gauge("1; the version that answers.", "version", "revision", "python"),
}
