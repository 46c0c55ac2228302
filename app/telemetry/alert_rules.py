"""The alerts: the condition, the message and the fix of each.

`make docs` generates deploy/alerts.yaml and the alerts of docs/runbook.md from this module.
AlertMonitor posts the alerts that have a key.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.ledger.connection_states import BROKEN
from app.telemetry import metric_names as metrics
from app.telemetry.health import STALE_AFTER_S, STALLED_AFTER_S

#: Counts are compared over this period.
WINDOW_S = 600.0
#: Wrong signatures in this period. Scanners send no signature, or send wrong ones while verified deliveries arrive.
MIN_BAD_SIGNATURES = 3
FULL_FRACTION = 0.8
#: Short outages and rate limits end by themselves.
STOPPED_AFTER_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A rule of Prometheus, and a message to ALERT_WEBHOOK_URL.

    message: its fields are `count` and the label of the expression. for_min: how long the expression must be true. command,
    output, fix: the first steps of an operator. key: its name in `bell:alerts`; "" if only Prometheus has it.
    """

    name: str
    message: str
    expr: str
    command: str
    output: str
    fix: str
    severity: Literal["warning", "critical"] = "warning"
    for_min: int = 0
    key: str = ""

    def text(self, **fields: Any) -> str:
        return self.message.format(**fields)


_WINDOW = f"{WINDOW_S / 60:.0f}m"
_PARKED = f'{metrics.TASKS}{{state="parked"}}'

BAD_SIGNATURES = Alert(
    key="signatures",
    name="DoorbellBadSignatures",
    message="{hook}: {count} requests had a wrong signature, and no verified delivery arrived in that time. "
    "Did its secret change?",
    expr=f"max by (cell, hook) ({metrics.HOOK_BAD_SIGNATURES}) >= {MIN_BAD_SIGNATURES}",
    command="doorbell rejections --hook HOOK",
    output="`signature_mismatch` and its likely cause",
    fix="If the secret changed at the tool, set both, the new one and the old one, separated by a space.",
)
OLD_TASK = Alert(
    key="oldest",
    name="DoorbellTasksWait",
    message=f"The oldest task that is due has waited for more than {STALE_AFTER_S:.0f} seconds.",
    expr=f'max by (cell, state) ({metrics.OLDEST_AGE_S}{{state!="held"}}) > {STALE_AFTER_S:.0f}',
    for_min=1,
    command="doorbell overview",
    output="the number of tasks in each state, and every live worker",
    fix="Start more workers. If a worker is missing, its log says why.",
)
NO_PROGRESS = Alert(
    key="progress",
    name="DoorbellNoProgress",
    severity="critical",
    message=f"Tasks are due, and no task has finished for {STALLED_AFTER_S:.0f} seconds.",
    expr=f"max by (cell) ({metrics.NO_PROGRESS_S}) > {STALLED_AFTER_S:.0f}",
    command="doorbell doctor",
    output="`progress` fails, and every other check that fails, with its fix",
    fix="Fix the failing checks. If only `progress` and `queue` fail, restart the workers.",
)
STOPPED_CALLS = Alert(
    key="circuit",
    name="DoorbellCallsStopped",
    message=f"Calls for the account {{account}} have been stopped for more than {STOPPED_AFTER_S / 60:.0f} minutes: the API "
    "is down, rejects the token or limits the rate, or an operator paused the account.",
    expr=f"max by (cell, account) ({metrics.CIRCUIT_OPEN}) == 1",
    for_min=round(STOPPED_AFTER_S / 60),
    command="doorbell overview",
    output="the cause, and how many changes wait",
    fix="Set a valid token, wait for the API, or run `doorbell resume HOOK` with any hook of the account. If the API "
    "limits the rate again and again, set VISITS_API_RATE.",
)
FAILURES = Alert(
    key="parked",
    name="DoorbellFailures",
    message="New failures in the last ten minutes: {count}.",
    expr=f"max by (cell) ({_PARKED}) - min by (cell) (min_over_time({_PARKED}[{_WINDOW}])) > 0",
    command="doorbell failures",
    output="the parked tasks with their reasons",
    fix="The message and `doorbell show ID` show the fix.",
)
SILENT_HOOK = Alert(
    key="silent",
    name="DoorbellSilentHook",
    message="{hook} has been silent for longer than usual.",
    expr=f"max by (cell, hook) ({metrics.HOOK_SILENT}) == 1",
    command="doorbell deliveries --hook HOOK",
    output="its last deliveries and their times",
    fix="Check whether the webhook is still enabled at the tool; `doorbell sources NAME` says where.",
)
LOST_CONNECTION = Alert(
    key="connection",
    name="DoorbellLostConnection",
    severity="critical",
    message="{hook} is no longer connected to its tool: {state}.",
    expr=f'max by (cell, hook, state) ({metrics.CONNECTION_STATE}{{state=~"{"|".join(BROKEN)}"}}) == 1',
    command="doorbell connections",
    output="the hook with its state and the tool's answer",
    fix="`doorbell doctor` shows the fix. If Doorbell made the subscription and the tool does not answer, it tries again "
    "every minute.",
)
DEGRADED_CONNECTION = Alert(
    key="degraded",
    name="DoorbellDegradedConnection",
    message="The webhooks of {hook} fail.",
    expr=f"""
max by (cell, hook) ({metrics.CONNECTION_STATE}{{state="degraded"}}) == 1
unless on (cell, hook) max by (cell, hook) ({metrics.HOOK_SILENT}) == 1""",
    command="doorbell connections",
    output="the hook with what the tool reports",
    fix="Check that PUBLIC_URL reaches this Doorbell; `doorbell rejections --hook HOOK` has the rejected requests.",
)
NO_WORKER = Alert(
    key="workers",
    name="DoorbellNoWorker",
    severity="critical",
    message="No worker is running. Deliveries are accepted and wait.",
    expr=f"max by (cell) ({metrics.WORKERS}) == 0",
    for_min=1,
    command="doorbell doctor",
    output="`worker` fails",
    fix="Start a worker. The log of the last one says why it ended.",
)
PAYLOAD_CHANGED = Alert(
    key="payload",
    name="DoorbellPayloadChanged",
    message="{source} changed its payloads. Unacknowledged changes: {count}.",
    expr=f"max by (cell, source) ({metrics.PAYLOAD_CHANGES}) > 0",
    command="doorbell drift",
    output="the new fields and words, and the missing fields, each with a delivery",
    fix="Check the delivery. If the module must handle the change, `doorbell keep` makes a specimen of it. Then "
    "`doorbell drift SOURCE --acknowledge`.",
)
LOST_VISITS = Alert(
    key="lost",
    name="DoorbellLostVisits",
    message="Redis lost its newest writes when it restarted or failed over: {count} visits are in Review Rover, and their "
    "changes are not stored.",
    expr=f"max by (cell) ({metrics.LOST_VISITS}) > 0",
    command="doorbell doctor",
    output="a warning of `redis.losses`, with the visits",
    fix="Send these visits again from their tools, or run `doorbell catch-up HOOK`. `ACK=replica` prevents the loss.",
)
REDIS_FULL = Alert(
    key="memory",
    name="DoorbellRedisFull",
    message=f"Redis is more than {FULL_FRACTION:.0%} full. When it is full, tools get 503.",
    expr=f"max by (cell) ({metrics.REDIS_MEMORY_USED}) / (max by (cell) ({metrics.REDIS_MEMORY_MAX}) > 0) > {FULL_FRACTION}",
    command="doorbell doctor",
    output="a warning of `redis.memory`, which fails above 90%, with the used and the available memory",
    fix="Use a larger plan, or a lower RETENTION_DAYS.",
)
REDIS_DOWN = Alert(
    name="DoorbellRedisDown",
    severity="critical",
    message="Redis does not answer, or accepts no writes. Tools get 503, and most retry.",
    expr=f"min by (cell) ({metrics.REDIS_UP}) == 0",
    for_min=1,
    command="doorbell doctor",
    output="`redis` is down, with the error (exit status 4), or `redis.writes` fails (exit status 3)",
    fix="Start Redis, or correct REDIS_URL; if it accepts no writes, `redis.writes` shows the fix.",
)

ALERTS = (
    BAD_SIGNATURES,
    OLD_TASK,
    NO_PROGRESS,
    STOPPED_CALLS,
    FAILURES,
    SILENT_HOOK,
    LOST_CONNECTION,
    DEGRADED_CONNECTION,
    NO_WORKER,
    PAYLOAD_CHANGED,
    LOST_VISITS,
    REDIS_FULL,
    REDIS_DOWN,
)

_ROOT = Path(__file__).parents[2]
_RULES, _RUNBOOK = _ROOT / "deploy" / "alerts.yaml", _ROOT / "docs" / "runbook.md"
_BEGIN, _END = "<!-- generated by `make docs`: begin -->\n", "<!-- end -->\n"


def rules_file() -> str:
    """Return deploy/alerts.yaml."""
    rules = "".join(line for alert in ALERTS for line in _rule(alert))
    return f"""# Alert rules for Prometheus, generated by `make docs`.
# Every process reports the same numbers, so `max` combines them: one alert, not one for each process.
groups:
  - name: doorbell
    rules:
{rules}"""


def _rule(alert: Alert) -> Iterator[str]:
    yield f"      - alert: {alert.name}\n"
    if alert.expr.startswith("\n"):
        yield "        expr: |" + alert.expr.replace("\n", "\n          ") + "\n"
    else:
        yield f"        expr: {alert.expr}\n"
    if alert.for_min:
        yield f"        for: {alert.for_min}m\n"
    yield f"        labels: {{severity: {alert.severity}}}\n"
    yield "        annotations:\n"
    yield f"          summary: {json.dumps(_template(alert.message))}\n"
    yield f"          description: {json.dumps(f'Run `{alert.command}`. {alert.fix}')}\n"


def _template(message: str) -> str:
    """Replace the fields of a message with Prometheus' templates."""
    message = message.replace("{count}", '{{ $value | printf "%.0f" }}')
    return re.sub(r"\{(hook|source|state|account)\}", r"{{ $labels.\1 }}", message)


def update_runbook(page: str) -> str:
    """Return the runbook with the current table of alerts."""
    before, _, old = page.partition(_BEGIN)
    _, _, after = old.partition(_END)
    return before + _BEGIN + "\n".join(_table()) + "\n" + _END + after


def _table() -> Iterator[str]:
    yield "| alert | Prometheus alert | command | output | fix |"
    yield "| --- | --- | --- | --- | --- |"
    for alert in ALERTS:
        message = re.sub(r"\{(\w+)\}", lambda match: "3" if match[1] == "count" else match[1].upper(), alert.message)
        name = f"`{alert.name}`" if alert.key else f"`{alert.name}` (Prometheus only)"
        yield f"| {message} | {name} | `{alert.command}` | {alert.output} | {alert.fix} |"


if __name__ == "__main__":
    _RULES.write_text(rules_file(), encoding="utf-8")
    _RUNBOOK.write_text(update_runbook(_RUNBOOK.read_text(encoding="utf-8")), encoding="utf-8")
