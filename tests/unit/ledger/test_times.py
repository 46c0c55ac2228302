"""Times for people."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from app.ledger.times import local_time
from tests.support.cases import each

NEW_YORK = ZoneInfo("America/New_York")


@each(
    ("expected", "utc", "zone"),
    [
        ("Jan 15, {year} 2:00 PM EST", "2019-01-15T19:00:00+00:00", NEW_YORK),
        ("Jul 4, {year} 12:05 AM EDT", "2019-07-04T04:05:59+00:00", NEW_YORK),
        ("Dec 31, {year} 7:30 PM EST", "2020-01-01T00:30:00+00:00", NEW_YORK),
        ("Jan 15, {year} 7:00 PM UTC", "2019-01-15T19:00:00+00:00", UTC),
        ("Jan 16, {year} 12:45 AM UTC+05:45", "2019-01-15T19:00:00+00:00", ZoneInfo("Asia/Kathmandu")),
        ("Jan 15, {year} 11:00 PM UTC+04:00", "2019-01-15T19:00:00+00:00", timezone(timedelta(hours=4))),
        ("Jan 15, {year} 11:00 PM UTC+04:00", "2019-01-15T19:00:00+00:00", ZoneInfo("Asia/Dubai")),
        ("Jan 1, {year} 12:00 AM UTC", "0001-01-01T00:00:00+00:00", NEW_YORK),
    ],
)
def test_a_time_is_shown_in_its_zone_which_is_named(expected: str, utc: str, zone: ZoneInfo) -> None:
    time = datetime.fromisoformat(utc)

    assert expected.format(year=f"{2019 if time.year > 1 else 1},") == local_time(time, zone)


def test_the_current_year_is_left_out() -> None:
    this_year = datetime.now(UTC).replace(month=3, day=14, hour=13, minute=9, second=7)

    assert "Mar 14, 1:09 PM UTC" == local_time(this_year, UTC)
    assert "Mar 14, 1:09:07 PM UTC" == local_time(this_year, UTC, "seconds")
