"""A worker gets a task of a hook, and of an account, that were stored a moment ago."""

from app.connections.stored_hooks import StoredHooks
from app.operators.actions import Actions, Actor
from app.settings.environment import read_environment
from app.settings.stored import build_hook
from tests.support.harness import TOKEN
from tests.support.tool_api import BOOKED, SPECIMENS, ToolWorld

KEY = "secret-key-of-the-tests-0123456789"


async def test_a_worker_finds_hook_and_account_without_having_followed(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    response = await world.receive("acuity", BOOKED)
    acuity = {
        "secrets": SPECIMENS["acuity"]["secret"],
        "api_url": world.default_env["HOOKS__ACUITY__API_URL"],
        "credentials": {"USER_ID": "4711", "API_KEY": SPECIMENS["acuity"]["secret"]},
        "account": "east",
        "visits_api_token": TOKEN,
    }
    world.default_env = {name: value for name, value in world.default_env.items() if "ACUITY" not in name}
    world.configure(SECRET_KEY=KEY, VISITS_API_TOKEN="token-of-the-main-account")
    operator = read_environment({**world.env, "SECRET_KEY": KEY, "VISITS_API_TOKEN": "token-of-the-main-account"})
    actions = Actions(world.ledger, operator, Actor("ada", "operator"))
    await StoredHooks(world.redis, operator).add("acuity", build_hook(acuity), actions)
    assert "acuity" not in world.context.settings.hooks

    await world.run()

    assert "done" == (await world.load_event(response)).state
    assert 1 == len(world.harness.visits())


async def test_the_event_of_a_removed_stored_hook_is_parked(world: ToolWorld) -> None:
    response = await world.receive("acuity", BOOKED)
    world.default_env = {name: value for name, value in world.default_env.items() if "ACUITY" not in name}
    world.configure(SECRET_KEY=KEY)

    await world.run()

    event = await world.load_event(response)
    assert ("parked", "hook_not_configured") == (event.state, event.reason)
