"""Stored bodies: compressed, encrypted with BODY_KEYS or plain, old and new together."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.ledger.compression import decompress
from app.ledger.ids import delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import BodyUnavailable, DeliveryInfo, NewDelivery
from app.ledger.redis import Redis
from app.settings.environment import SettingsError, read_environment
from app.webhooks.delivery import Delivery
from tests.support.harness import Harness, wait_until

OLD, NEW = "an-old-key-of-32-characters-....", "a-newer-key-of-32-characters-..."
RAW = b'{"email": "canary@example.com", "padding": "' + b"-" * 200 + b'"}'


async def accept_body(redis: Redis, *keys: str) -> str:
    """Accept a delivery with these BODY_KEYS and return its id."""
    delivery = Delivery("standard", "standard", (), RAW, datetime.now(UTC))
    meta = DeliveryInfo("standard", "standard", 1_790_000_000_000)
    written = await Ledger(redis, 30, keys).accept(NewDelivery(delivery, meta, [], "main", dedup_id=f"evt {keys}"))
    return written.delivery_id


async def load_body(redis: Redis, delivery: str, *keys: str) -> bytes:
    return (await Ledger(redis, 30, keys).load_delivery(delivery))[1]


@pytest.mark.parametrize(
    ("then", "now"),
    [((), ()), ((), (NEW,)), ((OLD,), (OLD,)), ((OLD,), (NEW, OLD)), ((NEW, OLD), (NEW,))],
    ids=["never encrypted", "enabled", "encrypted", "rotated", "old key removed"],
)
async def test_a_body_is_read_as_it_was_received(redis: Redis, then: tuple[str, ...], now: tuple[str, ...]) -> None:
    assert RAW == await load_body(redis, await accept_body(redis, *then), *now)


async def test_an_encrypted_body_is_unreadable_without_its_key_and_33_bytes_longer(redis: Redis) -> None:
    plain, encrypted = await accept_body(redis), await accept_body(redis, NEW)
    records = [await redis.command("GET", delivery_key(id)) for id in (plain, encrypted)]
    bodies = [record.partition(b"\n")[2] for record in records]

    assert RAW == decompress(bodies[0])
    assert bodies[0] not in bodies[1]
    assert len(records[1]) == len(records[0]) + 1 + 4 + 12 + 16


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["disabled", "replaced"])
async def test_a_missing_body_key_is_reported_in_a_sentence(redis: Redis, keys: tuple[str, ...]) -> None:
    delivery = await accept_body(redis, OLD)

    with pytest.raises(
        BodyUnavailable, match=r"encrypted with a key that BODY_KEYS lacks \([0-9a-f]{8}\)"
    ) as unavailable:
        await load_body(redis, delivery, *keys)

    assert ("body_key_unknown", "standard") == (unavailable.value.reason, unavailable.value.info.hook)


async def test_an_encrypted_body_is_unreadable_under_another_delivery_id(redis: Redis) -> None:
    source, target = await accept_body(redis, NEW), await accept_body(redis, NEW, OLD)
    await redis.command("SET", delivery_key(target), await redis.command("GET", delivery_key(source)))

    with pytest.raises(BodyUnavailable, match="was changed after it was encrypted"):
        await load_body(redis, target, NEW)


def test_a_short_body_key_is_rejected_without_showing_its_value() -> None:
    with pytest.raises(SettingsError, match="BODY_KEYS: must have 16 characters or more each") as error:
        read_environment({"REDIS_URL": "redis://127.0.0.1", "BODY_KEYS": f"{NEW} too-short-1234"})

    assert "1234" not in str(error.value)


def test_encrypted_bodies_work_in_all_commands_and_missing_keys_are_reported(harness: Harness, redis_url: str) -> None:
    harness.start_web(BODY_KEYS=OLD)
    harness.start_worker(BODY_KEYS=OLD)
    contact: dict[str, Any] = {"email": "canary@example.com", "first_name": "Canary"}
    response = harness.send("visit.created", "A", contact=contact, time_scheduled="2031-03-14T16:00:00Z")
    wait_until(lambda: harness.visit("standard-A"))
    id = response.json()["delivery"]

    revealed = harness.doorbell("show", id, "--show-personal-data", BODY_KEYS=f"{NEW} {OLD}")
    locked = harness.doorbell("show", id, "--show-personal-data", BODY_KEYS=NEW)
    replayed = harness.doorbell("replay", id, "--retranslate", "--dry-run", BODY_KEYS=NEW)
    doctor = harness.doorbell("doctor", BODY_KEYS=f"{NEW} {OLD}")

    assert "canary@example.com" in revealed.stdout
    assert (0, True) == (locked.returncode, "encrypted with a key that BODY_KEYS lacks" in locked.stdout), locked
    assert "encrypted with a key that BODY_KEYS lacks" in replayed.stdout, replayed
    [bodies_line] = [line for line in doctor.stdout.splitlines() if " bodies " in line]
    assert "encrypted with key" in bodies_line
    assert NEW not in bodies_line
    assert "older keys: " in bodies_line
