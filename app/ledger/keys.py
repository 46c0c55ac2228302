"""What Doorbell writes to Redis, and until when it is kept: every kind of key, and the job that ends what does not end by
itself."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from app.ledger.ledger import Ledger

#: The ids of replays and discards, and for how long they are kept.
OPERATIONS, OPERATIONS_KEPT_S = "db:operations", 90 * 86_400

#: How a key ends. `expires`: it always has a time to live. `settled`: it has one unless its work is still to be done.
#: `members`: it stays, and what is in it goes: with the work, or by the job below. `one`: it stays, one for each hook,
#: account or Doorbell, says nothing about anybody, and does not grow.
End = Literal["expires", "settled", "members", "one"]


@dataclass(frozen=True, slots=True)
class Kind:
    """Keys of one pattern: what they hold, and until when, as an operator reads it."""

    pattern: str
    end: End
    holds: str
    until: str


_LATER = "RETENTION_DAYS after it was settled; a visit ahead, after its date (two years at most); never while unsettled"
_RETENTION, _WORK = "RETENTION_DAYS", "it leaves the state"
_SECONDS, _ALWAYS = "seconds, or a minute at the most", "always: it names nobody"

#: The first pattern that fits is the key's kind.
KINDS = (
    Kind("db:delivery:*", "settled", "a delivery: its body, and the headers that its source needs", _LATER),
    Kind("db:visit:*", "settled", "a visit: its facts with contact, attempts, the API's last answer", _LATER),
    Kind("db:event:*", "settled", "an event that is fetched or translated anew: its attempts", _LATER),
    Kind("db:deliveries:*", "members", "the ids of each hook's deliveries", _RETENTION),
    Kind("db:hooks", "one", "where anybody ever rang", _ALWAYS),
    Kind(
        "db:seen:*",
        "expires",
        "the digest of an event, by which a repeat is known",
        "8 days; 400 for Cronofy",
    ),
    Kind("db:people:*", "expires", "the tool's ids of the people in a booking", "2 years after its last record"),
    Kind("db:find:*", "expires", "the keyed digest of an address or number, and the names of its visits", _LATER),
    Kind("db:contact:*:lock", "expires", "who makes a contact", _SECONDS),
    Kind("db:contact:*", "expires", "the keyed digest of an address, and Review Rover's id of the contact", "30 days"),
    Kind("db:record:*", "expires", "a record that a tool was asked for", "30 seconds"),
    Kind("db:pause:*", "expires", "that a hook's tool asked to wait", "5 minutes at the most"),
    Kind("db:token:*:lock", "expires", "who gets a token", _SECONDS),
    Kind("db:token:*", "one", "a hook's access token, sealed", "it is replaced"),
    Kind("db:jobs:health-check", "expires", "arq's sign of life", _SECONDS),
    Kind("db:jobs*", "members", "names of work to be done, in lanes", "it is done"),
    Kind("arq:job:*", "expires", "a job: the name of its work", "it is done, 30 days at the most"),
    Kind("db:queued", "members", "names of work, by state", _WORK),
    Kind("db:running", "members", "names of work, by state", _WORK),
    Kind("db:waiting", "members", "names of work, by state", _WORK),
    Kind("db:held:*", "members", "names of work, by state", _WORK),
    Kind("db:parked", "members", "names of work, by state", "an operator acts, however long that is"),
    Kind("db:discarded", "members", "names of work, by state", _RETENTION),
    Kind("db:ages:*", "members", "names of held work, by age", _WORK),
    Kind(
        "db:answers:*", "expires", "whether the API's newest 20 answers were failures, and of which visits", "1 minute"
    ),
    Kind("db:gate:*", "one", "why nothing goes to an account", "the API answers, or an operator resumes it"),
    Kind("db:accounts", "one", "accounts that ever had work held or parked", _ALWAYS),
    Kind("db:gates", "one", "accounts that ever met trouble", _ALWAYS),
    Kind("db:pace:*", "expires", "an account's line for calls", _SECONDS),
    Kind("db:progress", "one", "when work last came to an end", _ALWAYS),
    Kind("db:tidied", "expires", "that this was looked after", "1 hour"),
    Kind("db:worker:*", "expires", "a worker's sign of life", "30 seconds"),
    Kind("db:workers", "members", "the workers that live", "30 seconds"),
    Kind("db:hour:*", "expires", "counts of an hour", "8 days"),
    Kind("db:counts", "one", "counts for /metrics", _ALWAYS),
    Kind("db:alarms:lock", "expires", "who looks whether to alarm", _SECONDS),
    Kind("db:alarms", "expires", "which alarms are on, and the counts of ten minutes", "7 days"),
    Kind("db:request:*", "expires", "the digest of a request id, and its delivery", _RETENTION),
    Kind("db:matched:*", "expires", "when each secret of a hook last matched", "1 year after that"),
    Kind(
        "db:refused:*:*",
        "expires",
        "the newest 50 of a hook without a signature, and of other accounts",
        "30 days without one",
    ),
    Kind("db:refused:*", "expires", "the newest 50 refusals of a hook: reason and time", "30 days without another one"),
    Kind("db:refused", "one", "counts of refusals, and of events from other accounts", _ALWAYS),
    Kind("db:audit:*", "expires", "how far an audit is", "7 days, or its end"),
    Kind("db:audit-log", "members", "who did what at the desk", "the newest 10,000 lines"),
    Kind("db:operation:*:lock", "expires", "who carries an operation out", _SECONDS),
    Kind("db:operation:*", "expires", "an operation: what was said, by whom, what came of it", "90 days"),
    Kind("db:operations:open", "members", "operations that are not over", "they are over"),
    Kind("db:operations", "members", "the newest 500 operations", "90 days"),
    Kind("db:session:*", "expires", "who is logged in at the desk", "12 hours"),
    Kind("db:sessions", "expires", "the ids of the sessions, so that all can be ended", "12 hours"),
    Kind(
        "db:login-attempts*",
        "expires",
        "how often a password was tried, by the digest of where; its line in the log",
        "15 minutes",
    ),
)


def kind_of(key: str) -> Kind | None:
    return next((kind for kind in KINDS if fnmatchcase(key, kind.pattern)), None)


#: Over all workers.
TIDY_EVERY_S = 3_600


async def tidy(ledger: Ledger, most: int = 1_000) -> int:
    """Once an hour, whoever comes first: what is older than it is kept leaves the lists, also those of hooks that are not in
    the settings any more, in steps that keep Redis for a moment only; how many. Raises RedisDown."""
    gone = 0
    [is_first] = await ledger.redis.commands(("SET", "db:tidied", 1, "NX", "EX", TIDY_EVERY_S))
    if not is_first:
        return 0
    while await ledger.trim(OPERATIONS, OPERATIONS_KEPT_S * 1_000, most) >= most:
        pass
    for hook in await ledger.hooks():
        trimmed = most
        while trimmed >= most:
            trimmed = await ledger.trim(f"db:deliveries:{hook}", most=most)
            gone += trimmed
    return gone
