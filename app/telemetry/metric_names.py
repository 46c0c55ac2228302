"""Every metric of /metrics, with its help text, labels and buckets.

Labels are sources, hooks, routes and words of Doorbell, never an id, an address or a text from outside. The names do not
change, because the files in deploy/ and dashboards of operators query them.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

#: For one request or call, and for the time between a delivery and its visit.
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
DELAY_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 21_600, 86_400)


class MetricSpec(NamedTuple):
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
CONNECTION_STATE = "doorbell_connection_state"
HOOK_SILENT = "doorbell_hook_silent"
HOOK_BAD_SIGNATURES = "doorbell_hook_bad_signatures"
PAYLOAD_CHANGES = "doorbell_payload_changes"
LOST_VISITS = "doorbell_lost_visits"
REDIS_UP = "doorbell_redis_up"
REDIS_MEMORY_USED = "doorbell_redis_memory_used_bytes"
REDIS_MEMORY_MAX = "doorbell_redis_memory_max_bytes"
REDIS_CLIENTS = "doorbell_redis_clients"
OPERATOR_ACTIONS = "doorbell_operator_actions_total"
BUILD_INFO = "doorbell_build_info"

METRICS: Mapping[str, MetricSpec] = {
    REQUESTS: _counter("Webhook requests by outcome.", "source", "outcome"),
    REQUEST_DURATION_S: MetricSpec(
        "histogram", "Time from the headers of a request to its response.", ("source",), REQUEST_BUCKETS_S
    ),
    LAST_ACCEPTED: _gauge("Time when the source's newest delivery was stored.", "source"),
    SECRET_MATCHES: _counter(
        "Valid signatures by the position of the secret in the hook's list, from 1.", "source", "secret"
    ),
    REJECTIONS: _counter(
        "Rejected requests, and requests of an account that is not in TENANTS, by reason.", "hook", "reason"
    ),
    TASK_RUNS: _counter("Runs of tasks by next state and reason.", "kind", "outcome", "reason"),
    TASKS_FINISHED: _counter("Tasks that ended, done or parked. A new change starts a task again.", "kind", "outcome"),
    TASK_WAIT_S: MetricSpec(
        "histogram", "Time from queuing a job until a worker claimed it.", ("kind",), DELAY_BUCKETS_S
    ),
    RUN_DURATION_S: MetricSpec("histogram", "Duration of a run.", ("kind",), REQUEST_BUCKETS_S),
    END_TO_END_S: MetricSpec(
        "histogram", "Time from the delivery of a change until its visit is up to date.", ("source",), DELAY_BUCKETS_S
    ),
    TASKS: _gauge("Tasks that are not done.", "state"),
    OLDEST_AGE_S: _gauge("Time that the oldest task of this state has been overdue.", "state"),
    NO_PROGRESS_S: _gauge("Time during which tasks were due and no task finished."),
    WORKERS: _gauge("Workers with a heartbeat in the last 30 seconds."),
    HEARTBEAT_AGE_S: _gauge("Age of the newest heartbeat of any worker."),
    API_REQUESTS: _counter("Calls to the Visits API.", "method", "route", "status"),
    API_REQUEST_DURATION_S: MetricSpec(
        "histogram", "Response time of the Visits API.", ("method", "route"), REQUEST_BUCKETS_S
    ),
    CIRCUIT_OPEN: _gauge("1 while the circuit of the account is open, or an operator paused it.", "account"),
    CONNECTION_STATE: _gauge("1 for the present state of a hook's connection at its tool, else 0.", "hook", "state"),
    HOOK_SILENT: _gauge("1 while no webhook has arrived for longer than usual, and the tool cannot be asked.", "hook"),
    HOOK_BAD_SIGNATURES: _gauge(
        "Wrong signatures of the last ten minutes, while no verified delivery has arrived for longer than usual; else 0.",
        "hook",
    ),
    PAYLOAD_CHANGES: _gauge("Changes of a source's payloads that nobody has acknowledged.", "source"),
    LOST_VISITS: _gauge("Visits in the Visits API whose changes Redis lost at its last restart or failover."),
    REDIS_UP: _gauge("1 if Redis answers and accepts writes; if it does not answer, most other metrics are missing."),
    REDIS_MEMORY_USED: _gauge("Memory that Redis uses."),
    REDIS_MEMORY_MAX: _gauge("Memory limit of Redis; 0: no limit."),
    REDIS_CLIENTS: _gauge("Connections to Redis, including those of other programs."),
    OPERATOR_ACTIONS: _counter("Actions of operators, in the console and on the command line.", "action"),
    BUILD_INFO: _gauge("1, labeled with the running version.", "version", "revision", "python"),
}
