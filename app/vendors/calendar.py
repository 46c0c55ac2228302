"""The appointments of a fake tool."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

Step = Literal["booked", "moved", "cancelled", "completed", "paid", "missed"]


@dataclass(slots=True)
class Appointment:
    """An appointment. moves: how often it was moved, for tools that give a moved appointment a new id."""

    number: int
    starts_at: datetime
    email: str
    first_name: str
    last_name: str
    phone: str
    created_at: datetime
    updated_at: datetime
    minutes: int = 30
    cancelled_at: datetime | None = None
    completed_at: datetime | None = None
    missed_at: datetime | None = None
    paid: Decimal = Decimal(0)
    moves: int = 0

    @property
    def ends_at(self) -> datetime:
        return self.starts_at + timedelta(minutes=self.minutes)

    @property
    def is_cancelled(self) -> bool:
        return self.cancelled_at is not None


@dataclass(slots=True)
class Calendar:
    """Appointments, and a clock by which no two changes have the same time.

    on_change: called after each change. step: the minimum time between two changes, for tools whose times have no
        fractions of a second.
    """

    appointments: dict[int, Appointment] = field(default_factory=dict)
    on_change: Callable[[Appointment, Step], None] = lambda appointment, step: None
    step: timedelta = timedelta(milliseconds=1)
    _last: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self._last = max(datetime.now(UTC), self._last + self.step)
        return self._last

    def book(
        self, starts_at: datetime, email: str = "", first_name: str = "Ada", last_name: str = "Byron"
    ) -> Appointment:
        number, now = len(self.appointments) + 1, self.now()
        email = email or f"customer-{number}@example.com"
        phone = f"+1202555{number % 10_000:04}"
        appointment = Appointment(number, starts_at, email, first_name, last_name, phone, now, now)
        self.appointments[number] = appointment
        return self._changed(appointment, "booked")

    def move(self, number: int, starts_at: datetime) -> Appointment:
        appointment = self.appointments[number]
        appointment.starts_at, appointment.moves = starts_at, appointment.moves + 1
        return self._changed(appointment, "moved")

    def cancel(self, number: int) -> Appointment:
        appointment = self.appointments[number]
        appointment.cancelled_at = self.now()
        return self._changed(appointment, "cancelled")

    def complete(self, number: int) -> Appointment:
        appointment = self.appointments[number]
        appointment.completed_at = self.now()
        return self._changed(appointment, "completed")

    def pay(self, number: int, amount: Decimal) -> Appointment:
        appointment = self.appointments[number]
        appointment.paid = amount
        return self._changed(appointment, "paid")

    def miss(self, number: int) -> Appointment:
        appointment = self.appointments[number]
        appointment.missed_at = self.now()
        return self._changed(appointment, "missed")

    def _changed(self, appointment: Appointment, step: Step) -> Appointment:
        appointment.updated_at = self.now()
        self.on_change(appointment, step)
        return appointment

    def between(self, since: datetime | None, until: datetime | None) -> list[Appointment]:
        """Return the appointments that start in this period, in the order of their start."""
        return sorted(
            (
                each
                for each in self.appointments.values()
                if (since is None or each.starts_at >= since) and (until is None or each.starts_at < until)
            ),
            key=lambda each: (each.starts_at, each.number),
        )
