"""What Doorbell writes to Redis, and until when it is kept: every kind of key, and the job that ends what does not end by
itself."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from app.ledger.ledger import Ledger

#: The hash of a task: this and its name, `visit:<account>/<external_id>` or `event:<delivery>`.
TASK = "db:"
#: The tasks in a state, sorted: this and the state.
STATE = "db:"
DELIVERY, DELIVERIES, HOOKS = "db:delivery:", "db:deliveries:", "db:hooks"
QUEUED, RUNNING, WAITING, DISCARDED = f"{STATE}queued", f"{STATE}running", f"{STATE}waiting", f"{STATE}discarded"
HELD, HELD_BY_AGE, ACCOUNTS = f"{STATE}held:", "db:ages:", "db:accounts"
#: The jobs of a queue, sorted by when they are due: this and visits, events or replays; and what arq reads of one.
QUEUE, JOB = "bell:queue:", "arq:job:"
CIRCUIT, CIRCUITS, ANSWERS, RATE = "db:gate:", "db:gates", "db:answers:", "db:pace:"
ALONE, LAST_DONE, METRICS = "db:alone", "db:progress", "db:counts"
WORKERS, PEOPLE, ATTEMPTS_CHANNEL = "db:workers", "db:people:", "db:attempts"

#: The ids of replays and discards, and for how long they are kept.
OPERATIONS_KEY, OPERATIONS_TTL_S = "db:operations", 90 * 86_400

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
    KeyKind("db:delivery:*", "settled", "a delivery: its body, and the headers that its source needs", _LATER),
    KeyKind("db:visit:*", "settled", "a visit: its facts with contact, attempts, the API's last answer", _LATER),
    KeyKind("db:event:*", "settled", "an event that is fetched or translated anew: its attempts", _LATER),
    KeyKind("db:deliveries:*", "members", "the ids of each hook's deliveries", _RETENTION),
    KeyKind("db:hooks", "one", "where anybody ever rang", _ALWAYS),
    KeyKind(
        "db:seen:*",
        "expires",
        "the digest of an event, by which a repeat is known",
        "8 days; 400 for Cronofy",
    ),
    KeyKind("db:people:*", "expires", "the tool's ids of the people in a booking", "2 years after its last record"),
    KeyKind("db:find:*", "expires", "the keyed digest of an address or number, and the names of its visits", _LATER),
    KeyKind("db:contact:*:lock", "expires", "who makes a contact", _SECONDS),
    KeyKind(
        "db:contact:*", "expires", "the keyed digest of an address, and Review Rover's id of the contact", "30 days"
    ),
    KeyKind("db:record:*", "expires", "a record that a tool was asked for", "30 seconds"),
    KeyKind("db:pause:*", "expires", "that a hook's tool asked to wait", "5 minutes at the most"),
    KeyKind("db:token:*:lock", "expires", "who gets a token", _SECONDS),
    KeyKind("db:token:*", "one", "a hook's access token, sealed", "it is replaced"),
    KeyKind("db:jobs:health-check", "expires", "arq's sign of life", _SECONDS),
    KeyKind("db:jobs*", "members", "names of work to be done, in lanes", "it is done"),
    KeyKind("arq:job:*", "expires", "a job: the name of its work", "it is done, 30 days at the most"),
    KeyKind("db:queued", "members", "names of work, by state", _WORK),
    KeyKind("db:running", "members", "names of work, by state", _WORK),
    KeyKind("db:waiting", "members", "names of work, by state", _WORK),
    KeyKind("db:held:*", "members", "names of work, by state", _WORK),
    KeyKind("db:parked", "members", "names of work, by state", "an operator acts, however long that is"),
    KeyKind("db:discarded", "members", "names of work, by state", _RETENTION),
    KeyKind("db:ages:*", "members", "names of held work, by age", _WORK),
    KeyKind(
        "db:answers:*", "expires", "whether the API's newest 20 answers were failures, and of which visits", "1 minute"
    ),
    KeyKind("db:gate:*", "one", "why nothing goes to an account", "the API answers, or an operator resumes it"),
    KeyKind("db:accounts", "one", "accounts that ever had work held or parked", _ALWAYS),
    KeyKind("db:gates", "one", "accounts that ever met trouble", _ALWAYS),
    KeyKind("db:pace:*", "expires", "an account's line for calls", _SECONDS),
    KeyKind("db:progress", "one", "when work last came to an end", _ALWAYS),
    KeyKind("db:tidied", "expires", "that this was looked after", "1 hour"),
    KeyKind("db:worker:*", "expires", "a worker's sign of life", "30 seconds"),
    KeyKind("db:workers", "members", "the workers that live", "30 seconds"),
    KeyKind("db:hour:*", "expires", "counts of an hour", "8 days"),
    KeyKind("db:counts", "one", "counts for /metrics", _ALWAYS),
    KeyKind("db:alarms:lock", "expires", "who looks whether to alarm", _SECONDS),
    KeyKind("db:alarms", "expires", "which alarms are on, and the counts of ten minutes", "7 days"),
    KeyKind("db:request:*", "expires", "the digest of a request id, and its delivery", _RETENTION),
    KeyKind("db:matched:*", "expires", "when each secret of a hook last matched", "1 year after that"),
    KeyKind(
        "db:refused:*:*",
        "expires",
        "the newest 50 of a hook without a signature, and of other accounts",
        "30 days without one",
    ),
    KeyKind(
        "db:refused:*", "expires", "the newest 50 refusals of a hook: reason and time", "30 days without another one"
    ),
    KeyKind("db:refused", "one", "counts of refusals, and of events from other accounts", _ALWAYS),
    KeyKind("db:audit:*", "expires", "how far an audit is", "7 days, or its end"),
    KeyKind("db:audit-log", "members", "who did what at the desk", "the newest 10,000 lines"),
    KeyKind("db:operation:*:lock", "expires", "who carries an operation out", _SECONDS),
    KeyKind("db:operation:*", "expires", "an operation: what was said, by whom, what came of it", "90 days"),
    KeyKind("db:operations:open", "members", "operations that are not over", "they are over"),
    KeyKind("db:operations", "members", "the newest 500 operations", "90 days"),
    KeyKind("db:session:*", "expires", "who is logged in at the desk", "12 hours"),
    KeyKind("db:sessions", "expires", "the ids of the sessions, so that all can be ended", "12 hours"),
    KeyKind(
        "db:login-attempts*",
        "expires",
        "how often a password was tried, by the digest of where; its line in the log",
        "15 minutes",
    ),
)


def kind_of(key: str) -> KeyKind | None:
    return next((kind for kind in KEY_KINDS if fnmatchcase(key, kind.pattern)), None)


#: Over all workers.
TRIM_INTERVAL_S = 3_600


async def trim_deliveries(ledger: "Ledger", limit: int = 1_000) -> int:
    """Once an hour, whoever comes first: what is older than it is kept leaves the lists, also those of hooks that are not in
    the settings any more, in steps that keep Redis for a moment only; how many. Raises RedisUnavailable."""
    trimmed_total = 0
    [is_first] = await ledger.redis.commands(("SET", "db:tidied", 1, "NX", "EX", TRIM_INTERVAL_S))
    if not is_first:
        return 0
    while await ledger.trim(OPERATIONS_KEY, OPERATIONS_TTL_S * 1_000, limit) >= limit:
        pass
    for hook in await ledger.hook_names():
        trimmed = limit
        while trimmed >= limit:
            trimmed = await ledger.trim(f"db:deliveries:{hook}", limit=limit)
            trimmed_total += trimmed
    return trimmed_total
