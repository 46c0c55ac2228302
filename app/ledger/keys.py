"""Every key in Redis: the prefixes that code and scripts build keys from, and what each contains, in KEY_KINDS."""

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

# The scripts use these too: `key.queued` in a script is QUEUED.

#: + task id, `visit:<account>/<external_id>` or `event:<delivery>`: the hash of the task.
TASK = "bell:"
#: + state: the tasks in this state.
STATE = "bell:state:"
QUEUED, RUNNING, WAITING = f"{STATE}queued", f"{STATE}running", f"{STATE}waiting"
PARKED, DISCARDED = f"{STATE}parked", f"{STATE}discarded"
HELD, HELD_BY_AGE, ACCOUNTS = f"{STATE}held:", "bell:held-by-age:", "bell:accounts"
#: + day, such as 2026-03-14: the visits that start on it, in UTC. The days that have one, in order.
VISIT_DAY, VISIT_DAYS = "bell:visit-day:", "bell:visit-days"
#: + id without its time: a delivery. + hook: the ids of its deliveries. + hook, colon and digest: the id of a delivery.
DELIVERY, DELIVERIES, DEDUP, HOOKS = "bell:delivery:", "bell:deliveries:", "bell:dedup:", "bell:hooks"
#: + `visits`, `events` or `replays`: the jobs of a queue, sorted by the time at which they are due.
QUEUE = "bell:queue:"
#: The queue name in arq's settings; its health check is named after it.
VISITS_QUEUE = f"{QUEUE}visits"
CIRCUIT, CIRCUITS, OUTCOMES, RATE = "bell:circuit:", "bell:circuits", "bell:outcomes:", "bell:rate:"
#: The log of operators' activities; + colon and task id: those that affected a visit or a delivery.
ACTIVITY, ACTIVITIES = "bell:activity", "bell:activity:"
#: + id: a replay or discard; + id, `:tasks:` and outcome: its tasks.
OPERATION = "bell:operation:"
ALONE, LAST_DONE, METRICS = "bell:alone", "bell:last-done", "bell:metrics"
#: + account: its move to another cell. + hook: the phase of the move, and what arrived while the account was copied.
MOVE, MOVE_HOOK, MOVE_ARRIVALS = "bell:move:", "bell:move-hook:", "bell:move-arrivals:"
#: + name, period and digits: a list of an index (`buckets.py`). + name: its periods.
INDEX, INDEX_PERIODS = "bell:index:", "bell:index-periods:"
#: + hook: its newest catch-up; + `:plan`: its newest plan. The hooks with an unfinished one.
CATCH_UP, OPEN_CATCH_UPS = "bell:catch-up:", "bell:catch-ups"
WORKERS, PEOPLE, ATTEMPTS_CHANNEL = "bell:workers", "bell:people:", "bell:attempts"

# Only Python uses these.

CONTACT = "bell:contact:"
RECORD = "bell:record:"
#: The stored hooks by name, encrypted, and a random value that each write replaces.
STORED_HOOKS, STORED_HOOKS_VERSION = "bell:stored-hooks", "bell:stored-hooks:version"
RETRY_AFTER = "bell:retry-after:"
TOKEN = "bell:token:"
#: + the random id in the state: an authorization with OAuth that has begun.
OAUTH = "bell:oauth:"
#: The states of the connections, by hook; + colon, hook and `:lock`: which process works on a connection.
CONNECTIONS = "bell:connections"
WORKER = "bell:worker:"
HOURLY = "bell:hourly:"
COUNTED = "bell:counted:"
SECRET_USED = "bell:secret-used:"
ALERTS = "bell:alerts"
ALERTS_LOCK = "bell:alerts:lock"
REJECTIONS = "bell:rejections"
REJECTION_LIST = "bell:rejections:"
#: + source, colon and its version: the fields and words of its payloads. The changes; by hook, the time of the last look.
PAYLOAD, PAYLOAD_CHANGES, PAYLOAD_CURSORS = "bell:payload:", "bell:payload-changes", "bell:payload-cursors"
PAYLOAD_LOCK = "bell:payload:lock"
#: The hooks that an operator listens to; + hook: notes about its requests.
LISTENING, ARRIVALS = "bell:listening", "bell:arrivals:"
AUDIT = "bell:audit:"
#: The run id of the server; what it may have lost when that changed; which worker audits.
SERVER, LOSS, LOSS_LOCK = "bell:server", "bell:loss", "bell:loss:lock"
#: A channel without subscribers: a message to it is a write that changes nothing.
CHECK_CHANNEL = "bell:check"
OPEN_OPERATIONS = "bell:operations:open"
CLEANUP = "bell:cleanup"
#: The version of the keys and their contents. A process that reads another one does not start.
SCHEMA, SCHEMA_VERSION = "bell:schema", 6
WRITE_MARK = "bell:write-mark"
#: + number: whether commands see what a script has written.
SHARD_PROBE = "bell:shard-probe:"
SESSION, SESSIONS = "bell:session:", "bell:sessions"
#: + digest of a user whom a proxy names: that the log-in is recorded.
PROXY_LOGIN = "bell:proxy-login:"
#: The log-in attempts of all unknown clients; + colon and digest: of one client.
LOGIN_ATTEMPTS = "bell:login-attempts"
#: The ids of replays and discards, and how long they are stored.
OPERATIONS_KEY, OPERATIONS_TTL_S = "bell:operations", 90 * 86_400

#: `expires`: the key always has an expiry. `task`: it gets one at once, or when its task is done. `members`: the key has
#: none; old members are removed. `permanent`: no expiry; the number of these keys is bounded by hooks and accounts, and
#: none contains personal data.
Expiry = Literal["expires", "task", "members", "permanent"]


class KeyKind(NamedTuple):
    """Keys of one pattern, as docs/redis.md describes them.

    title: what they are to an operator, who sees title, contents and retention in the console; empty for bookkeeping.
    personal_data: what an erasure removes from them, if they contain personal data.
    """

    pattern: str
    expiry: Expiry
    contents: str
    retention: str
    title: str = ""
    personal_data: str = ""


_DELIVERY = "RETENTION_DAYS after it arrived; after it was done, if its record is fetched or it is translated again"
_TASK = "RETENTION_DAYS after it was done, a future visit after its date (two years at most)"
_RETENTION, _STATE, _SHORT, _ALWAYS = "RETENTION_DAYS", "until the state changes", "a minute at most", "forever"

#: The first pattern that matches is the kind of a key.
KEY_KINDS = (
    KeyKind(
        "bell:delivery:*",
        "task",
        "a delivery, named by its id without the time, a digest of the event: its body, and headers that its source needs",
        _DELIVERY,
        title="Deliveries",
        personal_data="the body, and the values of headers",
    ),
    KeyKind(
        "bell:visit:*",
        "task",
        "a visit: its changes with contact, its attempts, the API's last answer",
        _TASK,
        title="Visits",
        personal_data="the contact in each change, and quoted responses",
    ),
    KeyKind(
        "bell:event:*",
        "task",
        "an event that is fetched or translated again: its attempts",
        _TASK,
        personal_data="quoted responses",
    ),
    KeyKind("bell:deliveries:*", "members", "the ids of the deliveries of a hook", _RETENTION),
    KeyKind("bell:hooks", "permanent", "the hooks that ever received a delivery", _ALWAYS),
    KeyKind(
        "bell:visit-day:*",
        "members",
        "the visits that start on a day, each with its time",
        "RETENTION_DAYS after the day, or until the visit expires, if that is later",
        title="Days of visits",
    ),
    KeyKind(
        "bell:stored-hooks:version", "permanent", "a random value that every change of a stored hook replaces", _ALWAYS
    ),
    KeyKind(
        "bell:stored-hooks",
        "permanent",
        "the stored hooks with their secrets and credentials, each encrypted; 200 at most",
        "until an operator removes them",
        title="Stored hooks",
    ),
    KeyKind("bell:visit-days", "members", "the days that have visits", "until the last visit of the day is removed"),
    KeyKind(
        "bell:dedup:*",
        "expires",
        "the digest of an event, to recognize a repeat when the delivery has expired",
        "400 days, for sources without ids and times of events: Cronofy",
        title="Repeats",
    ),
    KeyKind(
        "bell:people:*",
        "expires",
        "the tool's ids of the people in a booking",
        "2 years after its last record",
        title="People of a booking",
        personal_data="nothing at once: without the tool, its ids identify nobody; the list expires with the visit",
    ),
    KeyKind(
        "bell:index:contacts:*",
        "expires",
        "keyed digests of addresses, numbers and words of names, each with a visit",
        "as long as the visit, and up to 10 days more",
        title="Search",
        personal_data="the digests of the person",
    ),
    KeyKind("bell:contact:*:lock", "expires", "which worker creates a contact", _SHORT),
    KeyKind(
        "bell:contact:*",
        "expires",
        "the keyed digest of an address, and the id of its contact",
        "30 days",
        title="Contacts",
        personal_data="the digest of the address",
    ),
    KeyKind(
        "bell:record:*",
        "expires",
        "a record that was fetched from a tool",
        "30 seconds; 10 minutes if its event needs several records",
        title="Fetched records",
        personal_data="the record",
    ),
    KeyKind(
        "bell:retry-after:*",
        "expires",
        "until when calls to the tool of a hook pause, after a 429",
        "5 minutes at most",
    ),
    KeyKind("bell:token:*:lock", "expires", "which worker exchanges a token", _SHORT),
    KeyKind("bell:token:*:rejected", "expires", "that the tool rejected the credentials of a hook", "30 seconds"),
    KeyKind(
        "bell:token:*",
        "permanent",
        "the access token of a hook, encrypted",
        "until it is replaced, or the hook is removed",
        title="Access tokens",
    ),
    KeyKind(
        "bell:oauth:*",
        "expires",
        "a log-in in progress at a tool: its hook, and the data for the exchange of the code, encrypted",
        "until the tool answers, 10 minutes at most",
    ),
    KeyKind("bell:connections:*:lock", "expires", "which process works on the connection of a hook", _SHORT),
    KeyKind(
        "bell:connections",
        "permanent",
        "the state of the connection of each hook: the tool's ids of its subscriptions, and when it was checked",
        "until the hook is disconnected or removed",
        title="Connections",
    ),
    KeyKind("bell:catch-up:*:lock", "expires", "which worker catches up for a hook", _SHORT),
    KeyKind(
        "bell:catch-up:*",
        "expires",
        "the newest catch-up of a hook, or its newest plan: its progress and remaining requests, encrypted; up to when all "
        "changes were listed",
        "30 days after its last step",
        title="Catch-ups",
        personal_data="none after it ends; until then, parts of appointments in the remaining requests",
    ),
    KeyKind("bell:catch-ups", "members", "the hooks with an unfinished catch-up", "until it ends"),
    KeyKind("bell:queue:visits:health-check", "expires", "the health check of arq", _SHORT),
    KeyKind("bell:queue:*", "members", "the jobs of a queue, by the time at which they are due", "until they are done"),
    KeyKind("bell:state:queued", "members", "tasks by state", _STATE),
    KeyKind("bell:state:running", "members", "tasks by state", _STATE),
    KeyKind("bell:state:waiting", "members", "tasks by state", _STATE),
    KeyKind("bell:state:held:*", "members", "tasks by state", _STATE),
    KeyKind("bell:state:parked", "members", "tasks by state", "until an operator acts"),
    KeyKind("bell:state:discarded", "members", "tasks by state", _RETENTION),
    KeyKind("bell:held-by-age:*", "members", "held tasks by age", _STATE),
    KeyKind("bell:alone", "expires", "when the next task that may crash workers runs alone", "1 hour"),
    KeyKind("bell:outcomes:*", "expires", "the results of an account's newest 20 API calls", "1 minute"),
    KeyKind(
        "bell:circuit:*",
        "permanent",
        "an open circuit: its kind, and until when",
        "until a call succeeds, an operator resumes it, or no task is held",
    ),
    KeyKind(
        "bell:accounts",
        "permanent",
        "the accounts that a worker ever had, or a stored hook, or a held or parked task",
        _ALWAYS,
    ),
    KeyKind("bell:move:*:lock", "expires", "which process moves an account", _SHORT),
    KeyKind(
        "bell:move:*",
        "permanent",
        "the move of an account to another cell, or from one: the other cell, and the progress of the move",
        "until the account has arrived; in the cell that it left, until its hook is removed or it moves back",
    ),
    KeyKind("bell:move-hook:*", "permanent", "the progress of the move of the hook's account", "as long as that move"),
    KeyKind(
        "bell:move-arrivals:*",
        "members",
        "the deliveries that arrived at a hook while its account was copied",
        "until the account has moved",
    ),
    KeyKind("bell:circuits", "permanent", "the accounts whose circuit was ever open", _ALWAYS),
    KeyKind("bell:rate:*", "expires", "the next free slot for a call of an account", _SHORT),
    KeyKind("bell:last-done", "permanent", "when a task last ended, or held tasks became due", _ALWAYS),
    KeyKind("bell:shard-probe:*", "expires", "a test of whether commands see what a script has written", _SHORT),
    KeyKind("bell:schema", "permanent", "the version of the keys and their contents", _ALWAYS),
    KeyKind(
        "bell:write-mark",
        "permanent",
        "nothing: written to wait for the disk (ACK), and to test writes",
        _ALWAYS,
    ),
    KeyKind("bell:cleanup", "expires", "when expired members are removed next", "1 hour"),
    KeyKind("bell:worker:*", "expires", "the heartbeat of a worker", "30 seconds"),
    KeyKind("bell:workers", "members", "the live workers", "30 seconds"),
    KeyKind("bell:hourly:*", "expires", "counters of one hour", "8 days", title="Counters"),
    KeyKind("bell:metrics", "permanent", "counters for /metrics", _ALWAYS),
    KeyKind("bell:counted:*", "expires", "the last counts that a process added, so that it adds none twice", "1 hour"),
    KeyKind("bell:alerts:lock", "expires", "which process checks for alerts", "5 minutes at most"),
    KeyKind("bell:alerts", "expires", "the active alerts, and the failure counts of ten minutes", "7 days"),
    KeyKind(
        "bell:index:requests:*",
        "expires",
        "digests of request ids, each with its delivery",
        "RETENTION_DAYS, and up to 10 days more",
        title="Request ids",
    ),
    KeyKind("bell:index-periods:*", "members", "the periods that an index has lists of", "until the period ends"),
    KeyKind(
        "bell:secret-used:*", "expires", "when each secret of a hook last verified a delivery", "1 year after that"
    ),
    KeyKind(
        "bell:rejections:*:*",
        "expires",
        "the newest 50 unsigned ones of a hook, and the newest 50 from other accounts",
        "30 days after the last",
    ),
    KeyKind(
        "bell:rejections:*",
        "expires",
        "the newest 50 rejections of a hook: reason and time",
        "30 days after the last",
        title="Rejections",
    ),
    KeyKind("bell:rejections", "permanent", "counters of rejections, and of events from other accounts", _ALWAYS),
    KeyKind("bell:payload:lock", "expires", "which worker looks for changes of payloads", _SHORT),
    KeyKind(
        "bell:payload:*",
        "expires",
        "the names of fields that a source sent, and the words of fields like `status`; no personal data",
        "90 days after the last delivery",
        title="Fields of payloads",
    ),
    KeyKind(
        "bell:payload-changes", "permanent", "changes of payloads: the field or word, and a delivery", "the newest 200"
    ),
    KeyKind(
        "bell:payload-cursors", "permanent", "the delivery of each hook up to which payloads were compared", _ALWAYS
    ),
    KeyKind("bell:listening", "expires", "the hooks that an operator listens to", "10 minutes"),
    KeyKind(
        "bell:arrivals:*",
        "expires",
        "notes about requests to a hook while an operator listens: the answer and its reason, no content",
        "15 minutes after the last",
        title="Requests while an operator listens",
    ),
    KeyKind("bell:server", "permanent", "the run id of Redis, to detect a restart or a failover", _ALWAYS),
    KeyKind("bell:loss:lock", "expires", "which worker audits after a failover", _SHORT),
    KeyKind(
        "bell:loss", "expires", "the last restart or failover of Redis, and the visits whose changes it lost", "7 days"
    ),
    KeyKind("bell:audit:*:lock", "expires", "which process audits an account", _SHORT),
    KeyKind("bell:audit:*", "expires", "the progress of an audit", "until it ends; 7 days at most"),
    KeyKind(
        "bell:activity:*",
        "expires",
        "the newest 100 activities that affected a visit or a delivery",
        "90 days after the last",
    ),
    KeyKind("bell:activity", "members", "the actions of operators", "the newest 10,000", title="Activity"),
    KeyKind("bell:operation:*:lock", "expires", "which worker runs an operation", _SHORT),
    KeyKind(
        "bell:operation:*:results",
        "expires",
        "the results of an operation, for the command that waits for it",
        "1 hour",
    ),
    KeyKind(
        "bell:operation:*:tasks:*",
        "expires",
        "the tasks of an operation with the same outcome, the newest 10,000",
        "90 days",
    ),
    KeyKind(
        "bell:operation:*",
        "expires",
        "an operation: its request, its operator, its result",
        "90 days",
        title="Operations",
        personal_data="the filter; the contacts, which are encrypted, are deleted when it ends",
    ),
    KeyKind("bell:operations:open", "members", "unfinished operations", "until they are finished"),
    KeyKind("bell:operations", "members", "the newest 500 operations", "90 days"),
    KeyKind("bell:session:*", "expires", "a session of the console", "12 hours", title="Sessions"),
    KeyKind("bell:sessions", "expires", "the ids of all sessions, to end them", "12 hours"),
    KeyKind(
        "bell:proxy-login:*",
        "expires",
        "the digest of a user whom a proxy names, to record the log-in once",
        "12 hours",
    ),
    KeyKind(
        "bell:login-attempts*",
        "expires",
        "failed log-ins, by the digest of the client",
        "15 minutes",
        title="Failed log-ins",
    ),
)


def kind_of(key: str) -> KeyKind | None:
    return next((kind for kind in KEY_KINDS if fnmatchcase(key, kind.pattern)), None)
