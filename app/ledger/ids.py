"""Ids of tasks, deliveries and changes. No other module builds or parses them; scripts do.

visit:<account>/<external_id>    task: apply one visit
event:<delivery>                 task: fetch and translate one delivery
d<11 hex digits><16 characters>  delivery: ms since 1970, and a digest of its hook and event; sorts by time
a<11 hex digits><10 hex digits>  in place of a delivery, for a change that an operator made: the same, and random bits
<delivery>.<index>               origin of a change: the delivery and the position of the change in it
d<11 hex digits><10 hex digits>  other ids: ms since 1970, random bits

The key of a delivery has the digest without the time, so that a repeat of the event leads to it.
"""

import hashlib
import random
import time
from binascii import b2a_base64

from app.ledger import keys

#: Also the names that the worker registers arq's functions under.
VISIT = "visit"
EVENT = "event"


class TaskId(str):
    """The id of a task. Properties that its kind does not have are empty."""

    __slots__ = ()

    @classmethod
    def visit(cls, account: str, external_id: str) -> "TaskId":
        return cls(f"{VISIT}:{account}/{external_id}")

    @classmethod
    def of_subject(cls, subject: str) -> "TaskId":
        """subject: of a visit, `<account>/<external_id>`."""
        return cls(f"{VISIT}:{subject}")

    @classmethod
    def event(cls, delivery_id: str) -> "TaskId":
        return cls(f"{EVENT}:{delivery_id}")

    @classmethod
    def of_job(cls, job_id: str) -> "TaskId":
        """job_id: a task id, `#` and a number."""
        return cls(job_id.rpartition("#")[0])

    @property
    def kind(self) -> str:
        """VISIT or EVENT."""
        return self.partition(":")[0]

    @property
    def is_visit(self) -> bool:
        return self.startswith(f"{VISIT}:")

    @property
    def is_event(self) -> bool:
        return self.startswith(f"{EVENT}:")

    @property
    def subject(self) -> str:
        """`<account>/<external_id>`, or the delivery."""
        return self.partition(":")[2]

    @property
    def account(self) -> str:
        return self.subject.partition("/")[0] if self.is_visit else ""

    @property
    def external_id(self) -> str:
        return self.partition("/")[2] if self.is_visit else ""

    @property
    def delivery_id(self) -> str:
        return self.subject if self.is_event else ""

    @property
    def display_id(self) -> str:
        """The id that operators use: a visit's external_id, an event's delivery."""
        return self.external_id or self.delivery_id


NO_TASK = TaskId("")


def delivery_of(origin: str) -> str:
    """Return the delivery that contained the change."""
    return origin.rpartition(".")[0]


def new_origin(delivery_id: str, index: int) -> str:
    return f"{delivery_id}.{index}"


def new_id() -> str:
    return f"d{_time_and_random_bits()}"


def new_assignment_id() -> str:
    return f"{ASSIGNED}{_time_and_random_bits()}"


def is_assignment(origin: str) -> bool:
    """Return whether an operator made the change. The id of its delivery is accepted too."""
    return origin.startswith(ASSIGNED)


#: Less than the letters of deliveries: the newest delivery of a visit is the greatest.
ASSIGNED = "a"


def _time_and_random_bits() -> str:
    return f"{time.time_ns() // 1_000_000:011x}{random.getrandbits(40):010x}"


def new_delivery_id(hook: str, event: bytes, arrived_at_ms: int, *, is_listed: bool = False) -> str:
    """Return the id of a delivery. event: what its repeats have in common.

    is_listed: Doorbell made the delivery itself, from an appointment in a tool's list.
    """
    digest = b2a_base64(hashlib.sha256(hook.encode() + b"\0" + event).digest()[:12], newline=False)
    return f"{LISTED if is_listed else 'd'}{arrived_at_ms:011x}{digest.translate(_LETTERS_ONLY).decode()}"


#: A double click selects the whole id. Nobody decodes the digest, so two of its characters may be the same.
_LETTERS_ONLY = bytes.maketrans(b"+/", b"xy")


def delivery_key(delivery_id: str) -> str:
    """Return the key of a delivery: its id without the time."""
    return f"{keys.DELIVERY}{delivery_id[:1]}{delivery_id[12:]}"


def delivery_id_of(key: str, arrived_at_ms: int) -> str:
    """Return the id of the delivery with this key."""
    name = key.removeprefix(keys.DELIVERY)
    return f"{name[:1]}{arrived_at_ms:011x}{name[1:]}"


def is_id_of(delivery_id: str, arrived_at_ms: int) -> bool:
    """Return whether a delivery that arrived then, and has the key of this id, has this id.

    Another delivery of the same event has the same key, if a failover lost the first one.
    """
    return delivery_id[1:12] == f"{arrived_at_ms:011x}"


def is_listed(delivery_id: str) -> bool:
    return delivery_id.startswith(LISTED)


LISTED = "l"


def delivery_time_ms(delivery_id: str) -> int:
    """Return the time at which the id was made. An origin is accepted too."""
    return int(delivery_id[1:12], 16)


def new_token() -> str:
    """Return a token for a lease or lock: scripts compare it with the stored one."""
    return new_id()
