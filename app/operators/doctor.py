"""Checks of the settings, Redis, the workers and the Visits API, each with a fix."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import hiredis
import httpx

from app.ledger import keys
from app.ledger.bodies import Bodies
from app.ledger.connection_states import ConnectionState, ConnectionStates
from app.ledger.connections import TOKEN_PURPOSE, EncryptedHooks
from app.ledger.encryption import Keyring
from app.ledger.ledger import check_one_shard, known_accounts
from app.ledger.losses import Losses, visit_names
from app.ledger.redis import Redis, RedisAddress, RedisReadOnly, RedisUnavailable, ServerUnusable
from app.ledger.sentinel import find_primary
from app.ledger.times import iso_timestamp
from app.operators.hooks import list_hooks, load_stored_hooks
from app.settings.environment import (
    RANDOM_CHARACTERS,
    RECOMMENDED_KEY_CHARS,
    SettingsError,
    read_environment,
    unknown_variables,
)
from app.settings.model import Settings
from app.settings.platform import Platform, find_platform
from app.telemetry.connections import load_connections
from app.telemetry.health import STALE_AFTER_S, Backlog, Worker, live_workers, load_backlog, write_problem
from app.visits.client import tls_context
from app.webhooks.evidence import VERIFIED_BY
from app.webhooks.registry import source_title
from app.webhooks.source import Source

Result = Literal["ok", "warn", "fail", "down"]
MAX_CLOCK_DRIFT_S = 2.0
#: Together with the Redis timeout, less than the 10 s that a release may take.
API_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: `warn` may be intended, `fail` must be fixed, `down` is unreachable."""

    name: str
    result: Result
    detail: str
    fix: str = ""


async def examine(environ: Mapping[str, str], *, is_release: bool = False) -> AsyncIterator[Check]:
    """Yield all checks.

    is_release: before the processes of a new version start. Only wrong settings and an unreachable Redis stop a release.
    """
    try:
        # A release also starts a worker, which needs a token.
        settings = read_environment(environ, token_needed=is_release, sources_needed=True)
    except SettingsError as error:
        for problem in error.problems:
            yield Check(
                problem.name,
                "fail",
                f"{problem.rule}{problem.shape and f'; given: {problem.shape}'}",
                problem.fix,
            )
        return
    for check in _unknown_variables(environ):
        yield check
    async for check in _examine(settings, find_platform(environ), is_release):
        # The new version may fix the problem, so the problem must not stop the release.
        is_downgraded = is_release and check.result != "ok" and check.name != "redis"
        yield Check(check.name, "warn", check.detail, check.fix) if is_downgraded else check


async def _examine(settings: Settings, platform: Platform | None, is_release: bool) -> AsyncIterator[Check]:
    redis = Redis(RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify), timeout_s=3)
    if settings.secret_key:
        with suppress(RedisUnavailable):  # reported below
            await load_stored_hooks(EncryptedHooks(redis, settings.secret_key), settings)
    yield Check("settings", "ok", f"{len(settings.active_hooks)} of {len(settings.hooks)} hooks have a secret")
    for check in _settings_checks(settings):
        yield check
    try:
        await redis.command("PING")
        with suppress(RedisReadOnly):  # reported below: `redis.role` or `redis.writes`
            await check_one_shard(redis)
        async for check in _redis_checks(redis, settings):
            yield check
        if not is_release:
            async for check in _workers(redis, settings, platform):
                yield check
    except ServerUnusable as error:
        yield Check("redis", "fail", str(error))
    except RedisUnavailable as error:
        yield Check("redis", "down", str(error), "Check REDIS_URL and REDIS_TLS_VERIFY; until then deliveries get 503.")
    finally:
        await redis.close()
    for check in await asyncio.gather(*(_visits_api(settings, *account) for account in settings.tokens.items())):
        yield check
    for source in settings.oauth_apps:
        detail = (
            f"connects {source_title(source)} with a log-in; register the redirect URL {settings.redirect_uri(source)}"
        )
        yield Check(f"app {source}", "ok", detail)
    for hook in settings.active_hooks.values():
        if hook.account not in settings.tokens:
            fix = (
                f"Set a token of this account ({_token_setting(settings, hook.account)}), then {REPLAY_TOKEN_MISSING}."
            )
            yield Check(f"visits_api {hook.account}", "fail", f"no token for hook {hook.name}", fix)


REPLAY_TOKEN_MISSING = "`doorbell replay --state parked --reason token_missing --dry-run`"


def _token_setting(settings: Settings, account: str) -> str:
    """Return the variable of an account's token, or the command that sets it for a stored hook."""
    hooks = settings.hooks_for(account)
    with_token = [hook for hook in hooks if settings.hooks[hook].visits_api_token]
    if account == "main" and (settings.visits_api_token or not with_token):
        return "VISITS_API_TOKEN"
    hook = next(iter(with_token or hooks), "")
    if settings.is_stored(hook):
        return f"`doorbell hooks change {hook} --credentials`"
    return settings.setting_name(hook or "<NAME>", "VISITS_API_TOKEN")


#: By minor version, the first release that fixes the remote vulnerabilities of 2024 (CVE-2024-7592 and others).
PATCHED_PYTHON = {(3, 11): (3, 11, 10), (3, 12): (3, 12, 6)}


def _python(version: tuple[int, int, int]) -> Check:
    name, fixed = ".".join(map(str, version)), PATCHED_PYTHON.get(version[:2], version)
    if version >= fixed:
        return Check("python", "ok", name)
    wanted = ".".join(map(str, fixed))
    detail = f"{name} lacks security fixes that {wanted} has (CVE-2024-7592)"
    return Check("python", "warn", detail, f"Run Doorbell on Python {wanted} or newer.")


def _bodies(settings: Settings) -> Check:
    names = Bodies(settings.body_keys).key_ids
    if not names:
        return Check("bodies", "ok", "compressed, not encrypted: BODY_KEYS is not set")
    older_keys = f", older keys: {', '.join(names[1:])}" if names[1:] else ""
    return Check("bodies", "ok", f"compressed, and encrypted with key {names[0]}{older_keys}")


def _hooks(settings: Settings) -> list[Check]:
    checks = []
    for name, hook in settings.hooks.items():
        secrets, source = settings.setting_name(name, "SECRETS"), settings.source_for(name)
        missing = settings.missing_credentials(name)
        if not hook.secrets:
            checks.append(
                Check(
                    f"hook {name}",
                    "warn",
                    "no secret, so the hook is inactive",
                    _fix(settings, name, "rotate", secrets),
                )
            )
        elif missing:
            fix = _fix(settings, name, "change --credentials", ", ".join(missing))
            checks.append(Check(f"hook {name}", "fail", f"{source.definition.title}: records cannot be fetched", fix))
        elif len(hook.secrets) > 1:
            detail = f"{len(hook.secrets)} secrets are accepted"
            checks.append(Check(f"hook {name}", "ok", detail, "Remove the old secret when the tool uses the new one."))
        if hook.secrets and source.definition.signature.coverage != "body":
            checks.append(_weak_signature(name, source.definition))
        if hook.secrets and source.definition.evidence == "none":
            checks.append(_unverified(name, source.definition))
        if (
            any(len(secret) < RECOMMENDED_KEY_CHARS for secret in hook.secrets)
            and source.definition.signature.is_secret_user_chosen
        ):
            checks.append(_short(f"hook {name}", secrets))
    if not settings.active_hooks:
        checks.append(
            Check(
                "hooks",
                "warn",
                "no hook has a secret: no webhook is accepted",
                "Connect a tool, such as `doorbell connect calendly`; or set HOOKS__<NAME>__SECRETS.",
            )
        )
    return [*checks, *_shared_ids(settings)]


def _shared_ids(settings: Settings) -> Iterator[Check]:
    """Warn about hooks of one source that share an account, if its ids are unique only inside one system of the tool."""
    hooks = dict[tuple[str, str], list[str]]()
    for name, hook in settings.active_hooks.items():
        if not hook.source.definition.ids_are_global:
            hooks.setdefault((hook.source.name, hook.account), []).append(name)
    for (source, account), names in hooks.items():
        if len(names) > 1:
            detail = (
                f"{', '.join(sorted(names))} share the account {account}, and may have different visits with one id"
            )
            fix = "Give each its own Review Rover account, unless all get the events of one system."
            yield Check(f"source {source}", "warn", detail, fix)


def _fix(settings: Settings, hook: str, command: str, names: str) -> str:
    """Return how to set settings of a hook. command: of `doorbell hooks`, with its options, for a stored hook."""
    verb, _, options = command.partition(" ")
    return (
        f"Run `doorbell hooks {verb} {hook}{options and f' {options}'}`."
        if settings.is_stored(hook)
        else f"Set {names}."
    )


async def local_checks(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    """Yield the checks that need only the settings and Redis. Raises RedisUnavailable."""
    for check in [*_unknown_variables(os.environ), *_settings_checks(settings)]:
        yield check
    async for check in _redis_checks(redis, settings):
        yield check
    async for check in _workers(redis, settings, find_platform(os.environ)):
        yield check


def _unknown_variables(environ: Mapping[str, str]) -> list[Check]:
    return [Check(problem.name, "warn", problem.rule, problem.fix) for problem in unknown_variables(environ)]


def _settings_checks(settings: Settings) -> list[Check]:
    checks = [_python(sys.version_info[:3]), _public_url(settings), _bodies(settings)]
    return [*checks, *_keys(settings), *_hooks(settings)]


def _public_url(settings: Settings) -> Check:
    if settings.public_url:
        return Check("public_url", "ok", settings.public_url)
    detail = "PUBLIC_URL is not set: connections are not checked, and URLs in commands and alerts have no host"
    return Check("public_url", "warn", detail, "Set PUBLIC_URL to the URL of the web process.")


async def _redis_checks(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    for checks in (_redis, _tasks, _tenants, _stored_hooks, _tokens_in_urls, _connections):
        async for check in checks(redis, settings):
            yield check


async def _stored_hooks(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    for hook in list_hooks(settings):
        name = f"hook {hook.name}"
        if hook.state == "unusable":
            fix = f"Restore its key in SECRET_KEY, or change its settings; or `doorbell hooks remove {hook.name}`."
            yield Check(name, "fail", f"the stored hook cannot be used: {hook.detail.removesuffix('.')}", fix)
        elif hook.state == "overridden":
            detail = "a stored hook with this name is not used: the environment has one"
            yield Check(name, "warn", detail, f"Remove one: `doorbell hooks remove {hook.name}`, or its variables.")
    if len(settings.secret_key) < 2:
        return
    hooks = EncryptedHooks(redis, settings.secret_key)
    encrypted = (await hooks.load()).hooks
    if older := [
        name for name in sorted(encrypted) if settings.is_stored(name) and not hooks.has_newest_key(encrypted[name])
    ]:
        detail = f"stored hooks need an older key of SECRET_KEY: {', '.join(older)}"
        yield Check("stored hooks", "warn", detail, ENCRYPT)
    keyring, names = Keyring(settings.secret_key, TOKEN_PURPOSE), sorted(settings.hooks)
    tokens = await redis.pipeline([("GET", f"{keys.TOKEN}{name}") for name in names])
    if older := [name for name, token in zip(names, tokens, strict=True) if token and not keyring.is_newest(token)]:
        detail = f"tokens of hooks need an older key of SECRET_KEY: {', '.join(older)}"
        yield Check("tokens", "warn", detail, ENCRYPT)


ENCRYPT = "Run `doorbell hooks encrypt` before you remove the older key."


async def _tokens_in_urls(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    """Warn that the tools call URLs whose token may be made with an older key. The guard renews those that it manages."""
    if len(settings.secret_key) < 2:
        return
    states = await ConnectionStates(redis).all()
    names = [name for name, hook in settings.active_hooks.items() if hook.source.definition.signature.needs_secret_key]
    if by_hand := [name for name in sorted(names) if not states.get(name, ConnectionState(name)).is_managed]:
        detail = f"the URLs of hooks have a token that is made with SECRET_KEY: {', '.join(by_hand)}"
        fix = "Paste the output of `doorbell hook-url HOOK` into each tool before you remove the older key."
        yield Check("hook urls", "warn", detail, fix)


def _unverified(name: str, source: Source) -> Check:
    detail = f"the module for {source.title} is verified by {VERIFIED_BY[source.evidence]}"
    return Check(f"hook {name}", "warn", detail, "Compare its first deliveries with the tool before you rely on it.")


def _short(name: str, setting: str) -> Check:
    return Check(
        name, "warn", f"{setting} is shorter than {RECOMMENDED_KEY_CHARS} characters", f"Use {RANDOM_CHARACTERS}."
    )


def _keys(settings: Settings) -> list[Check]:
    """Warn about a missing SECRET_KEY, and about keys that are shorter than recommended."""
    keys = {
        "SECRET_KEY": settings.secret_key,
        "BODY_KEYS": settings.body_keys,
        "METRICS_TOKEN": filter(None, [settings.metrics_token]),
        "CONSOLE_PROXY_SECRET": filter(None, [settings.console_proxy_secret]),
    }
    short = [setting for setting, values in keys.items() if any(len(value) < RECOMMENDED_KEY_CHARS for value in values)]
    checks = [_short(setting, setting) for setting in short]
    if not settings.secret_key:
        detail = "SECRET_KEY is not set: there is no console, and hooks cannot be stored, only set as variables"
        checks.append(Check("SECRET_KEY", "warn", detail, f"Set it to {RANDOM_CHARACTERS}."))
    return checks


def _weak_signature(name: str, source: Source) -> Check:
    signed = "only some fields of the body" if source.signature.coverage == "fields" else "nothing of the body"
    detail = f"{source.title} signs {signed}: anyone with the URL and its token can forge a delivery"
    return Check(f"hook {name}", "warn", detail, "Keep the URL out of logs and e-mails; a new secret changes the URL.")


async def _redis(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    started = time.monotonic()
    info = await redis.info()
    took_ms = (time.monotonic() - started) * 1000
    server = f"{'Valkey ' + info['valkey_version'] if 'valkey_version' in info else 'Redis ' + info['redis_version']}"
    tls = ("verified" if redis.address.verify else "certificate not verified") if redis.address.is_tls else "no TLS"
    mode = ", cluster mode with one shard" if info.get("cluster_enabled") == "1" else ""
    yield Check("redis", "ok", f"{server} at {redis.address}{mode}, {tls}, {took_ms:.0f} ms")
    if info.get("role") != "master":
        yield Check("redis.role", "fail", "read-only: this is a replica", "Point REDIS_URL at the primary.")
    elif problem := await write_problem(redis):
        fix = (
            "MISCONF: Redis cannot save to its disk; free space there. NOREPLICAS: start its replicas, or lower "
            "min-replicas-to-write."
        )
        yield Check("redis.writes", "fail", f"no writes are accepted, deliveries get 503: {problem}", fix)
    yield _persistence(info, await _config(redis, "appendfsync"))
    yield _eviction(info)
    yield _memory(info)
    if redis.address.sentinel:
        yield await _sentinels(redis.address)
    async for check in _losses(redis):
        yield check
    if settings.ack == "replica":
        yield await _replica(redis, info)
    if settings.ack == "fsync" and await _config(redis, "appendfsync") != "always":
        detail = "ACK=fsync relies on this server's report of what is on its disk"
        yield Check("redis.ack", "warn", detail, "Set appendfsync always to be certain.")
    seconds, micros = await redis.command("TIME")
    drift_s = abs(time.time() - int(seconds) - int(micros) / 1e6)
    yield _clock("clock", drift_s, "the Redis server")


async def _losses(redis: Redis) -> AsyncIterator[Check]:
    """Report the last restart or failover of Redis."""
    losses = Losses(redis)
    loss = await losses.load()
    if loss is None:
        return
    when = f"Redis restarted or failed over at {iso_timestamp(loss.changed_at_ms)}"
    if lost := await losses.lost_visits():
        detail = f"{when} and lost writes: Review Rover has {visit_names(lost)}, whose changes are no longer stored"
        fix = (
            "Send these visits again from their tools, or run `doorbell catch-up HOOK`. ACK=replica prevents the loss."
        )
        yield Check("redis.losses", "warn", detail, fix)
    elif loss.problem and loss.audited_at_ms:
        yield Check("redis.losses", "warn", f"{when}; {loss.problem}", "Run `doorbell audit`.")
    elif not loss.audited_at_ms:
        yield Check("redis.losses", "ok", f"{when}; a worker will soon check what it lost")
    elif not loss.is_complete:
        detail = f"{when}; only the newest {loss.visit_count} visits were compared, and they are stored"
        yield Check("redis.losses", "warn", detail, "Run `doorbell audit`, which compares all visits.")
    else:
        yield Check("redis.losses", "ok", f"{when}, and lost no visit")


async def _sentinels(address: RedisAddress) -> Check:
    """Report how many Sentinels answer: a failover needs most of them."""
    assert address.sentinel
    count = len(address.sentinel.sentinels)
    alone = [address.sentinel._replace(sentinels=(each,)) for each in address.sentinel.sentinels]
    answers = await asyncio.gather(*(find_primary(each, address.tls) for each in alone), return_exceptions=True)
    problems = [str(answer) for answer in answers if isinstance(answer, BaseException)]
    detail = f"{count - len(problems)} of {count} Sentinels answer" + (f": {'; '.join(problems)}" if problems else "")
    if count < 3:
        return Check("redis.sentinel", "warn", detail, "Name three Sentinels or more: a failover needs a majority.")
    return Check("redis.sentinel", "warn" if problems else "ok", detail, "Start the others." if problems else "")


async def _replica(redis: Redis, info: Mapping[str, str]) -> Check:
    """Report whether ACK=replica can be kept."""
    fix = "Use Redis 7.2 or Valkey with an append-only file and a replica that has one too, or ACK=fsync."
    try:
        await redis.command("PUBLISH", keys.CHECK_CHANNEL, "")  # WAITAOF waits for the last write of this connection
        _, on_replicas = await redis.command("WAITAOF", 1, 1, 1_000)
    except hiredis.ReplyError as error:
        return Check("redis.ack", "fail", f"ACK=replica: deliveries get 503: {str(error)[:120]}", fix)
    if not on_replicas:
        detail = (
            f"ACK=replica: deliveries get 503: none of {info.get('connected_slaves', '0')} replicas writes to its disk"
        )
        return Check("redis.ack", "fail", detail, fix)
    return Check(
        "redis.ack", "ok", f"ACK=replica: 202 means on the disk of the primary and of a replica ({on_replicas} answer)"
    )


async def _config(redis: Redis, name: str) -> str:
    """Return a setting of Redis, or an empty string if a managed server hides it."""
    try:
        reply = await redis.command("CONFIG", "GET", name)
    except hiredis.ReplyError:
        return ""
    return reply[1].decode() if reply else ""


def _persistence(info: Mapping[str, str], fsync: str) -> Check:
    fix = "Use a plan or a setting with an append-only file (appendonly yes)."
    if info.get("aof_enabled") != "1":
        return Check(
            "redis.persistence", "warn", "no append-only file: a restart of Redis loses accepted deliveries", fix
        )
    loss = {
        "always": "no delivery that was answered 202 is lost",
        "everysec": "a crash of Redis or its machine may lose the last two seconds",
        "no": "a crash of the machine may lose the last 30 seconds",
    }.get(fsync, "this server does not report how often it is flushed")
    return Check("redis.persistence", "ok", f"append-only file, appendfsync {fsync or 'unknown'}: {loss}")


def _eviction(info: Mapping[str, str]) -> Check:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Check("redis.eviction", "ok", "noeviction: a full server rejects writes, and most senders retry")
    fix = "Set maxmemory-policy noeviction."
    return Check("redis.eviction", "fail", f"{policy}: a full server deletes accepted deliveries", fix)


def _memory(info: Mapping[str, str]) -> Check:
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not limit:
        return Check("redis.memory", "ok", f"{used / 1e6:.1f} MB used, no limit set")
    share = used / limit
    result: Result = "ok" if share < 0.7 else "warn" if share < 0.9 else "fail"
    fix = "" if share < 0.7 else "Use a larger plan, or lower RETENTION_DAYS."
    return Check("redis.memory", result, f"{used / 1e6:.1f} of {limit / 1e6:.1f} MB", fix)


def _clock(name: str, drift_s: float, against: str) -> Check:
    if drift_s <= MAX_CLOCK_DRIFT_S:
        return Check(name, "ok", f"differs by {drift_s:.1f} s from {against}")
    fix = "Synchronize the clock (NTP): signatures contain times."
    return Check(name, "warn" if drift_s < 60 else "fail", f"differs by {drift_s:.0f} s from {against}", fix)


async def _tasks(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    parked = await redis.command("ZCARD", keys.PARKED)
    if parked:
        yield Check(
            "failures",
            "warn",
            f"tasks need an operator: {parked}",
            "See `doorbell failures`, then `doorbell replay --state parked --dry-run`.",
        )
    backlog = await load_backlog(redis, settings.tokens)
    for check in _queue(backlog):
        yield check
    accounts = await known_accounts(redis, settings.tokens)
    for account in accounts:
        reason, since = await redis.command("HMGET", f"{keys.CIRCUIT}{account}", "kind", "since")
        if reason == b"paused" or (reason and account in settings.tokens):
            hooks, open_s = settings.hooks_for(account), time.time() - float(since) / 1000
            detail = f"{account} ({', '.join(hooks) or 'no hook'}): {reason.decode()}, for {open_s:.0f} s"
            fix = "Doorbell probes the API and closes the circuit when it recovers."
            if reason == b"paused":
                fix = f"`doorbell resume {hooks[0] if hooks else account}`"
            elif reason == b"unauthorized":
                fix = f"Set a valid token of this account ({_token_setting(settings, account)})."
            yield Check("visits_api.circuit", "warn", detail, fix)
    for account in accounts:
        held = 0 if account in settings.tokens else await redis.command("ZCARD", f"{keys.HELD}{account}")
        if held:
            fix = f"Set a token of this account ({_token_setting(settings, account)}), then {REPLAY_TOKEN_MISSING}."
            yield Check(f"visits_api {account}", "warn", f"{held} tasks held: the account has no token", fix)


async def _connections(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    """Report what the workers last saw at the tools."""
    for connection in await load_connections(redis, settings):
        if connection.problem:
            meaning, fix = connection.problem
            detail = f"{connection.state}: {connection.detail or meaning}"
            yield Check(f"connection {connection.hook}", "fail" if connection.can_ask else "warn", detail, fix)
        elif connection.can_ask:
            yield Check(
                f"connection {connection.hook}", "ok", f"{connection.state} at {source_title(connection.source)}"
            )


async def _tenants(redis: Redis, settings: Settings) -> AsyncIterator[Check]:
    """Warn if TENANTS excludes all events of a hook; such events are not stored."""
    for name, hook in settings.active_hooks.items():
        if not hook.settings.tenants:
            continue
        foreign = int(await redis.command("HGET", keys.REJECTIONS, f"{name}:foreign_tenant") or 0)
        if foreign and not await redis.command("EXISTS", f"{keys.DELIVERIES}{name}"):
            detail = f"all {foreign} events belong to accounts that are not in TENANTS; none was stored"
            setting = settings.setting_name(name, "TENANTS")
            fix = f"Compare {setting} with the accounts in `doorbell rejections --hook {name}`."
            yield Check(f"hook {name}", "warn", detail, fix)


def _queue(backlog: Backlog) -> list[Check]:
    ages = ", ".join(f"{state} {age_s:.0f} s" for state, age_s in backlog.ages_s.items() if age_s >= 1)
    detail = f"the oldest task has been due for {backlog.oldest_s:.0f} s" + (f" ({ages})" if ages else "")
    is_old = backlog.oldest_s > STALE_AFTER_S
    fix = "Check that a worker is running and that the Visits API answers." if is_old else ""
    checks = [Check("queue", "fail" if is_old else "ok", detail, fix)]
    if backlog.is_stalled:
        detail = f"tasks are due, and no task has finished for {backlog.no_progress_s:.0f} s"
        fix = "Start a worker. If one is running, check the end of its log and restart it. Nothing is lost."
        checks.append(Check("progress", "fail", detail, fix))
    return checks


async def _workers(redis: Redis, settings: Settings, platform: Platform | None) -> AsyncIterator[Check]:
    workers = await live_workers(redis)
    yield Check("worker", "ok", f"{len(workers)} running") if workers else _no_worker(settings, platform)
    hosts = {worker.configuration.get("public_url"): worker.host for worker in workers}
    for url, host in hosts.items():
        if url is not None and url != (settings.public_url or ""):  # workers of older versions do not tell it
            yield _other_public_url(host, url, settings)
    for check in _alerts(workers, settings):
        yield check


def _alerts(workers: Sequence[Worker], settings: Settings) -> Iterator[Check]:
    """Report alerts that nobody would post. Workers of older versions do not tell whether they do."""
    silent = [worker.host for worker in workers if worker.configuration.get("alerts") is False]
    fix = "Set ALERT_WEBHOOK_URL of web and worker."
    if settings.alert_webhook_url and silent:
        detail = f"the worker {silent[0]} has no ALERT_WEBHOOK_URL, and web posts no alerts while a worker runs"
        yield Check("worker.alerts", "warn", detail, fix)
    elif not settings.alert_webhook_url and any(worker.configuration.get("alerts") for worker in workers):
        detail = "this process has no ALERT_WEBHOOK_URL: if web has none either, nobody reports that no worker runs"
        yield Check("worker.alerts", "warn", detail, fix)


def _other_public_url(worker: str, url: str, settings: Settings) -> Check:
    """Report that a worker would take the subscriptions with the URL of web for outdated ones."""
    name, own = "worker.public_url", settings.public_url or ""
    if not url:
        detail = f"the worker {worker} has no PUBLIC_URL: it does not check or repair connections"
        return Check(name, "warn", detail, f"Set PUBLIC_URL of the worker to {own}.")
    if not own:
        detail = f"the worker {worker} has the PUBLIC_URL {url}, and this process has none"
        return Check(name, "warn", detail, f"Set PUBLIC_URL of web to {url}.")
    detail = (
        f"the worker {worker} has the PUBLIC_URL {url}, and replaces subscriptions with the URL {own} of this process"
    )
    return Check(name, "fail", detail, "Set PUBLIC_URL of web and worker to the same URL: the one that the tools call.")


def _no_worker(settings: Settings, platform: Platform | None) -> Check:
    detail = "no heartbeat for 30 s: deliveries are stored, but not applied"
    fix = f"Start the worker: {platform.start_worker}." if platform else "Start the worker process."
    if not settings.with_stored_hooks({}).tokens:  # a worker starts with those of the environment
        fix = "Set VISITS_API_TOKEN, without which no worker starts. Review Rover shows it under Settings, API."
    return Check("worker", "fail", detail, fix)


async def _visits_api(settings: Settings, account: str, token: str) -> Check:
    name, started = f"visits_api {account}", time.monotonic()
    try:
        headers, url = {"authorization": f"Bearer {token}"}, f"{settings.visits_api_url}/visits?limit=1"
        async with (
            asyncio.timeout(API_TIMEOUT_S),
            httpx.AsyncClient(trust_env=False, verify=tls_context()) as http,
            http.stream("GET", url, headers=headers) as response,
        ):
            pass  # only the head of the response is needed
    except (httpx.TimeoutException, TimeoutError):
        detail = f"{settings.visits_api_url} does not answer within {API_TIMEOUT_S:.0f} s"
        return Check(name, "down", detail, "Changes wait until it answers.")
    except httpx.HTTPError as error:
        detail = f"{settings.visits_api_url} cannot be reached ({type(error).__name__})"
        return Check(name, "down", detail, "Check VISITS_API_URL; until then changes wait.")
    took_ms = (time.monotonic() - started) * 1000
    if response.status_code in (401, 403):
        fix = f"Set a valid token of this account ({_token_setting(settings, account)})."
        return Check(name, "fail", f"{response.status_code}: the token is not accepted", fix)
    if response.status_code == 404 or response.is_redirect:
        detail = f"{response.status_code}: there is no Visits API at this address"
        return Check(name, "fail", detail, "Check VISITS_API_URL, then `doorbell replay --state parked --dry-run`.")
    if not response.is_success:
        return Check(name, "down", f"response {response.status_code}", "Changes wait until it recovers.")
    if "json" not in (kind := response.headers.get("content-type", "no content type")):
        return Check(
            name, "fail", f"the answer is {kind} and not JSON: this is not a Visits API", "Check VISITS_API_URL."
        )
    drift = _drift_s(response.headers.get("date"))
    note = f", its clock differs by {drift:.0f} s" if drift and drift > MAX_CLOCK_DRIFT_S else ""
    return Check(name, "ok", f"token accepted, {took_ms:.0f} ms{note}")


def _drift_s(date: str | None) -> float | None:
    try:
        return abs((datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds())
    except (ValueError, TypeError):
        return None


def exit_status(checks: list[Check]) -> int:
    """Return 3 if a check failed, else 4 if something is unreachable, else 0."""
    results = {check.result for check in checks}
    return 3 if "fail" in results else 4 if "down" in results else 0
