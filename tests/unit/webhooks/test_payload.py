"""Tests of parsing bodies and reading values: the result, UnreadableBody or Untranslatable."""

import gzip
import json
import math
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.ledger.records import DeliveryInfo
from app.settings.environment import read_environment
from app.visits.change import format_time
from app.webhooks.delivery import (
    BodyFormat,
    BodyTooLarge,
    Delivery,
    Event,
    UnreadableBody,
    UnsupportedContentEncoding,
    UnsupportedContentType,
    check_content_encoding,
    check_content_type,
    content_encoding,
    decode_base64url,
    decompress,
    parse_body,
)
from app.webhooks.payload import THREE_DECIMAL_CURRENCIES, Payload, Untranslatable, minor_units
from app.webhooks.translation import parse_event
from tests.support.cases import each
from tests.support.harness import label

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, database=None)
NEW_YORK = ZoneInfo("America/New_York")


def error_message(value: Any, read: str, *arguments: Any) -> str:
    """Return the message of the error when the value is read."""
    [item] = Payload({"a": [{"b": value}]}).at("a")

    with pytest.raises(Untranslatable) as untranslatable:
        getattr(item.at("b"), read)(*arguments)

    return str(untranslatable.value)


def delivery(raw: bytes, content_type: str | None = None) -> Delivery:
    headers = ((b"content-type", content_type.encode()),) if content_type is not None else ()
    return Delivery("hook", "source", headers, raw, datetime(2026, 9, 21, tzinfo=UTC))


# -- the address --


def test_a_query_parameter_is_stored_for_a_source_that_declares_it() -> None:
    env = {"REDIS_URL": "redis://127.0.0.1", "HOOKS__STANDARD__SECRETS": "whsec_dGVzdC1zZWNyZXQtZm9yLXZlY3RvcnM="}
    hook = read_environment(env).active_hooks["standard"]
    asking = replace(hook.source.definition, stored_headers=("?event", "?x y", "?none"))
    hook = replace(hook, source=hook.source._replace(definition=asking))
    rung = replace(delivery(b'{"type":"t"}'), query=b"event=moved&event=second&x+y=Zo%C3%AB&other=1")

    event = parse_event(hook.source, rung)
    again = parse_event(
        hook.source, DeliveryInfo("shop", "standard", 0, headers=dict(event.headers)).to_delivery(rung.body)
    )

    assert {"?event": "moved", "?x y": "Zo\xc3\xab"} == event.headers == again.headers
    assert {} == parse_event(hook.source, replace(rung, query=b"")).headers


# -- places --


def test_a_missing_key_gives_an_empty_payload() -> None:
    body = Payload({"a": {"b": 1}, "l": [1], "t": "text", "n": None})

    for steps in (("x",), ("a", "x"), ("a", "b", "c"), ("l", "0"), ("t", "t"), ("n", "x"), ("x", "y", "z")):
        assert not body.at(*steps)
        assert body.at(*steps).text() is None


def test_only_null_is_false() -> None:
    assert not Payload(None)
    assert [value for value in (0, "", False, [], {}, 0.0) if not Payload(value)] == []


def test_a_list_has_items_and_null_has_none() -> None:
    assert [1, None, "x"] == [item.value for item in Payload([1, None, "x"])]
    assert [] == list(Payload(None))


@each("value", [{}, {"a": 1}, "text", 0, True, 1.5])
def test_a_value_that_is_not_a_list_has_no_items(value: Any) -> None:
    with pytest.raises(Untranslatable, match="expected a list"):
        list(Payload(value))


EMAIL = "ada@example.com"


@each(
    ("sentence", "value", "read"),
    [
        ("expected text, found a list of length 1", [EMAIL], "text"),
        ("expected text, found nothing", None, "required_text"),
        ("expected true or false, found text of length 15", EMAIL, "boolean"),
        ("expected a whole number, found a fraction", 1.5, "integer"),
        ("expected a whole number, found nothing", None, "required_integer"),
        ("expected a time in ISO 8601, found text of length 15", EMAIL, "time"),
        ("expected a time in ISO 8601, found a number", 20_260_314, "time"),
        ("expected a time with an offset, found text of length 10", "2026-03-14", "time"),
        ("expected a time in the years 1 to 9999, found text of length 25", "0001-01-01T00:00:00+14:00", "time"),
        ("expected a time, found nothing", None, "required_time"),
        ("expected seconds since 1970, found a number", 2**63, "unix_seconds"),
        ("expected seconds since 1970, found nothing", None, "required_unix_seconds"),
        ("expected milliseconds since 1970, found a number", 2**63, "unix_ms"),
        ("expected milliseconds since 1970, found nothing", None, "required_unix_ms"),
        ("expected an amount, found an object of length 0", {}, "amount"),
        ("expected an amount, found text of length 15", EMAIL, "amount"),
        ("expected an amount, found true or false", True, "amount"),
        ("expected an amount below a trillion, found a number", 10**12, "amount"),
        ("expected an id, found text of length 15", EMAIL, "required_id"),
        ("expected an object, found nothing", None, "required_object"),
        ("expected JSON, found text of length 15", EMAIL, "parse_embedded_json"),
    ],
)
def test_an_error_names_the_place_and_the_type_and_never_the_value(sentence: str, value: Any, read: str) -> None:
    assert f"a[0].b: {sentence}" == error_message(value, read)


def test_an_error_names_the_whole_body_or_the_embedded_text() -> None:
    with pytest.raises(Untranslatable, match=r"^body: expected a list, found text of length 1$"):
        list(Payload("x"))
    with pytest.raises(Untranslatable, match=r"^a\.b: expected text, found true or false$"):
        Payload({"a": '{"b":true}'}).at("a").parse_embedded_json().at("b").text()


def test_payloads_are_equal_regardless_of_their_path() -> None:
    assert Payload(1, "a") == Payload(1, "b")
    assert Payload(1) != Payload(2)
    assert Payload(1) != 1
    assert Payload(None) != None  # noqa: E711


# -- text, flags, numbers --


@each(
    ("expected", "value"),
    [("x", "x"), ("x y", "  x y\n"), (None, ""), (None, "  \t "), (None, None), ("42", 42), ("0", 0), ("-1", -1),
     ("18446744073709551615", 2**64 - 1), ("Zoë 😀", "Zoë 😀"), ("\0", "\0")],
)  # fmt: skip
def test_text_is_stripped_and_a_number_counts_as_text(expected: str | None, value: Any) -> None:
    assert expected == Payload(value).text()


@each("value", [True, False, 1.0, 1e300, [], {}, ["x"]])
def test_a_value_that_is_not_text_is_untranslatable(value: Any) -> None:
    assert "expected text" in error_message(value, "text")


@each("value", [None, "", "   "])
def test_required_text_is_not_blank(value: Any) -> None:
    assert "expected text" in error_message(value, "required_text")


@each("value", [0, 1, "true", "", [], {}, 0.0])
def test_a_boolean_is_only_true_or_false(value: Any) -> None:
    assert "expected true or false" in error_message(value, "boolean")


def test_a_missing_boolean_is_none() -> None:
    assert [True, False, None] == [Payload(value).boolean() for value in (True, False, None)]


@each(
    ("expected", "value"),
    [
        ("USD", "usd"),
        ("EUR", " EUR "),
        *((None, value) for value in ("", "$", "usdt", "U S", 840, None, ["usd"], True)),
    ],
)
def test_a_currency_is_a_code_of_three_letters_and_never_an_error(expected: str | None, value: Any) -> None:
    assert expected == Payload(value).currency()


@each("value", [True, False, 1.0, "1", "", [], {}])
def test_a_whole_number_is_not_a_fraction_a_text_or_a_boolean(value: Any) -> None:
    assert "expected a whole number" in error_message(value, "integer")


def test_a_required_integer_may_be_zero() -> None:
    assert 0 == Payload(0).required_integer()
    assert "0" == Payload(0).required_text()
    assert Decimal(0) == Payload(0).amount()
    assert (
        datetime(1970, 1, 1, tzinfo=UTC)
        == Payload(0).unix_seconds()
        == Payload(0).required_unix_seconds()
        == Payload(0).required_unix_ms()
    )


# -- times --


@each(
    ("expected", "written"),
    [
        ("2026-03-14T17:32:05Z", "2026-03-14T17:32:05Z"),
        ("2026-03-14T17:32:05Z", "2026-03-14T11:32:05-06:00"),
        ("2026-03-14T17:32:05Z", "2026-03-14T11:32:05-0600"),
        ("2026-03-14T17:32:05Z", "2026-03-14 23:17:05+05:45"),
        ("2026-03-14T17:32:05Z", " 2026-03-14T17:32:05Z "),
        ("2026-03-14T17:32:05Z", "2026-03-14T17:32:05-00:00"),
        ("2026-03-14T17:32:00Z", "2026-03-14T17:32Z"),
        ("2026-03-14T17:32:05Z", "20260314T173205Z"),
        ("2026-03-13T23:30:00Z", "2026-03-14T00:30:00+01:00"),
        ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.999Z"),
    ],
)
def test_a_time_with_an_offset_is_read_as_utc(expected: str, written: str) -> None:
    moment = Payload(written).required_time()

    assert expected == format_time(moment)
    assert moment.utcoffset() == timedelta(0)


def test_a_time_does_not_depend_on_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "America/New_York")
        time.tzset()
        moment = Payload("2026-03-14T11:32:05-06:00").required_time()
    time.tzset()

    assert "2026-03-14T17:32:05+00:00" == moment.isoformat()


@each(
    ("microseconds", "fraction"),
    [
        (37_339, ".037339943"),
        (500_000, ".5"),
        (123_456, ".123456"),
        (123_456, ".1234567"),
        (999_999, ".999999999"),
        (0, ""),
    ],
)  # the first is Square's, https://github.com/square/square-python-sdk, tests/integration/test_webhooks_helper.py
def test_a_time_is_truncated_to_microseconds(microseconds: int, fraction: str) -> None:
    assert (
        datetime(2022, 7, 13, 20, 30, 59, microseconds, tzinfo=UTC) == Payload(f"2022-07-13T20:30:59{fraction}Z").time()
    )


@each(
    ("expected", "local"),
    [
        ("2026-07-01T13:00:00Z", "2026-07-01T09:00:00"),
        ("2026-12-01T14:00:00Z", "2026-12-01T09:00:00"),
        ("2026-03-08T07:30:00Z", "2026-03-08T02:30:00"),  # does not exist in spring: read as one hour later
        ("2026-11-01T05:30:00Z", "2026-11-01T01:30:00"),  # ambiguous in autumn: the earlier one
        ("2026-07-01T09:00:00Z", "2026-07-01T09:00:00Z"),
        ("2026-07-01T08:00:00Z", "2026-07-01T09:00:00+01:00"),
    ],
)
def test_a_time_without_an_offset_is_local_to_the_zone_of_the_hook(expected: str, local: str) -> None:
    assert expected == format_time(Payload(local).required_time(NEW_YORK))


def test_a_time_without_an_offset_is_untranslatable_without_a_zone() -> None:
    assert "expected a time with an offset" in error_message("2026-07-01T09:00:00", "time")
    assert "expected a time with an offset" in error_message("2026-07-01", "time")


@each(
    "written",
    [
        "now", "tomorrow", "14.03.2026", "03/14/2026 5:32 PM", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z",
        "2026-03-14T25:00:00Z", "2026-03-14T17:60:00Z", "2026-03-14T17:32:05+25:00", "2026-03-14T17:32:05 PST", "T",
        "Z",
        "2026-03-14T17:32:05Z2026-03-14T17:32:05Z", "2026-03-14T17:32:05ZZ", "-2026-03-14T17:32:05Z",
        "10000-01-01T00:00:00Z",
        "٢٠٢٦-03-14T17:32:05Z", "２０２６-03-14T17:32:05Z", "2026-03-14T17:32:05.Z.Z", "\0", "1790000000", "nan", "[]",
    ],
    ids=label,
)  # fmt: skip
def test_a_value_that_is_not_a_time_is_untranslatable(written: str) -> None:
    assert "expected a time" in error_message(written, "time")
    assert "expected a time" in error_message(written, "time", NEW_YORK)


@each("written", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_outside_the_calendar_in_utc_is_untranslatable(written: str) -> None:
    assert "expected a time in the years 1 to 9999" in error_message(written, "time")


@each("number", [0, 1_790_000_000, 1_712_122_500_000, 20_260_314, 2_026])
def test_a_number_is_not_an_iso_8601_time(number: int) -> None:
    """1712122500000 is April 2024 in milliseconds; as basic ISO 8601 it would be Christmas of 1712."""
    assert "expected" in error_message(number, "time")
    assert "expected" in error_message(number, "time", NEW_YORK)


@each("value", [True, 1.5, [], {}])
def test_a_value_that_is_not_text_is_not_a_time(value: Any) -> None:
    assert "expected" in error_message(value, "time")


@each(
    ("expected", "seconds"),
    [("2026-09-21T14:13:20Z", 1_790_000_000), ("2021-02-25T15:02:10Z", 1_614_265_330), ("1969-12-31T23:59:59Z", -1)],
)  # `date -u -d @…`
def test_seconds_since_1970_are_a_time(expected: str, seconds: int) -> None:
    moment = Payload(seconds).unix_seconds()

    assert moment is not None
    assert expected == format_time(moment)


@each("value", [2**63, -(2**63), 2**64 - 1, 1_790_000_000_000_000, 1.5, "1790000000", True, math.inf])
def test_invalid_seconds_are_untranslatable(value: Any) -> None:
    assert "expected" in error_message(value, "unix_seconds")


# -- money --


@each(
    ("expected", "written", "smallest_units"),
    [
        ("245.00", "245.00", 1), ("120", 120, 1), ("75.5", 75.5, 1), ("0.1", 0.1, 1), ("0", 0, 1), ("0", "0.00", 1),
        ("245", 24_500, 100), ("75.5", 7_550, 100), ("0.01", 1, 100), ("7550", 7_550, 1), ("12.345", 12_345, 1_000),
        ("19.99", "1999", 100), ("999999999999.99", "999999999999.99", 1), ("0.30", "0.30", 1),
        ("1075.50", "1,075.50", 1), ("-1234567.00", "-1,234,567.00", 1),
    ],
)  # fmt: skip
def test_an_amount_is_exact_and_in_whole_units_of_its_currency(
    expected: str, written: Any, smallest_units: int
) -> None:
    assert Decimal(expected) == Payload(written).amount(smallest_units)


@each("value", [None, ""])
def test_a_missing_amount_is_none(value: Any) -> None:
    assert Payload(value).amount() is None


@each(
    "value",
    [
        "NaN", "sNaN", "nan", "Infinity", "-inf", "1e999999999999999999", "1e400", 10**12, -(10**12), 1e308, 2**64 - 1,
        "1,000", "1.000,00", "1,00.00", "1,0000.00", ",100.00", "1000,000.00", "1,000.0", "1,000.000",
        "$5", "5 USD", "five", "0x10", " ", "--5", "1..2", "½", True, False, [], {}, ["5"],
        "9" * 100_000, math.nan, math.inf,
    ],
    ids=label,
)  # fmt: skip
def test_an_impossible_amount_is_untranslatable(value: Any) -> None:
    assert "expected an amount" in error_message(value, "amount")
    assert "expected an amount" in error_message(value, "amount", 1)


def test_a_million_digits_and_nested_lists_are_not_amounts() -> None:
    nested: list[Any] = []
    for _ in range(10_000):
        nested = [nested]

    assert "a[0].b: expected an amount, found text of length 1000001" == error_message("9" * 1_000_001, "amount")
    assert "a[0].b: expected an amount, found a list of length 1" == error_message(nested, "amount")


# -- any value --

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=3), inside, max_size=2),
    max_leaves=4,
)
#: Texts that look like times and amounts.
NEARLY = st.text(st.sampled_from("0123456789-+:.TZWeE, _nai"), max_size=32)
READS = (
    "text",
    "boolean",
    "integer",
    "time",
    "unix_seconds",
    "amount",
    "required_text",
    "required_time",
    "required_integer",
)


@EXAMPLES
@given(VALUES | NEARLY, st.sampled_from([None, NEW_YORK, timezone(timedelta(hours=14)), ZoneInfo("Asia/Kathmandu")]))
@example("2026-03-14T24:00:00Z", None)
@example("0001-01-01T00:00:00", ZoneInfo("Asia/Kathmandu"))
@example("9999-12-31T23:59:59", NEW_YORK)
def test_any_value_is_read_or_untranslatable(value: Any, zone: Any) -> None:
    for name in READS:
        try:
            read = getattr(Payload(value), name)(*([zone] if "moment" in name else []))
        except Untranslatable:
            continue
        if isinstance(read, datetime):
            assert read.utcoffset() == timedelta(0)
        elif isinstance(read, Decimal):
            assert abs(read) < 10**12
        else:
            assert read is None or isinstance(read, str | int)


# -- bodies --


@each(
    ("raw", "form"),
    [
        (b"", "json"), (b" ", "json"), (b"{", "json"), (b"{}x", "json"), (b"{'a':1}", "json"), (b'{"a":1,}', "json"),
        (b"NaN", "json"), (b'{"a":NaN}', "json"), (b"[Infinity]", "json"), (b"-Infinity", "json"),
        (b"undefined", "json"),
        (b"\xef\xbb\xbf{}", "json"), (b'{"a":"\xff"}', "json"), ('{"a":"é"}'.encode("latin-1"), "json"),
        ("{}".encode("utf-16"), "json"), (b"\x00", "json"), (b'{"a":"\n"}', "json"), (b"01", "json"), (b"+1", "json"),
        (b"[" * 200_000, "json"), (b"[" * 100_000 + b"]" * 100_000, "json"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "json"),
        (b"", "form"), (b"", "json or form"), (b" \n", "form"),
        (b"a=1&b", "form"), (b"plain", "form"), (b"a=\xff", "form"), (b"a=%ff", "form"), (b"a=%c3%28", "form"),
        (b"&".join([b"a=1"] * 501), "form"), (b"\xfe\xff", "form"), (b'{"a":1}', "form"),
        (b"[1]", "json or form"), (b'{"a"', "json or form"), (b"x", "json or form"), (b"{} a=1", "json or form"),
    ],
    ids=label,
)  # fmt: skip
def test_a_body_in_another_format_is_unreadable(raw: bytes, form: BodyFormat) -> None:
    with pytest.raises(UnreadableBody):
        parse_body(delivery(raw), form)


@each(
    ("expected", "raw", "form"),
    [
        ({"a": 1}, b' {"a": 1}\r\n', "json"),
        ({"name": "Zoë 😀"}, '{"name":"Zo\\u00eb 😀"}'.encode(), "json"),
        ({"a": 2}, b'{"a":1,"a":2}', "json"),
        ([], b"[]", "json"),
        (None, b"null", "json"),
        ({"id": 18446744073709551615}, b'{"id":18446744073709551615}', "json"),
        ({"action": "scheduled", "id": "1"}, b"action=scheduled&id=1", "form"),
        ({"name": "Zoë & Ada", "empty": ""}, b"name=Zo%C3%AB+%26+Ada&empty=", "form"),
        ({"a": "1;b=2"}, b"a=1;b=2", "form"),
        ({"a": "2"}, b"a=1&a=2", "form"),
        ({"data[webHookEvent][topic]": "X"}, b"data%5BwebHookEvent%5D%5Btopic%5D=X", "json or form"),
        ({"a": "{"}, b"a={", "json or form"),
        ({"a": 1}, b'\n {"a":1}', "json or form"),
    ],
)
def test_a_body_is_parsed_in_the_format_of_its_source(expected: Any, raw: bytes, form: BodyFormat) -> None:
    assert expected == parse_body(delivery(raw), form).value


@EXAMPLES
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_unreadable(raw: bytes) -> None:
    for form in ("json", "form", "json or form"):
        try:
            parse_body(delivery(raw), form)  # type: ignore[arg-type]
        except UnreadableBody as error:
            assert str(error).startswith("the body is ")  # noqa: PT017
            assert len(str(error)) < 60  # noqa: PT017


# -- content types --


@each(
    ("content_type", "form"),
    [
        (None, "json"), (None, "form"), ("", "json"), ("application/json", "json"), ("APPLICATION/JSON", "json"),
        ("application/json; charset=utf-8", "json"), (" application/json ;x", "json"), ("text/json", "json"),
        ("application/cloudevents+json", "json"), ("application/x-www-form-urlencoded", "form"),
        ("application/x-www-form-urlencoded; charset=UTF-8", "json or form"), ("application/json", "json or form"),
    ],
)  # fmt: skip
def test_the_content_type_may_be_missing(content_type: str | None, form: BodyFormat) -> None:
    check_content_type(delivery(b"", content_type), form)


@each(
    ("content_type", "form"),
    [
        ("text/plain", "json"), ("text/html", "json or form"), ("multipart/form-data; boundary=x", "form"),
        ("application/json", "form"), ("application/x-www-form-urlencoded", "json"), ("application/xml", "json"),
        ("json", "json"), ("application/jsonx", "json"), ("text/plain; application/json", "json"), ("\xff", "json"),
        ("application/vnd.api+json", "form"),
    ],
)  # fmt: skip
def test_another_content_type_is_rejected(content_type: str, form: BodyFormat) -> None:
    with pytest.raises(UnsupportedContentType):
        check_content_type(delivery(b"", content_type), form)


def test_a_lone_surrogate_does_not_make_a_body_unreadable() -> None:
    # JavaScript truncates an emoji like this.
    raw = b'{"name":"Zo\\ud83d","whole":"\\ud83d\\ude00"}'

    data = parse_body(Delivery("h", "s", (), raw, datetime(2026, 3, 14, tzinfo=UTC)), "json")

    assert ("Zo\ufffd", "\U0001f600") == (data.at("name").text(), data.at("whole").text())


@each(
    ("expected", "written", "currency"),
    [
        ("245", 24500, "usd"),
        ("24500", 24500, "JPY"),
        ("24.5", 24500, "kwd"),
        ("245", 24500, None),
        ("245", 24500, "XYZ"),
    ],
)
def test_the_minor_units_depend_on_the_currency(expected: str, written: int, currency: str | None) -> None:
    assert Decimal(expected) == Payload(written).amount(minor_units(currency))


def test_a_tool_may_count_a_currency_in_hundredths() -> None:
    assert (100, 1) == (
        minor_units("KWD", two_decimals=THREE_DECIMAL_CURRENCIES),
        minor_units("JPY", two_decimals=THREE_DECIMAL_CURRENCIES),
    )


def test_milliseconds_since_1970_are_a_time() -> None:
    assert "2026-09-21T14:13:20Z" == format_time(Payload(1790000000123).required_unix_ms())
    assert 123_000 == Payload(1790000000123).required_unix_ms().microsecond
    with pytest.raises(Untranslatable):
        Payload(10**18).unix_ms()


@each("value", ["a/b", "..", "a b", "a?b", "a#b", "ü", "a'b", "", "a" * 192, 1.5, True])
def test_an_id_for_a_path_has_only_letters_digits_and_dashes(value: Any) -> None:
    with pytest.raises(Untranslatable):
        Payload(value).required_id()


def test_an_id_may_be_a_number() -> None:
    assert ("42", "cst_1-A") == (Payload(42).required_id(), Payload(" cst_1-A ").required_id())


@each("form", ["any", "jwt"])
def test_the_body_of_a_token_is_its_claims(form: BodyFormat) -> None:
    token = b"eyJhbGciOiJIUzI1NiJ9.eyJkYXRhIjp7ImlkIjoxfX0.c2ln"

    assert 1 == parse_body(delivery(token), form).at("data", "id").value


@each("raw", [b"a.b.c", b"a.e30", b"not a token", b"e30.e3.e30"])
def test_a_body_that_is_not_a_token_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableBody):
        parse_body(delivery(raw), "jwt")


def test_embedded_json_is_parsed() -> None:
    assert {"a": 1} == Payload('{"a":1}').parse_embedded_json().value
    assert {"a": 1} == Payload({"a": 1}).parse_embedded_json().value
    with pytest.raises(Untranslatable, match="expected JSON"):
        Payload("{").parse_embedded_json()


def test_the_format_of_any_body_is_detected() -> None:
    assert {"a": "1"} == parse_body(delivery(b"a=1"), "any").value
    assert {"a": 1} == parse_body(delivery(b'{"a":1}'), "any").value
    assert [1] == parse_body(delivery(b"[1]"), "any").value


# -- headers and encodings of a request --


def test_a_header_is_read_in_any_case_and_a_parameter_only_with_a_question_mark() -> None:
    lines = ((b"one", b"1"), (b"two", b"a"), (b"two", b"\xe9"))
    sent = Delivery("hook", "source", lines, b"", datetime(2026, 9, 21, tzinfo=UTC), query=b"ne=x&empty=&two&e=%e9&e=2")

    assert ("1", "a", None) == (sent.header("One"), sent.header("TWO"), sent.header("three"))
    assert ([b"1"], [b"a", b"\xe9"], []) == tuple(map(sent.header_values, ("ONE", "two", "three")))
    assert (b"1", None, None) == tuple(map(sent.single_header, ("ONE", "two", "three")))
    assert sent.header("one") == "1"
    assert (None, None) == (sent.header("empty"), sent.header("xne"))
    assert ("x", "", "", "é", None) == tuple(map(sent.header, ("?ne", "?empty", "?two", "?e", "?one")))
    assert replace(sent, query=b"").header("?ne") is None


@each(
    ("encoding", "lines"),
    [
        ("", []),
        ("", [b""]),
        ("", [b"identity"]),
        ("gzip", [b"gzip"]),
        ("gzip", [b" GZIP "]),
        ("gzip", [b"x-gzip"]),
        ("gzip", [b"identity, gzip,"]),
        ("gzip, br", [b"gzip,br"]),
        ("gzip, gzip", [b"gzip", b"X-GZip"]),
        ("\xff", [b"\xff"]),
    ],
)
def test_the_content_encoding_is_normalized(encoding: str, lines: list[bytes]) -> None:
    sent = replace(delivery(b""), headers=tuple((b"content-encoding", line) for line in lines))

    assert encoding == content_encoding(sent)


def test_a_compressed_body_is_not_decompressed_beyond_the_limit() -> None:
    bomb = gzip.compress(bytes(64_000_000))

    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decompress(bomb, 1_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 1_000_000


@each("size", [0, 1, 1_000])
def test_a_compressed_body_may_have_the_maximum_size(size: int) -> None:
    assert bytes(size) == decompress(gzip.compress(bytes(size)), 1_000)
    with pytest.raises(BodyTooLarge):
        decompress(gzip.compress(bytes(size + 1)), size)


def gzipped(raw: bytes, encoding: str) -> Delivery:
    return replace(delivery(raw), headers=((b"content-encoding", encoding.encode()),))


@each(
    ("sentence", "refuse"),
    [
        ("the body is empty", lambda: parse_body(delivery(b" \n"), "json")),
        ("the body is not JSON in UTF-8", lambda: parse_body(delivery(b"a=1"), "json")),
        ("the body is not JSON in UTF-8", lambda: parse_body(delivery(b"{a=1"), "json or form")),
        ("the body is not JSON in UTF-8", lambda: parse_body(delivery(b"[a=1"), "any")),
        ("the body is not a form", lambda: parse_body(delivery(b"[1]"), "json or form")),
        ("the body is not a form", lambda: parse_body(delivery(b"{}"), "form")),
        ("the body is not a form", lambda: parse_body(delivery(b"x"), "any")),
        ("the body is not a JSON Web Token", lambda: parse_body(delivery(b"{}"), "jwt")),
        ("the body is not a JSON Web Token", lambda: parse_body(delivery(b"a.b.c"), "jwt")),
        ("the body is not a JSON Web Token", lambda: parse_body(delivery(b"a.b.c"), "any")),
        ("the body does not match its content encoding", lambda: decompress(b"{}", 9)),
        ("the body does not match its content encoding", lambda: decompress(zlib.compress(b"{}"), 9)),
        ("the compressed body is not complete", lambda: decompress(gzip.compress(b"{}")[:-1], 9)),
        ("the compressed body is followed by other data", lambda: decompress(gzip.compress(b"{}") + b"x", 9)),
        (
            "this hook accepts application/json or text/json",
            lambda: check_content_type(delivery(b"", "text/plain"), "json"),
        ),
        (
            "this hook accepts application/x-www-form-urlencoded",
            lambda: check_content_type(delivery(b"", "text/json"), "form"),
        ),
        (
            "this hook accepts bodies without a content encoding",
            lambda: check_content_encoding(gzipped(b"", "gzip"), ()),
        ),
        (
            "this hook accepts bodies without a content encoding or gzip",
            lambda: check_content_encoding(gzipped(b"", "gzip, br"), ("gzip",)),
        ),
    ],
)
def test_an_error_about_a_compressed_body_names_its_cause(sentence: str, refuse: Callable[[], Any]) -> None:
    with pytest.raises((UnreadableBody, UnsupportedContentType, UnsupportedContentEncoding)) as refused:
        refuse()

    assert sentence == str(refused.value)


def test_an_encoding_of_the_tool_and_no_encoding_are_accepted() -> None:
    check_content_encoding(gzipped(b"", "x-gzip"), ("gzip",))
    check_content_encoding(gzipped(b"", "identity"), ())
    check_content_encoding(delivery(b""), ())


@each(
    ("expected", "written"),
    [
        (b"", b""), (b"A", b"QQ"), (b"A", b"QQ=="), (b"\xfb\xff", b"-_8"), (b"\0\0\x17", b"AAAX"),
        (None, b"QR"),  # its last four bits are lost
        (None, b"Q"), (None, b"+/8"), (None, b"Q Q"), (None, b"QQ=A"), (None, b"\xff\xff"), (None, b"=QQ"),
        (None, b"QQ== "),
    ],
)  # fmt: skip
def test_url_safe_base64_must_be_canonical(expected: bytes | None, written: bytes) -> None:
    assert expected == decode_base64url(written)


def test_an_event_contains_its_fetched_record() -> None:
    at = datetime(2026, 9, 21, 12, tzinfo=UTC)
    event = Event("source", Payload({}), datetime(2026, 9, 21, tzinfo=UTC), {"h": "1"})

    fetched = event.with_record({"id": True}, at, {"customer": {"id": True}, "gone": None}, "records/1")
    without_record = event.with_record(None, at)

    assert (
        replace(event, record=Payload({"id": True}), fetched_at=at, record_path="records/1", related=fetched.related)
        == fetched
    )
    assert {"customer": Payload({"id": True}), "gone": Payload(None)} == fetched.related
    assert replace(event, fetched_at=at) == without_record
    for place, error in (("record", fetched.record), ("customer", fetched.related["customer"])):
        assert error is not None
        with pytest.raises(Untranslatable, match=rf"^{place}\.id: expected text, found true or false$"):
            error.at("id").text()
