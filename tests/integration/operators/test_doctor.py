"""What `doorbell doctor` reports of settings, Redis and the Visits API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from app.ledger.redis import Redis, RedisAddress
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


async def test_the_url_of_the_platform_is_shown(redis: Redis) -> None:
    assert "https://bell.fly.dev" == (await checks(redis, FLY_APP_NAME="bell"))["public_url"].detail
    assert "warn" == (await checks(redis))["public_url"].result


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
