"""What a person does after a deploy."""

from app.operators.next_steps import next_steps
from app.settings.environment import read_environment
from app.settings.platform import find_platform

HASH = "argon2id.v=19.m=65536,t=3,p=4.+wCWcNZPvnKLxrHdWsPvjA.TsYYKC/fTSxQmZYdMDyaMz6rp3bMjn5qq+7nKYOvXPk"


def steps(**environ: str) -> str:
    settings = read_environment({"REDIS_URL": "redis://127.0.0.1:6379/0", **environ})
    return "\n".join(next_steps(settings, find_platform(environ)))


def test_a_new_deploy_needs_a_password_and_a_tool() -> None:
    text = steps()

    assert "CONSOLE_PASSWORD_HASH" in text
    assert "`doorbell connect calendly`" in text


def test_a_configured_deploy_has_the_urls_of_the_console_and_the_hooks() -> None:
    text = steps(
        PUBLIC_URL="https://bell.example.com",
        SECRET_KEY="a-key-of-the-tests-0123456789abcdef",
        CONSOLE_PASSWORD_HASH=HASH,
        HOOKS__CALENDLY__SECRETS="a-secret-of-tests",
    )

    assert "https://bell.example.com/console" in text
    assert "Set the webhook URL at Calendly to https://bell.example.com/hooks/calendly." in text
    assert "CONSOLE_PASSWORD_HASH" not in text


def test_a_url_with_a_token_is_not_among_the_steps() -> None:
    text = steps(SECRET_KEY="a-key-of-the-tests-0123456789abcdef", HOOKS__APPOINTLET__SECRETS="a-secret-of-tests")

    assert "the URL that `doorbell hook-url appointlet` prints" in text
    assert "/hooks/" not in text


def test_the_commands_are_those_of_the_platform() -> None:
    assert "`heroku config:set NAME=VALUE`" in steps(DYNO="run.1")
    assert "heroku" not in steps()
