"""Every kind of key that Doorbell writes to Redis, and how long it is kept."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

#: The hash of a task: this and its name, `visit:<account>/<external_id>` or `event:<delivery>`.
TASK = "bell:"
#: The tasks in a state, sorted: this and the state.
STATE = "bell:"
DELIVERY, DELIVERIES, HOOKS = "bell:delivery:", "bell:deliveries:", "bell:hooks"
QUEUED, RUNNING, WAITING, DISCARDED = f"{STATE}queued", f"{STATE}running", f"{STATE}waiting", f"{STATE}discarded"
HELD, HELD_BY_AGE, ACCOUNTS = f"{STATE}held:", "bell:held-by-age:", "bell:accounts"
#: The jobs of a queue, sorted by when they are due: this and visits, events or replays; and what arq reads of one.
QUEUE, JOB = "bell:queue:", "arq:job:"
CIRCUIT, CIRCUITS, ANSWERS, RATE = "bell:circuit:", "bell:circuits", "bell:answers:", "bell:rate:"
ALONE, LAST_DONE, METRICS = "bell:alone", "bell:last-done", "bell:metrics"
WORKERS, PEOPLE, ATTEMPTS_CHANNEL = "bell:workers", "bell:people:", "bell:attempts"

#: The ids of replays and discards, and for how long they are kept.
OPERATIONS_KEY, OPERATIONS_TTL_S = "bell:operations", 90 * 86_400

#: How a key ends. `expires`: it always has a time to live. `settled`: it has one unless its work is still to be done.
#: `members`: it stays, and what is in it goes: with the work, or by the job below. `one`: it stays, one for each hook,
#: account or Doorbell, says nothing about anybody, and does not grow.
End = Literal["expires", "settled", "members", "one"]


@dataclass(frozen=True, slots=True)
class KeyKind:
    """Keys of one pattern: what they hold, and until when, as an operator reads it."""

    pattern: str
    end: End
    holds: str
    lifetime: str


_LATER = "RETENTION_DAYS after it was settled; a visit ahead, after its date (two years at most); never while unsettled"
_RETENTION, _WORK = "RETENTION_DAYS", "it leaves the state"
_SECONDS, _ALWAYS = "seconds, or a minute at the most", "always: it names nobody"

#: The first pattern that fits is the key's kind.
KEY_KINDS = (
    KeyKind("bell:delivery:*", "settled", "a delivery: its body, and the headers that its source needs", _LATER),
    KeyKind("bell:visit:*", "settled", "a visit: its facts with contact, attempts, the API's last answer", _LATER),
    KeyKind("bell:event:*", "settled", "an event that is fetched or translated anew: its attempts", _LATER),
    KeyKind("bell:deliveries:*", "members", "the ids of each hook's deliveries", _RETENTION),
    KeyKind("bell:hooks", "one", "where anybody ever rang", _ALWAYS),
    KeyKind(
        "bell:dedup:*",
        "expires",
        "the digest of an event, by which a repeat is known",
        "8 days; 400 for Cronofy",
    ),
    KeyKind("bell:people:*", "expires", "the tool's ids of the people in a booking", "2 years after its last record"),
    KeyKind(
        "bell:contact-index:*",
        "expires",
        "the keyed digest of an address or number, and its visits",
        _LATER,
    ),
    KeyKind("bell:contact:*:lock", "expires", "who makes a contact", _SECONDS),
    KeyKind(
        "bell:contact:*", "expires", "the keyed digest of an address, and Review Rover's id of the contact", "30 days"
    ),
    KeyKind("bell:record:*", "expires", "a record that a tool was asked for", "30 seconds"),
    KeyKind("bell:retry-after:*", "expires", "that a hook's tool asked to wait", "5 minutes at the most"),
    KeyKind("bell:token:*:lock", "expires", "who gets a token", _SECONDS),
    KeyKind("bell:token:*", "one", "a hook's access token, sealed", "it is replaced"),
    KeyKind("bell:queue:visits:health-check", "expires", "arq's sign of life", _SECONDS),
    KeyKind("bell:queue:*", "members", "names of work to be done, in lanes", "it is done"),
    KeyKind("arq:job:*", "expires", "a job: the name of its work", "it is done, 30 days at the most"),
    KeyKind("bell:queued", "members", "names of work, by state", _WORK),
    KeyKind("bell:running", "members", "names of work, by state", _WORK),
    KeyKind("bell:waiting", "members", "names of work, by state", _WORK),
    KeyKind("bell:held:*", "members", "names of work, by state", _WORK),
    KeyKind("bell:parked", "members", "names of work, by state", "an operator acts, however long that is"),
    KeyKind("bell:discarded", "members", "names of work, by state", _RETENTION),
    KeyKind("bell:held-by-age:*", "members", "names of held work, by age", _WORK),
    KeyKind("bell:alone", "expires", "when the next task that crashes workers may run alone", "1 hour"),
    KeyKind(
        "bell:answers:*",
        "expires",
        "whether the API's newest 20 answers were failures, and of which visits",
        "1 minute",
    ),
    KeyKind("bell:circuit:*", "one", "why nothing goes to an account", "the API answers, or an operator resumes it"),
    KeyKind("bell:accounts", "one", "accounts that ever had work held or parked", _ALWAYS),
    KeyKind("bell:circuits", "one", "accounts that ever met trouble", _ALWAYS),
    KeyKind("bell:rate:*", "expires", "an account's line for calls", _SECONDS),
    KeyKind("bell:last-done", "one", "when work last came to an end", _ALWAYS),
    KeyKind("bell:cleanup", "expires", "that this was looked after", "1 hour"),
    KeyKind("bell:worker:*", "expires", "a worker's sign of life", "30 seconds"),
    KeyKind("bell:workers", "members", "the workers that live", "30 seconds"),
    KeyKind("bell:hourly:*", "expires", "counts of an hour", "8 days"),
    KeyKind("bell:metrics", "one", "counts for /metrics", _ALWAYS),
    KeyKind("bell:alerts:lock", "expires", "who looks whether to alarm", _SECONDS),
    KeyKind("bell:alerts", "expires", "which alarms are on, and the counts of ten minutes", "7 days"),
    KeyKind("bell:request-index:*", "expires", "the digest of a request id, and its delivery", _RETENTION),
    KeyKind("bell:secret-used:*", "expires", "when each secret of a hook last matched", "1 year after that"),
    KeyKind(
        "bell:rejections:*:*",
        "expires",
        "the newest 50 of a hook without a signature, and of other accounts",
        "30 days without one",
    ),
    KeyKind(
        "bell:rejections:*",
        "expires",
        "the newest 50 refusals of a hook: reason and time",
        "30 days without another one",
    ),
    KeyKind("bell:rejections", "one", "counts of refusals, and of events from other accounts", _ALWAYS),
    KeyKind("bell:audit:*", "expires", "how far an audit is", "7 days, or its end"),
    KeyKind("bell:activity", "members", "who did what at the desk", "the newest 10,000 lines"),
    KeyKind("bell:operation:*:lock", "expires", "who carries an operation out", _SECONDS),
    KeyKind("bell:operation:*", "expires", "an operation: what was said, by whom, what came of it", "90 days"),
    KeyKind("bell:operations:open", "members", "operations that are not over", "they are over"),
    KeyKind("bell:operations", "members", "the newest 500 operations", "90 days"),
    KeyKind("bell:session:*", "expires", "who is logged in at the desk", "12 hours"),
    KeyKind("bell:sessions", "expires", "the ids of the sessions, so that all can be ended", "12 hours"),
    KeyKind(
        "bell:login-attempts*",
        "expires",
        "how often a password was tried, by the digest of where; its line in the log",
        "15 minutes",
    ),
)


def kind_of(key: str) -> KeyKind | None:
    return next((kind for kind in KEY_KINDS if fnmatchcase(key, kind.pattern)), None)
