"""Every key that Doorbell writes to Redis, how long it is kept, and the prefixes that build it."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

#: The hash of a task: this and its name, `visit:<account>/<external_id>` or `event:<delivery>`.
TASK = "bell:"
#: The tasks in a state, sorted: this and the state.
STATE = "bell:"
DELIVERY, DELIVERIES, HOOKS = "bell:delivery:", "bell:deliveries:", "bell:hooks"
QUEUED, RUNNING, WAITING, DISCARDED = f"{STATE}queued", f"{STATE}running", f"{STATE}waiting", f"{STATE}discarded"
PARKED = f"{STATE}parked"
HELD, HELD_BY_AGE, ACCOUNTS = f"{STATE}held:", "bell:held-by-age:", "bell:accounts"
#: The jobs of a queue, sorted by when they are due: this and visits, events or replays; and what arq reads of one.
QUEUE, JOB = "bell:queue:", "arq:job:"
#: The queue that arq itself knows.
VISITS_QUEUE = f"{QUEUE}visits"
CIRCUIT, CIRCUITS, ANSWERS, RATE = "bell:circuit:", "bell:circuits", "bell:answers:", "bell:rate:"
ALONE, LAST_DONE, METRICS = "bell:alone", "bell:last-done", "bell:metrics"
WORKERS, PEOPLE, ATTEMPTS_CHANNEL = "bell:workers", "bell:people:", "bell:attempts"

SESSION, SESSIONS = "bell:session:", "bell:sessions"
#: Counts the log-in attempts of all strangers; this, a colon and a digest count those of one client.
LOGIN_ATTEMPTS = "bell:login-attempts"

#: Keys that only Python uses.
CONTACT = "bell:contact:"
CONTACT_INDEX = "bell:contact-index:"
RECORD = "bell:record:"
RETRY_AFTER = "bell:retry-after:"
TOKEN = "bell:token:"
WORKER = "bell:worker:"
HOURLY = "bell:hourly:"
SECRET_USED = "bell:secret-used:"
REQUEST_INDEX = "bell:request-index:"
ALERTS = "bell:alerts"
ALERTS_LOCK = "bell:alerts:lock"
REJECTIONS = "bell:rejections"
REJECTION_LIST = "bell:rejections:"
AUDIT = "bell:audit:"
ACTIVITY = "bell:activity"
OPERATION = "bell:operation:"
OPEN_OPERATIONS = "bell:operations:open"
DEDUP = "bell:dedup:"
CLEANUP = "bell:cleanup"

#: Keys that only Python uses.


#: The ids of replays and discards, and for how long they are kept.
OPERATIONS_KEY, OPERATIONS_TTL_S = "bell:operations", 90 * 86_400

#: `expires`: the key always has a time to live. `task`: it has one once its task is done. `members`: the key stays, and its
#: members are removed. `permanent`: one key for each hook, each account, or in all; it names no person and does not grow.
Expiry = Literal["expires", "task", "members", "permanent"]


@dataclass(frozen=True, slots=True)
class KeyKind:
    """Keys of one pattern, as an operator reads about them."""

    pattern: str
    expiry: Expiry
    holds: str
    kept_until: str


_DELIVERY = (
    "RETENTION_DAYS after it arrived; an event that is fetched or translated again, after it was done, never before"
)
_TASK = "RETENTION_DAYS after it was done, a future visit after its date (two years at most); never before"
_RETENTION, _STATE, _SHORT, _ALWAYS = "RETENTION_DAYS", "the state changes", "a minute at most", "always"

#: The first pattern that matches is the kind of a key.
KEY_KINDS = (
    KeyKind("bell:delivery:*", "task", "a delivery: its body, and the headers that its source needs", _DELIVERY),
    KeyKind("bell:visit:*", "task", "a visit: its changes with contact, its attempts, the API's last answer", _TASK),
    KeyKind("bell:event:*", "task", "an event that is fetched or translated again: its attempts", _TASK),
    KeyKind("bell:deliveries:*", "members", "the ids of the deliveries of a hook", _RETENTION),
    KeyKind("bell:hooks", "permanent", "the hooks that ever received a delivery", _ALWAYS),
    KeyKind("bell:dedup:*", "expires", "the digest of an event, to recognise a repeat", "8 days; 400 for Cronofy"),
    KeyKind("bell:people:*", "expires", "the tool's ids of the people in a booking", "2 years after its last record"),
    KeyKind("bell:contact-index:*", "expires", "the keyed digest of an address or number, and its visits", _TASK),
    KeyKind("bell:contact:*:lock", "expires", "which worker creates a contact", _SHORT),
    KeyKind("bell:contact:*", "expires", "the keyed digest of an address, and the id of its contact", "30 days"),
    KeyKind("bell:record:*", "expires", "a record that was fetched from a tool", "30 seconds"),
    KeyKind("bell:retry-after:*", "expires", "the pause that the tool of a hook asked for", "5 minutes at most"),
    KeyKind("bell:token:*:lock", "expires", "which worker exchanges a token", _SHORT),
    KeyKind("bell:token:*", "permanent", "the access token of a hook, encrypted", "it is replaced"),
    KeyKind("bell:queue:visits:health-check", "expires", "the health check of arq", _SHORT),
    KeyKind("bell:queue:*", "members", "the jobs of a queue, by the time at which they are due", "they are done"),
    KeyKind("arq:job:*", "expires", "a job: the name of its task", "it is done; 30 days at most"),
    KeyKind("bell:queued", "members", "tasks by state", _STATE),
    KeyKind("bell:running", "members", "tasks by state", _STATE),
    KeyKind("bell:waiting", "members", "tasks by state", _STATE),
    KeyKind("bell:held:*", "members", "tasks by state", _STATE),
    KeyKind("bell:parked", "members", "tasks by state", "an operator acts, however long that takes"),
    KeyKind("bell:discarded", "members", "tasks by state", _RETENTION),
    KeyKind("bell:held-by-age:*", "members", "held tasks by age", _STATE),
    KeyKind("bell:alone", "expires", "when the next task that may crash workers runs alone", "1 hour"),
    KeyKind(
        "bell:answers:*", "expires", "which of the API's newest 20 answers were failures, with their tasks", "1 minute"
    ),
    KeyKind("bell:circuit:*", "permanent", "an open circuit: why, and until when", "the API answers, or a resume"),
    KeyKind("bell:accounts", "permanent", "the accounts that ever had held or parked tasks", _ALWAYS),
    KeyKind("bell:circuits", "permanent", "the accounts whose circuit was ever open", _ALWAYS),
    KeyKind("bell:rate:*", "expires", "the next free slot for a call of an account", _SHORT),
    KeyKind("bell:last-done", "permanent", "when a task was last done", _ALWAYS),
    KeyKind("bell:cleanup", "expires", "that old members were removed", "1 hour"),
    KeyKind("bell:worker:*", "expires", "the heartbeat of a worker", "30 seconds"),
    KeyKind("bell:workers", "members", "the live workers", "30 seconds"),
    KeyKind("bell:hourly:*", "expires", "counters of one hour", "8 days"),
    KeyKind("bell:metrics", "permanent", "counters for /metrics", _ALWAYS),
    KeyKind("bell:alerts:lock", "expires", "which process checks for alerts", _SHORT),
    KeyKind("bell:alerts", "expires", "the active alerts, and the counts of ten minutes", "7 days"),
    KeyKind("bell:request-index:*", "expires", "the digest of a request id, and its delivery", _RETENTION),
    KeyKind("bell:secret-used:*", "expires", "when each secret of a hook last matched", "1 year after that"),
    KeyKind(
        "bell:rejections:*:*",
        "expires",
        "the newest 50 unsigned ones, and of other accounts",
        "30 days after the last",
    ),
    KeyKind(
        "bell:rejections:*", "expires", "the newest 50 rejections of a hook: reason and time", "30 days after the last"
    ),
    KeyKind("bell:rejections", "permanent", "counters of rejections, and of events from other accounts", _ALWAYS),
    KeyKind("bell:audit:*", "expires", "the progress of an audit", "7 days, or its end"),
    KeyKind("bell:activity", "members", "what operators did", "the newest 10,000 lines"),
    KeyKind("bell:operation:*:lock", "expires", "which worker runs an operation", _SHORT),
    KeyKind(
        "bell:operation:*:results", "expires", "results of an operation, for the command that follows it", "1 hour"
    ),
    KeyKind("bell:operation:*", "expires", "an operation: its order, its operator, its result", "90 days"),
    KeyKind("bell:operations:open", "members", "unfinished operations", "they are finished"),
    KeyKind("bell:operations", "members", "the newest 500 operations", "90 days"),
    KeyKind("bell:session:*", "expires", "a session of the console", "12 hours"),
    KeyKind("bell:sessions", "expires", "the ids of all sessions, to end them", "12 hours"),
    KeyKind("bell:login-attempts*", "expires", "failed log-ins, by the digest of their origin", "15 minutes"),
)


def kind_of(key: str) -> KeyKind | None:
    return next((kind for kind in KEY_KINDS if fnmatchcase(key, kind.pattern)), None)
