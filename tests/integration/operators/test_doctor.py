"""What `doorbell doctor` reports of settings, Redis and the Visits API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from app.ledger.connection_states import ConnectionState, ConnectionStates
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from app.operators.account_moves import configuration_of
from app.operators.doctor import Check, examine, exit_status, local_checks
from app.settings.environment import read_environment
from tests.support.harness import serving
from tests.support.sentinels import replicated


@asynccontextmanager
async def api_that_answers(response: Response) -> AsyncIterator[str]:
    with serving(Starlette(routes=[Route("/{path:path}", response)])) as url:
        yield f"{url}/api/v1"


async def checks(redis: Redis, is_release: bool = False, **environ: str) -> dict[str, Check]:
    environ = {
        "REDIS_URL": redis.address.url,
        "VISITS_API_TOKEN": "t",
        "VISITS_API_URL": "http://127.0.0.1:1",
        **environ,
    }
    return {check.name: check async for check in examine(environ, is_release=is_release)}


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (JSONResponse({"error": "not_found"}, 404), "404: there is no Visits API at this address"),
        (RedirectResponse("/login"), "307: there is no Visits API at this address"),
        (
            HTMLResponse("<h1>Welcome</h1>"),
            "the answer is text/html; charset=utf-8 and not JSON: this is not a Visits API",
        ),
    ],
    ids=["404", "redirect", "a website"],
)
async def test_another_server_at_the_address_of_the_visits_api_is_a_wrong_setting(
    redis: Redis, response: Response, detail: str
) -> None:
    async with api_that_answers(response) as url:
        check = (await checks(redis, VISITS_API_URL=url))["visits_api main"]

    assert ("fail", detail) == (check.result, check.detail)
    assert "VISITS_API_URL" in check.fix


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_failing_visits_api_is_down(redis: Redis, status: int) -> None:
    async with api_that_answers(JSONResponse({}, status)) as url:
        assert "down" == (await checks(redis, VISITS_API_URL=url))["visits_api main"].result


async def test_an_unreachable_visits_api_is_named_with_its_address(redis: Redis) -> None:
    check = (await checks(redis, VISITS_API_URL="http://127.0.0.1:1/api/v1"))["visits_api main"]

    assert ("down", "http://127.0.0.1:1/api/v1 cannot be reached (ConnectError)") == (check.result, check.detail)


async def test_an_http_server_at_the_address_of_redis_is_named_without_a_traceback(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with api_that_answers(JSONResponse({})) as url:
        report = await checks(redis, REDIS_URL=url.replace("http", "redis").replace("/api/v1", "/0"))

    assert 4 == exit_status(list(report.values()))
    assert "the server does not speak the protocol of Redis: check the address and its port" == report["redis"].detail
    assert [] == [record for record in caplog.records if record.name == "asyncio"]


async def test_a_variable_that_looks_like_a_setting_is_a_warning(redis: Redis) -> None:
    check = (await checks(redis, RETRY_FRIST_S="3"))["RETRY_FRIST_S"]

    assert ("warn", "Did you mean RETRY_FIRST_S?") == (check.result, check.fix)


async def test_the_console_reports_such_a_variable_and_names_the_platform_too(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRY_FRIST_S", "3")
    monkeypatch.setenv("DYNO", "web.1")
    settings = read_environment({"REDIS_URL": redis.address.url, "VISITS_API_TOKEN": "t"})

    report = {check.name: check async for check in local_checks(redis, settings)}

    assert "warn" == report["RETRY_FRIST_S"].result
    assert "heroku ps:scale worker=1" in report["worker"].fix


@pytest.mark.parametrize("setting", ["SECRET_KEY", "BODY_KEYS", "METRICS_TOKEN", "HOOKS__CALENDLY__SECRETS"])
async def test_a_short_secret_is_a_warning(redis: Redis, setting: str) -> None:
    report = await checks(redis, **{setting: "sixteen-letters-"})

    assert [("warn", f"{setting} is shorter than 32 characters")] == [
        (check.result, check.detail) for check in report.values() if setting in check.detail
    ]


def hook_of(source: str, name: str, **settings: str) -> dict[str, str]:
    secret = "a-secret-of-thirty-two-characters" if source != "standard" else "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="
    given = {"SOURCE": source, "SECRETS": secret, "TIMEZONE": "UTC", **settings}
    return {f"HOOKS__{name.upper()}__{setting}": value for setting, value in given.items()}


async def test_hooks_whose_ids_may_be_equal_are_a_warning_if_they_share_an_account(redis: Redis) -> None:
    west = hook_of("workiz", "west")
    own_account = {"VISITS_API_TOKEN": "another-token"}

    shared = await checks(redis, **west, **hook_of("workiz", "east"))
    separate = await checks(redis, **west, **hook_of("workiz", "east", **own_account))
    global_ids = await checks(redis, **hook_of("calendly", "one"), **hook_of("calendly", "two"))

    assert "warn" == shared["source workiz"].result
    assert "east, west share the account main" in shared["source workiz"].detail
    assert ("source workiz" in separate, "source calendly" in global_ids) == (False, False)


async def test_the_url_of_the_platform_is_shown(redis: Redis) -> None:
    assert "https://bell.fly.dev" == (await checks(redis, FLY_APP_NAME="bell"))["public_url"].detail
    assert "warn" == (await checks(redis))["public_url"].result


async def beat(redis: Redis, name: str, public_url: str, **environ: str) -> None:
    """Write the heartbeat of a worker with this PUBLIC_URL."""
    environ |= {"REDIS_URL": redis.address.url, "VISITS_API_TOKEN": "t", "PUBLIC_URL": public_url}
    report = {"host": name, "pid": 1, "configuration": configuration_of(read_environment(environ))}
    await Ledger(redis, 30).heartbeat(f"bell:worker:{name}", orjson.dumps(report), 30_000)


@pytest.mark.parametrize(
    ("of_worker", "of_web", "result", "words"),
    [
        (
            "",
            "https://a.example.com",
            "warn",
            ("worker-1 has no PUBLIC_URL", "of the worker to https://a.example.com."),
        ),
        ("https://a.example.com", "", "warn", ("https://a.example.com", "of web to https://a.example.com.")),
        ("https://b.example.com", "https://a.example.com", "fail", ("replaces subscriptions", "the same URL")),
    ],
    ids=["none in the worker", "none in web", "two"],
)
async def test_a_worker_with_another_public_url_is_a_problem(
    redis: Redis, of_worker: str, of_web: str, result: str, words: tuple[str, str]
) -> None:
    """Its guard compares the subscriptions at the tools with its own URL."""
    await beat(redis, "worker-1", of_worker)

    check = (await checks(redis, PUBLIC_URL=of_web))["worker.public_url"]

    assert result == check.result
    assert words[0] in check.detail
    assert words[1] in check.fix


@pytest.mark.parametrize(
    ("of_worker", "of_web", "words"),
    [
        ("", "https://hooks.example.com/x", "worker-1 has no ALERT_WEBHOOK_URL"),
        ("https://hooks.example.com/x", "", "nobody reports that no worker runs"),
    ],
    ids=["none in the worker", "none in web"],
)
async def test_alerts_that_only_one_process_would_post_are_a_problem(
    redis: Redis, of_worker: str, of_web: str, words: str
) -> None:
    await beat(redis, "worker-1", "", ALERT_WEBHOOK_URL=of_worker)

    check = (await checks(redis, ALERT_WEBHOOK_URL=of_web))["worker.alerts"]

    assert ("warn", True) == (check.result, words in check.detail)


@pytest.mark.parametrize("url", ["https://hooks.example.com/x", ""])
async def test_alerts_of_all_processes_or_of_none_are_no_problem(redis: Redis, url: str) -> None:
    await beat(redis, "worker-1", "", ALERT_WEBHOOK_URL=url)

    assert "worker.alerts" not in await checks(redis, ALERT_WEBHOOK_URL=url)


async def test_workers_with_the_same_public_url_and_of_older_versions_are_no_problem(redis: Redis) -> None:
    await beat(redis, "worker-1", "https://a.example.com")
    await Ledger(redis, 30).heartbeat("bell:worker:worker-2", b'{"host": "worker-2"}', 30_000)

    report = await checks(redis, PUBLIC_URL="https://a.example.com")

    assert ("2 running", False) == (report["worker"].detail, "worker.public_url" in report)


async def test_a_missing_secret_key_is_a_warning(redis: Redis) -> None:
    check = (await checks(redis))["SECRET_KEY"]

    assert ("warn", True) == (check.result, "openssl rand" in check.fix)
    assert "SECRET_KEY" not in await checks(redis, SECRET_KEY="a-key-of-32-characters-for-tests-0")


async def test_two_keys_and_a_url_with_a_token_are_a_warning(redis: Redis) -> None:
    """The token is made with the newest key; a URL with the old one is valid only as long as that key is set."""
    new, old = "a-key-of-32-characters-for-tests-1", "a-key-of-32-characters-for-tests-0"
    hooks = {"HOOKS__APPOINTLET__SECRETS": "a-secret-of-tests", "HOOKS__CALENDLY__SECRETS": "a-secret-of-tests"}
    hooks |= {"HOOKS__SERVICEM8__SECRETS": "a-secret", "HOOKS__SERVICEM8__TIMEZONE": "Australia/Sydney"}
    await ConnectionStates(redis).save(ConnectionState("servicem8", connected_by="ada"))  # the guard changes its URL

    during = (await checks(redis, SECRET_KEY=f"{new} {old}", **hooks))["hook urls"]

    assert ("warn", True) == (during.result, during.detail.endswith("SECRET_KEY: appointlet"))
    assert "doorbell hook-url HOOK" in during.fix
    assert "hook urls" not in await checks(redis, SECRET_KEY=new, **hooks)


#: Two hooks, of which only the second has an account, and a token, of its own.
EAST = {"HOOKS__EAST__SOURCE": "calendly", "HOOKS__EAST__SECRETS": "a-secret-of-tests"}
EAST |= {"HOOKS__CALENDLY__SECRETS": "a-secret-of-tests", "HOOKS__EAST__VISITS_API_TOKEN": "e"}


async def test_a_rejected_token_is_named_by_the_variable_of_its_account(redis: Redis) -> None:
    async with api_that_answers(JSONResponse({}, 401)) as url:
        report = await checks(redis, VISITS_API_URL=url, **EAST)

    assert "Set a valid token of this account (VISITS_API_TOKEN)." == report["visits_api main"].fix
    assert "Set a valid token of this account (HOOKS__EAST__VISITS_API_TOKEN)." == report["visits_api east"].fix


@pytest.mark.parametrize("account", ["main", "north"])
async def test_a_paused_account_without_hooks_is_resumed_by_its_name(
    redis: Redis, ledger: Ledger, account: str
) -> None:
    await ledger.pause(account)

    check = (await checks(redis))["visits_api.circuit"]

    assert ("warn", f"`doorbell resume {account}`") == (check.result, check.fix)
    assert check.detail.startswith(f"{account} (no hook): paused, for ")


async def test_the_circuit_of_a_rejected_token_asks_for_a_valid_one(redis: Redis) -> None:
    await redis.command("HSET", "bell:circuit:east", "kind", "unauthorized", "since", "0")

    assert "HOOKS__EAST__VISITS_API_TOKEN" in (await checks(redis, **EAST))["visits_api.circuit"].fix


async def test_an_account_without_a_token_is_named_with_its_variable(redis: Redis) -> None:
    hooks = {"HOOKS__CALENDLY__SECRETS": "a-secret-of-tests", "HOOKS__CALENDLY__ACCOUNT": "shop"}

    check = (await checks(redis, **hooks))["visits_api shop"]

    assert "Set a token of this account (HOOKS__CALENDLY__VISITS_API_TOKEN)" in check.fix


async def test_the_fix_of_a_missing_worker_is_a_command_of_the_platform(redis: Redis) -> None:
    assert "heroku ps:scale worker=1" in (await checks(redis, DYNO="run.1"))["worker"].fix


async def test_the_fix_of_a_worker_that_cannot_start_is_its_token(redis: Redis) -> None:
    check = (await checks(redis, VISITS_API_TOKEN=""))["worker"]

    assert ("fail", True) == (check.result, check.fix.startswith("Set VISITS_API_TOKEN"))


async def test_sentinels_and_a_replica_that_writes_to_its_disk_are_reported() -> None:
    with replicated(replicas=1) as servers:
        redis = Redis(RedisAddress(servers.url))
        reported = await checks(redis, ACK="replica")
        servers.client(servers.servers[1]).config_set("appendonly", "no")
        without_file = await checks(redis, ACK="replica")
        await redis.close()

    assert ("ok", "3 of 3 Sentinels answer") == (reported["redis.sentinel"].result, reported["redis.sentinel"].detail)
    assert "ok" == reported["redis.ack"].result
    assert "fail" == without_file["redis.ack"].result


async def test_ack_replica_without_a_replica_fails(redis: Redis) -> None:
    check = (await checks(redis, ACK="replica"))["redis.ack"]

    assert "fail" == check.result
    assert "deliveries get 503" in check.detail
