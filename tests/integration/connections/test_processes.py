"""Web processes and a worker follow the stored hooks while they run."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.connections.stored_hooks import DISCOVER_EVERY_S, StoredHooks
from app.demo import valkey
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.operators.actions import Actions, Actor
from app.settings.environment import read_environment
from app.settings.stored import build_hook
from tests.support.every_key import ACUITY, acuity_api
from tests.support.harness import Harness, sign_calendly, sign_standard, standard_body, wait_until
from tests.support.intake import new_event_body, start_web

KEY = "secret-key-of-the-tests-0123456789"
FIRST, SECOND = "the-first-signing-secret", "the-second-signing-secret"
CALENDLY = build_hook({"source": "calendly", "secrets": FIRST})
#: Every process has changed hooks within this time.
FOLLOWED_S = 5.0


def change(url: str, step: Callable[[StoredHooks, Actions], Any]) -> None:
    """Change stored hooks as the command line does."""

    async def run() -> None:
        settings = read_environment({"REDIS_URL": url, "SECRET_KEY": KEY, "VISITS_API_TOKEN": "token"})
        redis = Redis(RedisAddress(url))
        try:
            await step(StoredHooks(redis, settings), Actions(Ledger(redis, 30), settings, Actor("ada", "operator")))
        finally:
            await redis.close()

    asyncio.run(run())


#: The same delivery each time: the first is answered 202, its repeats 200.
BODY = new_event_body("calendly")
ACCEPTED = {200, 202}


def test_two_web_processes_and_a_worker_follow(harness: Harness) -> None:
    harness.env |= {"SECRET_KEY": KEY}
    webs = harness.start_web(), harness.start_web()
    harness.start_worker()

    def statuses(secret: str) -> set[int]:
        headers = sign_calendly(BODY, secret=secret)
        return {harness.http.post(f"{web.url}/hooks/north", content=BODY, headers=headers).status_code for web in webs}

    assert {404} == statuses(FIRST)

    change(harness.redis_url, lambda hooks, by: hooks.add("north", CALENDLY, by))
    wait_until(lambda: statuses(FIRST) <= ACCEPTED, FOLLOWED_S)
    wait_until(lambda: [visit for visit in harness.visits() if visit["external_id"].startswith("calendly-")])

    change(harness.redis_url, lambda hooks, by: hooks.rotate_secret("north", SECOND, by))
    wait_until(lambda: statuses(SECOND) <= ACCEPTED, FOLLOWED_S)
    assert statuses(FIRST) <= ACCEPTED

    change(harness.redis_url, lambda hooks, by: hooks.rotate_secret("north", SECOND, by, keep_old=False))
    wait_until(lambda: {401} == statuses(FIRST), FOLLOWED_S)

    with acuity_api() as api_url:  # the worker gets the event before it follows, and has to fetch the record
        credentials = {"USER_ID": "4711", "API_KEY": ACUITY["secret"]}
        acuity = build_hook({"secrets": ACUITY["secret"], "credentials": credentials, "api_url": api_url})
        change(harness.redis_url, lambda hooks, by: hooks.add("acuity", acuity, by))
        wait_until(
            lambda: harness.doorbell("ring", "acuity", "1", "--to", f"{webs[0].url}/hooks/acuity").returncode == 0
        )
        wait_until(lambda: harness.visit("acuity-123456789"))
        assert not harness.redis_command("ZCARD", "bell:state:parked")

    change(harness.redis_url, lambda hooks, by: hooks.remove("north", by))
    wait_until(lambda: {404} == statuses(SECOND), FOLLOWED_S)
    raw = standard_body("visit.created", "A")
    assert 202 == harness.post(raw, sign_standard(raw)).status_code
    log = "".join(web.log.read_text() for web in webs)
    assert "stored_hooks_loaded" in log
    assert not [secret for secret in (FIRST, SECOND, ACUITY["secret"]) if secret in log]


def test_an_unknown_hook_is_not_answered_404_before_the_stored_hooks_were_loaded(tmp_path: Path) -> None:
    port = valkey.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    server = valkey.start(port, tmp_path)
    change(url, lambda hooks, by: hooks.add("north", CALENDLY, by))
    asyncio.run(_stop(url))
    server.wait()
    try:
        with start_web(url, SECRET_KEY=KEY) as web:
            signed = sign_calendly(BODY, secret=FIRST)
            before = web.post(BODY, signed, "north")
            server = valkey.start(port, tmp_path)
            wait_until(lambda: web.post(BODY, signed, "north").status_code in ACCEPTED, FOLLOWED_S)
            unknown = wait_until(lambda: (reply := web.post(BODY, signed, "nobody")).status_code == 404 and reply)
    finally:
        server.kill()
        server.wait()

    assert (503, "hook_unavailable", "5") == (
        before.status_code,
        before.json()["error"],
        before.headers["retry-after"],
    )
    assert "no_such_hook" == unknown.json()["error"]


def test_no_signature_of_a_stored_hook_is_rejected_for_good_while_redis_is_away(tmp_path: Path) -> None:
    """Another process may have stored a newer secret, which the tool uses at once."""
    port = valkey.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    server = valkey.start(port, tmp_path)
    change(url, lambda hooks, by: hooks.add("north", CALENDLY, by))
    try:
        with start_web(url, SECRET_KEY=KEY) as web:
            wait_until(lambda: web.post(BODY, sign_calendly(BODY, secret=FIRST), "north").status_code in ACCEPTED)
            with_redis = web.post(BODY, sign_calendly(BODY, secret=SECOND), "north")
            server.kill()
            server.wait()
            time.sleep(DISCOVER_EVERY_S)
            without_redis = web.post(BODY, sign_calendly(BODY, secret=SECOND), "north")
    finally:
        server.kill()
        server.wait()

    assert (401, "signature_mismatch") == (with_redis.status_code, with_redis.json()["error"])
    assert (503, "hook_unavailable") == (without_redis.status_code, without_redis.json()["error"])


async def _stop(url: str) -> None:
    redis = Redis(RedisAddress(url))
    with suppress(RedisUnavailable):
        await redis.command("SHUTDOWN", "NOSAVE")


def test_a_stored_hook_that_cannot_be_decrypted_is_answered_503(redis_url: str, harness: Harness) -> None:
    change(redis_url, lambda hooks, by: hooks.add("north", CALENDLY, by))

    with start_web(redis_url, SECRET_KEY="another-key-of-the-tests-0123456789") as web:
        undecryptable = web.post(BODY, sign_calendly(BODY, secret=FIRST), "north")
        unknown = web.post(BODY, sign_calendly(BODY, secret=FIRST), "nobody")

    assert (503, 404) == (undecryptable.status_code, unknown.status_code)
