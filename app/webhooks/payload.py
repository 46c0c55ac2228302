"""Reads typed values from a tool's JSON. An error names the place and the expected type, never the value."""

import re
from collections.abc import Container, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, TypeVar

import orjson

T = TypeVar("T")
#: The JSON types, as error messages name them.
_SHAPES = {
    type(None): "nothing",
    str: "text",
    int: "a number",
    float: "a fraction",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Untranslatable(Exception):
    """The event is verified, but differs from what is known about the tool. It is stored, and parked for an operator."""


class Payload:
    """A value inside a body, with its path."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, *steps: str) -> None:
        self.value, self.path = value, steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]

    def at(self, *keys: str) -> "Payload":
        """Return the nested value as a Payload; its `value` is None if a key is missing."""
        nested = _new_object(Payload)
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        nested.value, nested.path = value, self.path + keys
        return nested

    def __iter__(self) -> Iterator["Payload"]:
        """Iterate over the items of a list; null or a missing list has no items."""
        if self.value is not None and not isinstance(self.value, list):
            raise self.unexpected("a list")
        for number, item in enumerate(self.value or ()):
            yield Payload(item, *self.path, f"[{number}]")

    def __bool__(self) -> bool:
        """Return whether there is a value, even a false or empty one."""
        return self.value is not None

    def unexpected(self, expected: str) -> Untranslatable:
        shape = _SHAPES.get(type(self.value), type(self.value).__name__)
        if isinstance(self.value, str | list | dict):
            shape += f" of length {len(self.value)}"
        place = ".".join(self.path).replace(".[", "[") or "body"
        return Untranslatable(f"{place}: expected {expected}, found {shape}")

    def parse_embedded_json(self) -> "Payload":
        """Parse JSON that is embedded in a string; return any other value unchanged."""
        if not isinstance(self.value, str):
            return self
        try:
            return Payload(orjson.loads(self.value), *self.path)
        except ValueError:
            raise self.unexpected("JSON") from None

    # -- optional values: None if the value is missing or null --

    def text(self) -> str | None:
        """Return the text, stripped. A whole number counts as text, because some tools write ids as numbers."""
        if isinstance(self.value, str):
            return self.value.strip() or None
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.unexpected("text")
        return str(self.value)

    def boolean(self) -> bool | None:
        if not isinstance(self.value, bool | None):
            raise self.unexpected("true or false")
        return self.value

    def integer(self) -> int | None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | None):
            raise self.unexpected("a whole number")
        return self.value

    def time(self, zone: tzinfo | None = None) -> datetime | None:
        """Parse a time in ISO 8601, and convert it to UTC.

        zone: the time zone of a time without an offset; if it is None, such a time is an error. A time that occurs
            twice (the end of daylight saving time) is the earlier one; a time that does not exist (its beginning) is
            read as one hour later.
        """
        if isinstance(self.value, (int, float)):
            raise self.unexpected("a time in ISO 8601")
        text = self.text()
        if text is None:
            return None
        try:
            time = datetime.fromisoformat(text)  # truncates to microseconds (Square writes nine digits)
        except ValueError:
            raise self.unexpected("a time in ISO 8601") from None
        if time.tzinfo is None:
            if zone is None:
                raise self.unexpected("a time with an offset")
            time = time.replace(tzinfo=zone)
        try:
            return time.astimezone(UTC)
        except OverflowError:
            raise self.unexpected("a time in the years 1 to 9999") from None

    def unix_seconds(self) -> datetime | None:
        seconds = self.integer()
        if seconds is None:
            return None
        try:
            return _EPOCH + timedelta(seconds=seconds)
        except OverflowError:
            raise self.unexpected("seconds since 1970") from None

    def unix_ms(self) -> datetime | None:
        ms = self.integer()
        if ms is None:
            return None
        try:
            return _EPOCH + timedelta(milliseconds=ms)
        except OverflowError:
            raise self.unexpected("milliseconds since 1970") from None

    def amount(self, minor_units: int = 1) -> Decimal | None:
        """Parse an amount of money. minor_units: how many units of the value make one currency unit (100 for cents).

        `1,075.50` is accepted; `1,075` and `1.075,50` are errors, because they are ambiguous.
        """
        if self.value is None or self.value == "":
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, (str, int, float)):
            raise self.unexpected("an amount")
        text = str(self.value).strip()
        if isinstance(self.value, str) and not _AMOUNT.fullmatch(text):
            raise self.unexpected("an amount")
        try:
            amount = Decimal(text.replace(",", "")) / minor_units
        except ArithmeticError:  # a million digits
            raise self.unexpected("an amount") from None
        if not amount.is_finite() or abs(amount) >= _AMOUNT_LIMIT:
            raise self.unexpected("an amount below a trillion")
        return amount

    def currency(self) -> str | None:
        """Return the code of a currency in upper case; None for anything else, because only people see it."""
        is_code = isinstance(self.value, str) and re.fullmatch("[A-Za-z]{3}", self.value.strip())
        return self.value.strip().upper() if is_code else None

    # -- required values --

    def required_text(self) -> str:
        return self._required(self.text(), "text")

    def required_time(self, zone: tzinfo | None = None) -> datetime:
        return self._required(self.time(zone), "a time")

    def required_unix_seconds(self) -> datetime:
        return self._required(self.unix_seconds(), "seconds since 1970")

    def required_unix_ms(self) -> datetime:
        return self._required(self.unix_ms(), "milliseconds since 1970")

    def required_id(self) -> str:
        """Return an id that is safe in the path of a request: letters, digits, `-` and `_` only."""
        id = self.required_text()
        if not _ID.fullmatch(id):
            raise self.unexpected("an id")
        return id

    def required_object(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.unexpected("an object")
        return self.value

    def required_integer(self) -> int:
        return self._required(self.integer(), "a whole number")

    def _required(self, value: T | None, expected: str) -> T:
        if value is None:
            raise self.unexpected(expected)
        return value


#: Currencies without minor units, and currencies whose minor unit is a thousandth, as payment processors count them.
ZERO_DECIMAL_CURRENCIES = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF")
)
THREE_DECIMAL_CURRENCIES = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))


def minor_units(currency: str | None, two_decimals: Container[str] = ()) -> int:
    """Return how many minor units make one unit of a currency: `amount(minor_units(currency))`. Default: 100.

    two_decimals: currencies that this tool counts in hundredths, although the rule says otherwise.
    """
    code = (currency or "").upper()
    if code in two_decimals:
        return 100
    return 1 if code in ZERO_DECIMAL_CURRENCIES else 1_000 if code in THREE_DECIMAL_CURRENCIES else 100


_new_object = object.__new__
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID = re.compile("[A-Za-z0-9_-]{1,191}")
_AMOUNT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|[0-9]{1,3}(,[0-9]{3})+\.[0-9]{2})")
_AMOUNT_LIMIT = Decimal(10) ** 12
