"""Bodies as they are kept: compressed, encrypted with BODY_KEYS or not, old and new side by side."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import BodyUnavailable, DeliveryInfo
from app.ledger.redis import Redis
from app.settings.environment import SettingsError, read_environment
from app.webhooks.delivery import Delivery
from tests.support.harness import Harness, wait_until

OLD, NEW = "an-old-key-of-32-characters-....", "a-newer-key-of-32-characters-..."
RAW = b'{"email": "canary@example.com", "padding": "' + b"-" * 200 + b'"}'


async def kept(redis: Redis, *keys: str) -> str:
    """A delivery that was accepted under these keys."""
    delivery = Delivery("standard", "standard", (), RAW, datetime.now(UTC))
    meta = DeliveryInfo("standard", "standard", 1_790_000_000_000)
    written = await Ledger(redis, 30, keys).accept(delivery, meta, [], "main", dedup_id=f"evt {keys}")
    return written.delivery_id


async def body(redis: Redis, delivery: str, *keys: str) -> bytes:
    return (await Ledger(redis, 30, keys).load_delivery(delivery))[1]


@pytest.mark.parametrize(
    ("then", "now"),
    [((), ()), ((), (NEW,)), ((OLD,), (OLD,)), ((OLD,), (NEW, OLD)), ((NEW, OLD), (NEW,))],
    ids=["never encrypted", "switched on", "encrypted", "rotated", "the old key taken out"],
)
async def test_a_body_is_read_as_it_rang(redis: Redis, then: tuple[str, ...], now: tuple[str, ...]) -> None:
    assert RAW == await body(redis, await kept(redis, *then), *now)


async def test_an_encrypted_body_says_nothing_without_its_key_and_is_no_larger_than_it_must_be(redis: Redis) -> None:
    plain, encrypted = await kept(redis), await kept(redis, NEW)
    records = [await redis.command("GET", f"bell:delivery:{id}") for id in (plain, encrypted)]

    assert b"canary@example.com" in records[0]  # what zstd cannot shorten stands there as it is
    assert b"canary" not in records[1]
    assert len(records[1]) == len(records[0]) + 1 + 4 + 12 + 16


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["switched off", "replaced"])
async def test_a_key_that_is_gone_is_said_in_a_sentence(redis: Redis, keys: tuple[str, ...]) -> None:
    delivery = await kept(redis, OLD)

    with pytest.raises(BodyUnavailable, match=r"encrypted with a key that BODY_KEYS lacks \([0-9a-f]{8}\)") as told:
        await body(redis, delivery, *keys)

    assert ("body_key_unknown", "standard") == (told.value.reason, told.value.info.hook)


async def test_an_encrypted_body_cannot_be_put_under_another_delivery(redis: Redis) -> None:
    one, other = await kept(redis, NEW), await kept(redis, NEW, OLD)
    await redis.command("SET", f"bell:delivery:{other}", await redis.command("GET", f"bell:delivery:{one}"))

    with pytest.raises(BodyUnavailable, match="was changed after it was encrypted"):
        await body(redis, other, NEW)


def test_a_short_key_is_refused_by_name_and_not_by_value() -> None:
    with pytest.raises(SettingsError, match="BODY_KEYS: must have 16 characters or more each") as told:
        read_environment({"REDIS_URL": "redis://127.0.0.1", "BODY_KEYS": f"{NEW} too-short-1234"})

    assert "1234" not in str(told.value)


def test_all_of_doorbell_works_with_encrypted_bodies_and_says_what_it_cannot_open(
    harness: Harness, redis_url: str
) -> None:
    harness.start_web(BODY_KEYS=OLD)
    harness.start_worker(BODY_KEYS=OLD)
    contact: dict[str, Any] = {"email": "canary@example.com", "first_name": "Canary"}
    rang = harness.send("visit.created", "A", contact=contact, time_scheduled="2031-03-14T16:00:00Z")
    wait_until(lambda: harness.visit("standard-A"))
    id = rang.json()["delivery"]

    revealed = harness.doorbell("show", id, "--show-personal-data", BODY_KEYS=f"{NEW} {OLD}")
    locked = harness.doorbell("show", id, "--show-personal-data", BODY_KEYS=NEW)
    replayed = harness.doorbell("replay", id, "--retranslate", "--dry-run", BODY_KEYS=NEW)
    examined = harness.doorbell("doctor", BODY_KEYS=f"{NEW} {OLD}")

    assert "canary@example.com" in revealed.stdout
    assert (0, True) == (locked.returncode, "encrypted with a key that BODY_KEYS lacks" in locked.stdout), locked
    assert "encrypted with a key that BODY_KEYS lacks" in replayed.stdout, replayed
    [told] = [line for line in examined.stdout.splitlines() if line.startswith("bodies")]
    assert "encrypted with key" in told
    assert NEW not in told
    assert "older keys: " in told
