"""Stored hooks: what is in Redis, which settings a process has, and how several processes follow."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.connections.stored_hooks import StoredHooks
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.redis import Redis, RedisAddress
from app.operators.actions import Actions, Actor
from app.operators.activity_log import ActivityLog
from app.operators.doctor import examine
from app.operators.filter import ActivityFilter
from app.settings.environment import SettingsError, read_environment
from app.settings.model import Settings
from app.settings.stored import build_hook
from tests.support.harness import free_port

KEY, OLD_KEY = "secret-key-of-the-tests-0123456789", "older-key-of-the-tests-9876543210"
SECRET, OTHER_SECRET = "canary-of-a-signing-secret", "canary-of-another-secret"
CALENDLY = build_hook({"secrets": SECRET})
ACUITY = build_hook({"secrets": SECRET, "credentials": {"USER_ID": "1", "API_KEY": "canary-of-an-api-key"}})


def settings_of(redis: Redis, **env: str) -> Settings:
    return read_environment(
        {"REDIS_URL": redis.address.url, "SECRET_KEY": KEY, "VISITS_API_TOKEN": "main-token", **env}
    )


class Process:
    """What each web, worker and command has: its settings, and the stored hooks."""

    def __init__(self, redis: Redis, **env: str) -> None:
        self.settings, self.changes = settings_of(redis, **env), 0
        self.stored = StoredHooks(redis, self.settings, self._count)
        self.actions = Actions(Ledger(redis, 30), self.settings, Actor("ada", "operator"))

    def _count(self) -> None:
        self.changes += 1


@pytest.fixture
def process(redis: Redis) -> Process:
    return Process(redis)


async def problems(act: Any) -> list[str]:
    with pytest.raises(SettingsError) as error:
        await act
    return [problem.name for problem in error.value.problems]


async def test_a_saved_hook_is_active_in_every_process_that_loads(redis: Redis, process: Process) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)
    other = Process(redis)
    assert {} == other.settings.active_hooks

    await other.stored.load()

    hook = other.settings.active_hooks["calendly"]
    assert ("/hooks/calendly", (SECRET,), "main") == (hook.path, hook.settings.secrets, hook.account)
    assert other.settings.is_stored("calendly")


async def test_all_settings_of_a_hook_come_back_as_they_were(redis: Redis, process: Process) -> None:
    hook = build_hook(
        {
            "source": "acuity",
            "secrets": f"{SECRET} {OTHER_SECRET}",
            "credentials": {"USER_ID": "42", "API_KEY": "abc="},
            "api_url": "https://mirror.example.com/v1/",
            "visits_api_token": "own",
            "account": "east",
            "timezone": "Europe/Berlin",
            "tolerance": "600",
        }
    )
    await process.stored.save("shop", hook, process.actions)
    other = Process(redis)

    await other.stored.load()

    assert hook == other.settings.hooks["shop"]
    assert {"main": "main-token", "east": "own"} == other.settings.tokens


async def test_no_secret_is_in_redis_in_plain(redis: Redis, process: Process) -> None:
    await process.stored.save("acuity", ACUITY, process.actions)
    await process.stored.rotate_secret("acuity", OTHER_SECRET, process.actions)

    content = await everything(redis)
    assert b"acuity" in content
    assert b"canary" not in content


async def everything(redis: Redis) -> bytes:
    """Return all keys with their values."""
    commands = {b"hash": "HGETALL", b"stream": "XRANGE", b"string": "GET", b"zset": "ZRANGE", b"set": "SMEMBERS"}
    ranges = {b"stream": ("-", "+"), b"zset": (0, -1)}
    parts = []
    for key in await redis.command("KEYS", "*"):
        kind = await redis.command("TYPE", key)
        kind = kind if isinstance(kind, bytes) else kind.encode()
        parts += [key, repr(await redis.command(commands[kind], key, *ranges.get(kind, ()))).encode()]
    assert parts
    return b" ".join(parts)


async def test_a_value_cannot_be_moved_to_another_hook(redis: Redis, process: Process) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)
    encrypted = await redis.command("HGET", "bell:stored-hooks", "calendly")
    await redis.command("HSET", "bell:stored-hooks", "acuity", encrypted)

    await process.stored.load()

    assert ["calendly"] == list(process.settings.active_hooks)
    assert "changed after it was encrypted" in process.settings.unusable_hooks["acuity"]


async def test_a_hook_of_the_environment_wins(redis: Redis, process: Process) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)
    other = Process(redis, HOOKS__CALENDLY__SECRETS="secret-of-the-environment")

    await other.stored.load()

    assert ("secret-of-the-environment",) == other.settings.active_hooks["calendly"].settings.secrets
    assert not other.settings.is_stored("calendly")
    assert ["NAME"] == await problems(other.stored.save("calendly", CALENDLY, other.actions))


async def test_a_stored_hook_below_one_of_the_environment_can_be_removed(redis: Redis, process: Process) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)
    values = {"bell:token:calendly": b"tokens", "bell:move-hook:calendly": b"moved", "bell:move:main": b"a mark"}
    for key, value in values.items():
        await redis.command("SET", key, value)
    other = Process(redis, HOOKS__CALENDLY__SECRETS="secret-of-the-environment")

    await other.stored.remove("calendly", other.actions)

    await process.stored.load()
    assert {} == process.settings.hooks
    assert values == {key: await redis.command("GET", key) for key in values}, "they belong to the hook in use"


@pytest.mark.parametrize(
    ("name", "fields", "invalid"),
    [
        ("calendly", {"secrets": SECRET, "tenants": "one"}, ["TENANTS"]),
        ("shop", {"secrets": SECRET}, ["SECRETS"]),
        ("shop", {"secrets": SECRET, "source": "calendlyy"}, ["SOURCE"]),
        ("standard", {"secrets": "not-a-standard-secret"}, ["SECRETS"]),
        ("acuity", {"secrets": SECRET, "credentials": {"PASSWORD": "x"}}, ["CREDENTIALS__PASSWORD"]),
        ("square", {"secrets": SECRET}, ["PUBLIC_URL"]),
        ("Calendly", {"secrets": SECRET, "source": "calendly"}, ["NAME"]),
        ("../x", {"secrets": SECRET, "source": "calendly"}, ["NAME"]),
        ("calendly", {"secrets": SECRET, "account": "main", "visits_api_token": "own"}, ["ACCOUNT"]),
        ("calendly", {"secrets": SECRET, "account": "east", "visits_api_token": "main-token"}, ["ACCOUNT"]),
    ],
)
async def test_an_invalid_hook_is_not_stored(
    redis: Redis, process: Process, name: str, fields: dict[str, Any], invalid: list[str]
) -> None:
    assert invalid == await problems(process.stored.save(name, build_hook(fields), process.actions))

    for key in ("bell:stored-hooks", "bell:activity"):
        assert not await redis.command("EXISTS", key)


async def test_two_hooks_with_one_token_need_one_account(redis: Redis, process: Process) -> None:
    east = {"source": "calendly", "secrets": SECRET, "visits_api_token": "own"}
    await process.stored.save("east", build_hook(east), process.actions)
    assert {"east": "east"} == process.settings.accounts

    assert ["ACCOUNT"] == await problems(process.stored.save("a", build_hook(east), process.actions))
    await process.stored.save("a", build_hook(east | {"account": "east"}), process.actions)

    assert {"east": "east", "a": "east"} == process.settings.accounts


async def test_a_hook_that_became_invalid_is_skipped_with_a_warning(
    redis: Redis, process: Process, logged: list[Any]
) -> None:
    shop = {"source": "calendly", "secrets": SECRET, "visits_api_token": "own", "account": "east"}
    await process.stored.save("shop", build_hook(shop), process.actions)
    await process.stored.save("calendly", CALENDLY, process.actions)
    other = Process(
        redis, HOOKS__ACUITY__SECRETS="x" * 20, HOOKS__ACUITY__ACCOUNT="east", HOOKS__ACUITY__VISITS_API_TOKEN="another"
    )

    await other.stored.discover()

    assert ["acuity", "calendly"] == sorted(other.settings.hooks)
    assert "account east already has another token" in other.settings.unusable_hooks["shop"]
    assert [("stored_hook_unusable", "shop")] == [
        (entry["event"], entry["hook"]) for entry in logged if "hook" in entry
    ]


async def test_without_secret_key_nothing_is_stored_and_redis_is_not_asked(redis: Redis) -> None:
    process = Process(Redis(RedisAddress(f"redis://127.0.0.1:{free_port()}")), SECRET_KEY="")

    await process.stored.load()
    await process.stored.refresh()

    assert await process.stored.discover()
    assert ["SECRET_KEY"] == await problems(process.stored.save("calendly", CALENDLY, process.actions))


# Keys


async def test_a_hook_stays_readable_while_its_key_is_configured(redis: Redis) -> None:
    before = Process(redis, SECRET_KEY=OLD_KEY)
    await before.stored.save("calendly", CALENDLY, before.actions)
    rotating = Process(redis, SECRET_KEY=f"{KEY} {OLD_KEY}")
    await rotating.stored.load()
    assert ["calendly"] == list(rotating.settings.active_hooks)

    await rotating.stored.change("calendly", {}, rotating.actions)

    after = Process(redis)
    await after.stored.load()
    assert (SECRET,) == after.settings.active_hooks["calendly"].settings.secrets


async def test_a_hook_whose_key_was_removed_can_be_removed_and_added_again(redis: Redis) -> None:
    before, after = Process(redis, SECRET_KEY=OLD_KEY), Process(redis)
    await before.stored.save("calendly", CALENDLY, before.actions)
    await before.stored.save("acuity", build_hook({"secrets": SECRET}), before.actions)

    await after.stored.load()

    assert {} == after.settings.hooks
    assert {"acuity", "calendly"} == after.settings.unusable_hooks.keys()
    assert "a key that SECRET_KEY lacks" in after.settings.unusable_hooks["calendly"]
    assert ["NAME"] == await problems(after.stored.change("calendly", {"tolerance": 60}, after.actions))
    await after.stored.remove("acuity", after.actions)
    await after.stored.save("calendly", CALENDLY, after.actions)
    assert (["calendly"], {}) == (list(after.settings.active_hooks), after.settings.unusable_hooks)


# Changes


async def test_a_rotated_secret_is_first_and_the_old_one_stays_until_it_is_dropped(
    redis: Redis, process: Process
) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)

    await process.stored.rotate_secret("calendly", OTHER_SECRET, process.actions)
    assert (OTHER_SECRET, SECRET) == process.settings.active_hooks["calendly"].settings.secrets

    await process.stored.rotate_secret("calendly", OTHER_SECRET, process.actions, keep_old=False)
    assert (OTHER_SECRET,) == process.settings.active_hooks["calendly"].settings.secrets


async def test_two_changes_at_once_are_both_made(redis: Redis, process: Process) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)
    others = [Process(redis) for _ in range(3)]

    await asyncio.gather(
        process.stored.change("calendly", {"timezone": "Europe/Berlin"}, process.actions),
        others[0].stored.change("calendly", {"tolerance": 60}, others[0].actions),
        others[1].stored.rotate_secret("calendly", OTHER_SECRET, others[1].actions),
        others[2].stored.change("calendly", {"account": "east", "visits_api_token": "own"}, others[2].actions),
    )

    await process.stored.load()
    hook = process.settings.hooks["calendly"]
    assert ("Europe/Berlin", 60, (OTHER_SECRET, SECRET), "east") == (
        hook.timezone,
        hook.tolerance,
        hook.secrets,
        hook.account,
    )


async def test_only_an_unknown_name_can_be_added(redis: Redis, process: Process) -> None:
    await process.stored.add("calendly", CALENDLY, process.actions)

    assert ["NAME"] == await problems(process.stored.add("calendly", CALENDLY, process.actions))


@pytest.mark.parametrize(
    "act",
    [
        lambda process: process.stored.remove("calendly", process.actions),
        lambda process: process.stored.change("calendly", {"tolerance": 60}, process.actions),
        lambda process: process.stored.rotate_secret("calendly", SECRET, process.actions),
    ],
    ids=["remove", "change", "rotate"],
)
async def test_a_hook_that_is_not_stored_cannot_be_changed(process: Process, act: Callable[[Process], Any]) -> None:
    assert ["NAME"] == await problems(act(process))


async def test_the_number_and_the_size_of_stored_hooks_are_limited(redis: Redis, process: Process) -> None:
    hook = build_hook({"source": "calendly", "secrets": SECRET})
    large = build_hook({"source": "calendly", "secrets": "x" * 70_000})
    assert ["SECRETS"] == await problems(process.stored.save("large", large, process.actions))
    await redis.command(
        "HSET", "bell:stored-hooks", *(part for number in range(200) for part in (f"hook-{number}", ""))
    )

    assert ["NAME"] == await problems(process.stored.save("one-more", hook, process.actions))


async def test_every_act_is_in_the_activity_log_with_names_and_no_values(redis: Redis, process: Process) -> None:
    await process.stored.add("calendly", CALENDLY, process.actions)
    await process.stored.change("calendly", {"tolerance": 60, "credentials": {}}, process.actions)
    await process.stored.rotate_secret("calendly", OTHER_SECRET, process.actions)
    await process.stored.remove("calendly", process.actions)

    page = await ActivityLog(Ledger(redis, 30)).newest(ActivityFilter())

    assert [
        ("ada", "removed hook", "calendly"),
        ("ada", "rotated secret", "calendly: a new one is accepted"),
        ("ada", "changed hook", "calendly: credentials, tolerance"),
        ("ada", "added hook", "calendly"),
    ] == [(activity.actor, activity.action, activity.target) for activity in page.rows]


async def test_the_access_token_of_a_removed_hook_is_removed(redis: Redis, process: Process) -> None:
    await process.stored.save("calendly", CALENDLY, process.actions)
    await redis.command("SET", "bell:token:calendly", "encrypted")

    await process.stored.remove("calendly", process.actions)

    assert not await redis.command("EXISTS", "bell:token:calendly")


async def test_visits_of_a_removed_account_are_still_listed(redis: Redis, process: Process) -> None:
    east = {"source": "calendly", "secrets": SECRET, "visits_api_token": "own", "account": "east"}
    await process.stored.add("shop", build_hook(east), process.actions)

    await process.stored.remove("shop", process.actions)

    assert ["east", "main"] == await known_accounts(redis, process.settings.all_accounts)


async def test_two_operators_cannot_add_the_same_hook_at_once(redis: Redis, process: Process) -> None:
    other = Process(redis)
    others_hook = build_hook({"secrets": OTHER_SECRET})

    results = await asyncio.gather(
        process.stored.add("calendly", CALENDLY, process.actions),
        other.stored.add("calendly", others_hook, other.actions),
        return_exceptions=True,
    )

    assert [SettingsError] == [type(result) for result in results if result]


# Following


async def test_a_process_loads_only_after_a_change(redis: Redis, process: Process) -> None:
    other = Process(redis)
    await process.stored.save("calendly", CALENDLY, process.actions)
    for _ in range(3):
        await other.stored.refresh()
    assert 1 == other.changes

    await process.stored.remove("calendly", process.actions)
    await other.stored.refresh()

    assert (2, {}) == (other.changes, other.settings.active_hooks)


async def test_unknown_names_cost_one_question_a_second_for_all_requests(redis: Redis, process: Process) -> None:
    await process.stored.load()
    before = await gets(redis)

    for _ in range(20):
        assert all(await asyncio.gather(*(process.stored.discover() for _ in range(50))))

    assert 1 == await gets(redis) - before


async def gets(redis: Redis) -> int:
    calls = (await redis.info("commandstats")).get("cmdstat_get", "calls=0")
    return int(calls.split("=")[1].split(",")[0])


async def test_a_discovery_finds_a_hook_that_was_just_stored(redis: Redis, process: Process) -> None:
    other = Process(redis)
    await other.stored.load()
    await process.stored.save("calendly", CALENDLY, process.actions)

    assert await other.stored.discover()

    assert ["calendly"] == list(other.settings.active_hooks)


async def test_a_process_that_cannot_ask_does_not_know_what_is_stored(logged: list[Any]) -> None:
    process = Process(Redis(RedisAddress(f"redis://127.0.0.1:{free_port()}")))

    assert not await process.stored.discover()

    assert ["redis_unavailable"] == [entry["event"] for entry in logged]


# What `doorbell doctor` says


async def hook_checks(redis: Redis, **env: str) -> list[tuple[str, str, str]]:
    environ = {
        "REDIS_URL": redis.address.url,
        "VISITS_API_TOKEN": "main-token",
        "VISITS_API_URL": "http://127.0.0.1:1",
        **env,
    }
    checks = [check async for check in examine(environ)]
    return [(check.name, check.result, check.detail) for check in checks if "hook" in check.name]


async def test_doctor_names_the_hooks_that_need_an_older_key(redis: Redis) -> None:
    before = Process(redis, SECRET_KEY=OLD_KEY)
    await before.stored.save("calendly", CALENDLY, before.actions)

    [_, check] = await hook_checks(redis, SECRET_KEY=f"{KEY} {OLD_KEY}")

    assert ("stored hooks", "warn", "stored hooks need an older key of SECRET_KEY: calendly") == check


async def test_doctor_names_the_stored_hooks_that_are_not_used(redis: Redis) -> None:
    before = Process(redis, SECRET_KEY=OLD_KEY)
    await before.stored.save("calendly", CALENDLY, before.actions)
    await before.stored.save("shop", build_hook({"source": "calendly", "secrets": SECRET}), before.actions)
    other = {"SECRET_KEY": OLD_KEY, "HOOKS__SHOP__SOURCE": "calendly", "HOOKS__SHOP__SECRETS": "x" * 40}

    unusable = {name: result for name, result, _ in await hook_checks(redis, SECRET_KEY=KEY)}
    overridden = [check for check in await hook_checks(redis, **other) if check[0] == "hook shop"]

    assert {"hook calendly": "fail", "hook shop": "fail"} == {
        name: unusable[name] for name in ("hook calendly", "hook shop")
    }
    assert [("warn", "a stored hook with this name is not used: the environment has one")] == [
        check[1:] for check in overridden
    ]
