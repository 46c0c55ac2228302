"""Ids of tasks, deliveries and changes. No other module builds or parses them.

visit:<account>/<external_id>   task: apply one visit
event:<delivery>                task: fetch and translate one delivery
d<11 hex digits><10 hex digits> delivery: ms since 1970, random bits; sorts by time
<delivery>.<index>              origin of a change: the delivery and the position of the change in it
"""

import random
import time

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


def new_delivery_id() -> str:
    return f"d{_time_and_random()}"


def new_listed_id() -> str:
    """Return the id of a delivery that Doorbell made itself, from an appointment in a tool's list."""
    return f"{LISTED}{_time_and_random()}"


def is_listed(delivery_id: str) -> bool:
    return delivery_id.startswith(LISTED)


LISTED = "l"


def _time_and_random() -> str:
    return f"{(time.time_ns() // 1_000_000 << 40) + random.getrandbits(40):021x}"


def delivery_time_ms(delivery_id: str) -> int:
    """Return the time at which the id was made. An origin is accepted too."""
    return int(delivery_id[1:12], 16)


def new_token() -> str:
    """Return a token for a lease or lock: scripts compare it with the stored one."""
    return new_delivery_id()
