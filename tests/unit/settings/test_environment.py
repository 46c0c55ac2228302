"""Settings from the environment. All problems are reported at once, without the values."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings.environment import (
    COMMON_VARIABLES,
    SettingsError,
    env_example,
    read_environment,
    unknown_variables,
)
from app.settings.model import Settings
from tests.support.cases import each
from tests.support.harness import SECRET
from tests.support.processes import ROOT, run_process

REDIS = {"REDIS_URL": "redis://127.0.0.1:6379/0"}
#: A part of every invalid value, which must appear in no message.
CANARY = "canary"


def problems(token_needed: bool = False, redis_needed: bool = True, **environ: str) -> dict[str, Any]:
    """Return the problems by the name of the setting."""
    with pytest.raises(SettingsError) as error:
        read_environment(environ, redis_needed=redis_needed, token_needed=token_needed)
    assert CANARY not in str(error.value).lower()
    assert str(error.value).splitlines() == [str(problem) for problem in error.value.problems]
    return {problem.name: problem for problem in error.value.problems}


# Defaults


@each(
    ("name", "default"),
    [
        ("visits_api_url", "https://dashboard.reviewrover.co/api/v1"),
        ("redis_tls_verify", "required"),
        ("visits_api_token", None),
        ("visits_api_rate", None),
        ("retry_first_s", 5),
        ("retry_cap_s", 3_600),
        ("retry_for_s", 259_200),  # three days
        ("public_url", None),
        ("secret_key", ()),
        ("max_body", 262_144),  # 256 KiB
        ("metrics_token", None),
        ("hooks", {}),
        ("active_hooks", {}),
    ],
)
def test_an_unset_setting_has_its_default(name: str, default: object) -> None:
    assert default == getattr(read_environment(REDIS), name)


def test_deliveries_are_stored_for_longer_than_repeats_are_detected() -> None:
    assert "RETENTION_DAYS" in problems(**REDIS, RETENTION_DAYS="8")
    assert 9 == read_environment({**REDIS, "RETENTION_DAYS": "9"}).retention_days


@each("blank", ["", " ", "\t"])
def test_an_empty_variable_counts_as_unset(blank: str) -> None:
    settings = read_environment(
        {**REDIS, "MAX_BODY": blank, "HOOKS__STANDARD__SECRETS": blank, "VISITS_API_TOKEN": blank}
    )

    assert (262_144, {}, None) == (settings.max_body, settings.active_hooks, settings.visits_api_token)


@each("url", ["redis://h", "rediss://:pw@h:6380/1", "unix:///run/redis.sock?db=2"])
def test_redis_url_has_three_schemes(url: str) -> None:
    assert url == read_environment({"REDIS_URL": url}).redis_url


def test_redis_is_required_unless_redis_needed_is_false() -> None:
    assert "REDIS_URL" in problems()
    assert None is read_environment({}, redis_needed=False).redis_url


def test_the_worker_requires_a_token_and_accepts_the_token_of_a_hook() -> None:
    assert "VISITS_API_TOKEN" in problems(token_needed=True, **REDIS)
    own = {"HOOKS__CALENDLY__SECRETS": "a-secret-of-tests", "HOOKS__CALENDLY__VISITS_API_TOKEN": "own"}
    assert ["own"] == list(read_environment({**REDIS, **own}, token_needed=True).tokens.values())


# Hooks


def test_the_name_of_a_hook_is_its_source_and_path_by_default() -> None:
    settings = read_environment({**REDIS, "HOOKS__CALENDLY__SECRETS": "a-secret-of-tests"})

    hook = settings.active_hooks["calendly"]
    assert ("/hooks/calendly", "calendly", ("a-secret-of-tests",)) == (
        hook.path,
        hook.source.name,
        hook.settings.secrets,
    )


def test_a_hook_with_another_name_sets_its_source() -> None:
    settings = read_environment(
        {**REDIS, "HOOKS__NORTH_SHOP__SOURCE": "calendly", "HOOKS__NORTH_SHOP__SECRETS": "a-secret-of-tests"}
    )

    assert [("north_shop", "calendly")] == [(name, hook.source.name) for name, hook in settings.active_hooks.items()]


@each("value", ["the-first-one the-second-one", "  the-first-one\tthe-second-one ", "the-first-one\nthe-second-one"])
def test_several_secrets_are_separated_by_white_space(value: str) -> None:
    settings = read_environment({**REDIS, "HOOKS__CALENDLY__SECRETS": value})

    assert ("the-first-one", "the-second-one") == settings.active_hooks["calendly"].settings.secrets


def test_a_hook_without_a_secret_is_not_active() -> None:
    settings = read_environment({**REDIS, "HOOKS__CALENDLY__TIMEZONE": "America/New_York"})

    assert {} == settings.active_hooks


def test_all_settings_of_a_hook_are_read() -> None:
    hook = {
        "SECRETS": "a-secret-of-tests",
        "SOURCE": "acuity",
        "CREDENTIALS__USER_ID": "42",
        "CREDENTIALS__API_KEY": "abc=",
        "API_URL": "https://mirror.example.com/v1/",
        "VISITS_API_TOKEN": "own",
        "TIMEZONE": "Europe/Berlin",
        "TOLERANCE": "600",
    }

    read_hook = read_environment({**REDIS, **{f"HOOKS__SHOP__{name}": value for name, value in hook.items()}}).hooks[
        "shop"
    ]

    assert {"USER_ID": "42", "API_KEY": "abc="} == read_hook.credentials
    assert ("https://mirror.example.com/v1", "own", 600) == (
        read_hook.api_url,
        read_hook.visits_api_token,
        read_hook.tolerance,
    )
    assert "Europe/Berlin" == str(read_hook.zone)


def test_credentials_for_exchanging_tokens_are_read() -> None:
    oauth = {f"HOOKS__JOBBER__CREDENTIALS__{name}": "x" for name in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")}

    assert 3 == len(read_environment({**REDIS, **oauth}).hooks["jobber"].credentials)


# Accounts


def tokens(**environ: str) -> dict[str, str | None]:
    """Return the Visits API token of each hook."""
    settings = read_environment({**REDIS, **environ})
    return {hook: settings.tokens.get(account) for hook, account in settings.accounts.items()}


def test_a_hook_uses_the_main_token_unless_it_has_its_own() -> None:
    assert {"calendly": "M", "square": "S", "acuity": "M"} == tokens(
        VISITS_API_TOKEN="M",
        HOOKS__CALENDLY__SECRETS="a-secret-of-tests",
        HOOKS__SQUARE__VISITS_API_TOKEN="S",
        HOOKS__ACUITY__VISITS_API_TOKEN="M",
    )


OWN_TOKENS = {
    f"HOOKS__{name}__VISITS_API_TOKEN": token for name, token in [("SQUARE", "S"), ("ACUITY", "S"), ("JOBBER", "J")]
}


def test_hooks_with_the_same_account_share_it() -> None:
    named = {"HOOKS__SQUARE__ACCOUNT": "east", "HOOKS__ACUITY__ACCOUNT": "east"}

    settings = read_environment(
        {**REDIS, "VISITS_API_TOKEN": "M", "HOOKS__CALENDLY__SECRETS": SECRET, **OWN_TOKENS, **named}
    )

    assert {"square": "east", "acuity": "east", "jobber": "jobber", "calendly": "main"} == settings.accounts
    assert {"east": "S", "jobber": "J", "main": "M"} == settings.tokens


def test_the_token_of_one_hook_applies_to_all_hooks_of_its_account() -> None:
    named = {"HOOKS__SQUARE__ACCOUNT": "east", "HOOKS__ACUITY__ACCOUNT": "east", "HOOKS__SQUARE__VISITS_API_TOKEN": "S"}

    assert {"square": "S", "acuity": "S"} == tokens(**named)


def test_a_new_hook_never_renames_the_account_of_another() -> None:
    before = {"HOOKS__SQUARE__VISITS_API_TOKEN": "S"}

    assert "HOOKS__ACUITY__ACCOUNT" in problems(**REDIS, **before, HOOKS__ACUITY__VISITS_API_TOKEN="S")
    after = read_environment(
        {**REDIS, **before, "HOOKS__ACUITY__VISITS_API_TOKEN": "S", "HOOKS__ACUITY__ACCOUNT": "square"}
    )
    assert {"square": "square", "acuity": "square"} == after.accounts


@each(
    ("environ", "setting"),
    [
        ({"HOOKS__SQUARE__ACCOUNT": "east", "HOOKS__JOBBER__ACCOUNT": "east"}, "HOOKS__JOBBER__ACCOUNT"),
        ({"HOOKS__JOBBER__ACCOUNT": "main", "VISITS_API_TOKEN": "M"}, "HOOKS__JOBBER__ACCOUNT"),
        ({"HOOKS__JOBBER__ACCOUNT": "East/1"}, "HOOKS__JOBBER__ACCOUNT"),
    ],
    ids=["two tokens", "another token than main", "invalid name"],
)
def test_an_account_has_one_token_and_a_plain_name(environ: dict[str, str], setting: str) -> None:
    own = {name: token for name, token in OWN_TOKENS.items() if "ACUITY" not in name}

    assert [setting] == list(problems(**REDIS, **own, **environ))


# Authentication


def test_a_hook_accepts_only_signatures_unless_auth_allows_bearer() -> None:
    def scheme(**auth: str) -> str:
        settings = read_environment({**REDIS, "HOOKS__STANDARD__SECRETS": SECRET, **auth})
        return type(settings.active_hooks["standard"].source.definition.signature).__name__

    assert "StandardWebhooks" == scheme()
    assert "HeaderToken" == scheme(HOOKS__STANDARD__AUTH="bearer")
    assert "FirstPresent" == scheme(HOOKS__STANDARD__AUTH="signature bearer")


@each(("source", "auth"), [("STANDARD", "password"), ("STANDARD", "signature password"), ("CALENDLY", "bearer")])
def test_an_unsupported_form_of_authentication_is_a_problem(source: str, auth: str) -> None:
    environ = {f"HOOKS__{source}__SECRETS": SECRET, f"HOOKS__{source}__AUTH": auth}

    assert [f"HOOKS__{source}__AUTH"] == list(problems(**REDIS, **environ))


# Examples and weak keys

EXAMPLES = ["SECRET_KEY", "BODY_KEYS", "METRICS_TOKEN", "CONSOLE_PROXY_SECRET", "VISITS_API_TOKEN"]


@each("setting", [*EXAMPLES, "HOOKS__CALCOM__SECRETS", "HOOKS__ACUITY__CREDENTIALS__API_KEY"])
@each(
    "value",
    [
        "change-me",
        "change-me-to-32-random-characters",
        "Change-Me-To-Something-Long",
        "changeme-to-a-long-secret",
        "CHANGE_ME",
    ],
)
def test_a_value_of_an_example_is_a_problem(setting: str, value: str) -> None:
    reported = problems(**REDIS, **{setting: value})

    assert {setting} == reported.keys() - {"CONSOLE_PROXY_HEADER"}


def test_env_example_has_no_values_of_secrets() -> None:
    shown = dict(line.removeprefix("#").split("=", 1) for line in env_example().splitlines() if "=" in line)

    assert {""} == {shown[setting] for setting in EXAMPLES}


@each("setting", ["SECRET_KEY", "BODY_KEYS"])
@each("key", ["abc", "fifteen-letters", "a" * 40])
def test_a_weak_key_is_a_problem(setting: str, key: str) -> None:
    assert [setting] == list(problems(**REDIS, **{setting: f"{'0123456789abcdef' * 2} {key}"}))


@each("name", ["main", "hook", "visit", "event"])
def test_a_hook_of_any_name_uses_its_own_token(name: str) -> None:
    source, token = f"HOOKS__{name.upper()}__SOURCE", f"HOOKS__{name.upper()}__VISITS_API_TOKEN"

    assert {name: "OWN", "jobber": "M"} == tokens(
        **{source: "calendly", token: "OWN"}, VISITS_API_TOKEN="M", HOOKS__JOBBER__SECRETS="a-secret-of-tests"
    )


def test_cells_are_names_with_urls() -> None:
    sentinels = "redis+sentinel://:pa=ss@a,b:26379,c/mymaster/0?sentinel_username=u"
    value = f"east=redis://10.0.0.1:6379/0, west={sentinels},north=unix:///run/redis.sock"

    assert {
        "east": "redis://10.0.0.1:6379/0",
        "west": sentinels,
        "north": "unix:///run/redis.sock",
    } == read_environment(REDIS | {"CELLS": value}).cells


# Problems

INVALID: list[tuple[dict[str, str], list[str]]] = [
    ({"REDIS_URL": "https://canary"}, ["REDIS_URL"]),
    ({"REDIS_URL": "canary"}, ["REDIS_URL"]),
    ({"REDIS_URL": "redis://:pa/canary@127.0.0.1:6379"}, ["REDIS_URL"]),  # a `/` that was not written as %2F
    ({"REDIS_URL": "redis://127.0.0.1:canary"}, ["REDIS_URL"]),
    ({"REDIS_URL": "redis://:12#canary@127.0.0.1:6379"}, ["REDIS_URL"]),  # `#`, `?` and `/` end the host of a URL
    ({"REDIS_URL": "redis://:12?canary@127.0.0.1:6379"}, ["REDIS_URL"]),
    ({"REDIS_URL": "redis://user:/canary@127.0.0.1:6379"}, ["REDIS_URL"]),
    ({"REDIS_URL": "redis://canary..example.com:6379"}, ["REDIS_URL"]),
    ({"REDIS_URL": "redis+sentinel://canary:26379x,b/mymaster/0"}, ["REDIS_URL"]),
    ({"REDIS_URL": "unix://"}, ["REDIS_URL"]),
    ({"REDIS_TLS_VERIFY": "canary"}, ["REDIS_TLS_VERIFY"]),
    ({"CELL": "East canary"}, ["CELL"]),
    ({"CELLS": "redis://canary:6379/0"}, ["CELLS"]),
    ({"CELLS": "east=https://canary"}, ["CELLS"]),
    ({"CELLS": "east=redis://canary:1/0,east=redis://canary:2/0"}, ["CELLS"]),
    ({"VISITS_API_URL": "ftp://canary"}, ["VISITS_API_URL"]),
    ({"VISITS_API_URL": "https:///canary"}, ["VISITS_API_URL"]),
    ({"VISITS_API_URL": "https://api.example.com:canary"}, ["VISITS_API_URL"]),
    ({"VISITS_API_URL": "https://api.example.com\n/canary"}, ["VISITS_API_URL"]),
    ({"VISITS_API_URL": "https://api.example.com/ canary"}, ["VISITS_API_URL"]),
    ({"VISITS_API_URL": "https://canary..example.com"}, ["VISITS_API_URL"]),
    ({"VISITS_API_TOKEN": "canary\u200b"}, ["VISITS_API_TOKEN"]),  # no header can have it: every call would fail
    ({"VISITS_API_TOKEN": "“canary”"}, ["VISITS_API_TOKEN"]),
    ({"VISITS_API_TOKEN": "canary\ncanary"}, ["VISITS_API_TOKEN"]),
    ({"HOOKS__STANDARD__VISITS_API_TOKEN": "canary…"}, ["HOOKS__STANDARD__VISITS_API_TOKEN"]),
    ({"METRICS_TOKEN": "canary\u200b"}, ["METRICS_TOKEN"]),
    ({"VISITS_API_RATE": "0"}, ["VISITS_API_RATE"]),
    ({"VISITS_API_RATE": "nan"}, ["VISITS_API_RATE"]),
    ({"VISITS_API_RATE": "0.19"}, ["VISITS_API_RATE"]),
    ({"RETRY_FIRST_S": "-1"}, ["RETRY_FIRST_S"]),
    ({"RETRY_FIRST_S": "10", "RETRY_CAP_S": "5"}, ["RETRY_FIRST_S"]),
    ({"RETRY_CAP_S": "inf"}, ["RETRY_CAP_S"]),
    ({"RETRY_FOR_S": "canary"}, ["RETRY_FOR_S"]),
    ({"PUBLIC_URL": "canary.example.com"}, ["PUBLIC_URL"]),
    ({"MAX_BODY": "256k-canary"}, ["MAX_BODY"]),
    ({"MAX_BODY": "-1"}, ["MAX_BODY"]),
    ({"MAX_BODY": "9" * 5_000}, ["MAX_BODY"]),
    ({"RETENTION_DAYS": "0"}, ["RETENTION_DAYS"]),
    ({"ACK": "canary"}, ["ACK"]),
    ({"LOG_FORMAT": "canary"}, ["LOG_FORMAT"]),
    ({"LOG_LEVEL": "canary"}, ["LOG_LEVEL"]),
    ({"HOOKS__NOBODY__SECRETS": "canary"}, ["HOOKS__NOBODY__SECRETS"]),
    ({"HOOKS__SHOP__SECRETS": "canary", "HOOKS__SHOP__SOURCE": "canary"}, ["HOOKS__SHOP__SOURCE"]),
    ({"HOOKS__STANDARD__SECRETS": "whsec_canary!"}, ["HOOKS__STANDARD__SECRETS"]),
    ({"HOOKS__STANDARD__SECRETS": f"{SECRET} whsec_canary!"}, ["HOOKS__STANDARD__SECRETS"]),
    ({"HOOKS__STANDARD__SECRETS": "whsec_"}, ["HOOKS__STANDARD__SECRETS"]),
    ({"HOOKS__STANDARD__SECRET": "canary"}, ["HOOKS__STANDARD__SECRET"]),
    ({"HOOKS__STANDARD__TIMEZONE": "Mars/Canary"}, ["HOOKS__STANDARD__TIMEZONE"]),
    ({"HOOKS__STANDARD__TOLERANCE": "-1"}, ["HOOKS__STANDARD__TOLERANCE"]),
    ({"HOOKS__STANDARD__TOLERANCE": "nan"}, ["HOOKS__STANDARD__TOLERANCE"]),
    ({"HOOKS__ACUITY__API_URL": "canary"}, ["HOOKS__ACUITY__API_URL"]),
    ({"HOOKS__ACUITY__CREDENTIALS__PASSWORD": "canary"}, ["HOOKS__ACUITY__CREDENTIALS__PASSWORD"]),
    ({"HOOKS__CALENDLY__CREDENTIALS__API_KEY": "canary"}, ["HOOKS__CALENDLY__CREDENTIALS__API_KEY"]),
    ({"HOOKS__ACUITY__CREDENTIALS": "canary"}, ["HOOKS__ACUITY__CREDENTIALS"]),
    ({"HOOKS__SQUARE__SECRETS": "canary-canary"}, ["PUBLIC_URL"]),
    ({"HOOKS__ACUITY__SECRETS": "canary-1", "HOOKS__Acuity__SECRETS": "canary-2"}, ["HOOKS__ACUITY__SECRETS"]),
]


@each(
    ("environ", "names"),
    INVALID,
    ids=lambda value: " ".join(f"{k}={v[:24]}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_an_invalid_setting_is_reported_with_its_name_and_rule(environ: dict[str, str], names: list[str]) -> None:
    reported = problems(**{**REDIS, **environ})

    assert names == list(reported)
    assert all(problem.rule for problem in reported.values())


def test_every_problem_has_a_fix() -> None:
    reported = [problem for environ, _ in INVALID[4:] for problem in problems(**{**REDIS, **environ}).values()]

    assert [] == sorted({problem.name for problem in reported if not problem.fix})


@each(("value", "shape"), [("canary", "text of length 6"), ("12", "digits of length 2"), ("", "")], ids=repr)
def test_a_problem_has_the_shape_of_the_value(value: str, shape: str) -> None:
    reported = problems(**{"MAX_BODY": value} if value else {}, redis_needed=True)

    assert shape == (reported["MAX_BODY"].shape if value else reported["REDIS_URL"].shape)


@each("is_first", [True, False], ids=["field last", "field first"])
def test_credentials_with_and_without_a_field_are_a_problem(is_first: bool) -> None:
    both = [("HOOKS__ACUITY__CREDENTIALS", "canary"), ("HOOKS__ACUITY__CREDENTIALS__API_KEY", "canary")]

    assert ["HOOKS__ACUITY__CREDENTIALS"] == list(problems(**REDIS, **dict(both if is_first else both[::-1])))


def test_all_problems_are_reported_at_once() -> None:
    reported = problems(
        token_needed=True,
        MAX_BODY="canary",
        ACK="canary",
        HOOKS__STANDARD__SECRETS="whsec_canary! whsec_",
        HOOKS__STANDARD__TIMEZONE="canary",
        HOOKS__NOBODY__SECRETS="canary",
        HOOKS__SQUARE__SECRETS="canary-canary",
        RETRY_FIRST_S="10",
        RETRY_CAP_S="5",
    )

    assert {
        "REDIS_URL",
        "VISITS_API_TOKEN",
        "MAX_BODY",
        "ACK",
        "HOOKS__STANDARD__SECRETS",
        "HOOKS__STANDARD__TIMEZONE",
        "HOOKS__NOBODY__SECRETS",
        "PUBLIC_URL",
        "RETRY_FIRST_S",
    } == set(reported)


def test_an_invalid_secret_is_reported_with_its_position() -> None:
    with pytest.raises(SettingsError) as error:
        read_environment({**REDIS, "HOOKS__STANDARD__SECRETS": f"whsec_canary! {SECRET} whsec_"})

    assert ["secret 1 of 3", "secret 3 of 3"] == [problem.rule[:13] for problem in error.value.problems]


@each("process", ["web", "worker"])
def test_a_process_with_invalid_settings_reports_them_and_exits_3(process: str) -> None:
    arguments = {"web": ["uvicorn", "app.main:app", "--port", "1"], "worker": ["jobs"]}
    environ = {
        "PATH": "",
        "MAX_BODY": CANARY,
        "RETRY_CAP_S": CANARY,
        "REDIS_URL": f"https://{CANARY}",
        "VISITS_API_TOKEN": "t",
    }

    result = run_process([sys.executable, "-m", *arguments[process]], environ)

    output = result.stdout + result.stderr
    assert 3 == result.returncode, output
    assert f"doorbell {process} cannot start:" in output
    assert ["MAX_BODY", "REDIS_URL", "RETRY_CAP_S"] == sorted(
        line.partition(":")[0] for line in output.splitlines() if line.partition(":")[0].isupper()
    )
    assert CANARY not in output
    assert "Traceback" not in output


# Names that were not meant


@each(
    ("name", "hint"),
    [
        ("HOOKS__CALENDY__SECRETS", "Did you mean HOOKS__CALENDLY__SECRETS?"),
        ("HOOKS__CALENDY__TIMEZONE", "Did you mean HOOKS__CALENDLY__TIMEZONE?"),
        ("HOOKS__CALENDLY__SECRET", "Did you mean HOOKS__CALENDLY__SECRETS?"),
        ("HOOKS__EAST__SECRETS", "Set HOOKS__EAST__SOURCE to one of acuity, appointlet,"),
    ],
)
def test_the_problem_of_a_hook_names_the_variable_that_was_set(name: str, hint: str) -> None:
    [problem] = problems(**REDIS, **{name: "America/New_York"}).values()

    assert name == problem.name
    assert hint in problem.fix


@each(
    ("name", "hint"),
    [
        ("RETRY_FRIST_S", "Did you mean RETRY_FIRST_S?"),
        ("VISIT_API_TOKEN", "Did you mean VISITS_API_TOKEN?"),
        ("BODY_KEY", "Did you mean BODY_KEYS?"),
        ("Visits_Api_Token", "Did you mean VISITS_API_TOKEN?"),
        ("hooks__calendly__secrets", "HOOKS__<NAME>__SECRETS"),
        ("CONSOLE_USER", "The settings are CONSOLE_PASSWORD_HASH,"),
        ("HOOKS__CALENDLY", "HOOKS__<NAME>__SECRETS"),
        ("HOOKS_CALENDLY_SECRETS", "two underscores"),
    ],
)
def test_a_variable_that_looks_like_a_setting_is_reported(name: str, hint: str) -> None:
    [problem] = unknown_variables({**REDIS, name: CANARY})

    assert name == problem.name
    assert hint in problem.fix
    assert CANARY not in str(problem)


@each(
    "name", ["REDIS_TLS_URL", "REDISHOST", "DATABASE_URL", "SECRET_KEY_BASE", "PORT", "DYNO", "PACK", "WEB_CONCURRENCY"]
)
def test_variables_of_platforms_and_other_programs_are_not_reported(name: str) -> None:
    assert [] == unknown_variables({**REDIS, name: "1"})


def test_a_similar_name_is_not_reported_if_the_setting_is_set() -> None:
    assert [] == unknown_variables({**REDIS, "REDIS_URI": "redis://127.0.0.1:6379/0"})


def test_settings_are_not_reported() -> None:
    settings = {name.upper(): "1" for name in Settings.variables()}

    assert [] == unknown_variables({**settings, "HOOKS__CALENDLY__SECRETS": "1"})


# Secrets


def test_repr_of_the_settings_contains_no_secrets() -> None:
    settings = read_environment(
        {
            "REDIS_URL": "redis://:canary-1@h",
            "VISITS_API_TOKEN": "canary-2",
            "SECRET_KEY": "canary-3-of-sixteen",
            "METRICS_TOKEN": "canary-4",
            "HOOKS__ACUITY__SECRETS": "canary-5",
            "HOOKS__ACUITY__CREDENTIALS__API_KEY": "canary-6",
            "HOOKS__ACUITY__VISITS_API_TOKEN": "canary-7",
        }
    )

    assert CANARY not in repr(settings) + str(settings) + repr(settings.hooks) + repr(settings.active_hooks)


# The hash of a password

HASH = "$argon2id$v=19$m=65536,t=3,p=4$+wCWcNZPvnKLxrHdWsPvjA$TsYYKC/fTSxQmZYdMDyaMz6rp3bMjn5qq+7nKYOvXPk"
KEY = {"SECRET_KEY": "0123456789abcdef"}


@each("value", [HASH, HASH[1:].replace("$", ".")], ids=["as-argon2-writes-it", "without-dollars"])
def test_both_forms_of_a_password_hash_are_read(value: str) -> None:
    settings = read_environment({**REDIS, **KEY, "CONSOLE_PASSWORD_HASH": value})

    assert HASH == settings.console_password_hash


def test_users_of_the_console_have_names_and_passwords() -> None:
    hashes = {"CONSOLE_PASSWORD_HASH": f"ada:{HASH} ben@x.org:{HASH[1:].replace('$', '.')}"}
    settings = read_environment({**REDIS, **KEY, **hashes, "CONSOLE_VIEWER_PASSWORD_HASH": HASH})

    assert [
        ("ada", "operator", HASH, "ada"),
        ("ben@x.org", "operator", HASH, "ben@x.org"),
        ("", "viewer", HASH, "viewer"),
    ] == [(*user, user.display_name) for user in settings.console_users]


@each(
    ("value", "rule"),
    [
        (f"ada:{HASH} {HASH}", "one hash, or several with names"),
        (f":{HASH}", "one hash, or several with names"),
        (f"ada lovelace:{HASH}", "one hash, or several with names"),
        (f"ada:{HASH} Ada:{HASH}", "two hashes with the same name"),
        ("ada:secret", "must be the hash of a password"),
    ],
    ids=["without a name", "empty name", "two words", "same name", "no hash"],
)
def test_an_invalid_list_of_users_is_a_problem(value: str, rule: str) -> None:
    assert rule in problems(**REDIS, **KEY, CONSOLE_PASSWORD_HASH=value)["CONSOLE_PASSWORD_HASH"].rule


def test_a_user_has_one_role() -> None:
    hashes = {"CONSOLE_PASSWORD_HASH": f"ada:{HASH}", "CONSOLE_VIEWER_PASSWORD_HASH": f"Ada:{HASH}"}

    assert "operator too" in problems(**REDIS, **KEY, **hashes)["CONSOLE_VIEWER_PASSWORD_HASH"].rule


@each("quote", ["", '"'], ids=["unquoted", "in-double-quotes"])
def test_a_password_hash_that_a_shell_expanded_is_recognized(quote: str) -> None:
    script = f'CONSOLE_PASSWORD_HASH={quote}{HASH}{quote}; printf %s "$CONSOLE_PASSWORD_HASH"'
    expanded = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout

    reported = problems(**REDIS, **KEY, CONSOLE_PASSWORD_HASH=expanded)

    assert expanded != HASH
    assert "`$` were expanded" in reported["CONSOLE_PASSWORD_HASH"].rule


# .env.example


def test_env_example_is_up_to_date() -> None:
    assert env_example() == Path(ROOT, ".env.example").read_text("utf-8")


def test_env_example_has_every_setting_with_a_valid_value() -> None:
    lines = [line.removeprefix("#") for line in env_example().splitlines() if line.startswith("#") and "=" in line]
    shown = dict(line.split("=", 1) for line in lines if line.partition("=")[0].replace("_", "").isalnum())

    settings = read_environment(
        {**shown, "SECRET_KEY": "0123456789abcdef" * 2, "CONSOLE_PROXY_SECRET": "fedcba9876543210" * 2}
    )

    assert {name.upper() for name in Settings.variables()} | COMMON_VARIABLES.keys() == set(shown)
    assert (5, 262_144, "write", 30) == (
        settings.retry_first_s,
        settings.max_body,
        settings.ack,
        settings.retention_days,
    )


def test_a_shell_and_docker_read_env_example_alike(tmp_path: Path) -> None:
    """Compose and systemd remove quotes like a shell; `docker run --env-file` and kubectl keep them."""
    lines = [line[1:] for line in env_example().splitlines() if re.match("#[A-Z_]+=", line)]
    lines += ["SECRET_KEY='0123456789abcdef-0123456789abcdef'", "CONSOLE_PROXY_SECRET=fedcba9876543210"]
    lines += ["HOOKS__CALENDLY__SECRETS='the-first-secret the-second-secret'"]
    (tmp_path / ".env").write_text("\n".join(lines))
    script = f"set -a; . {tmp_path}/.env; env -0"

    output = subprocess.check_output(["sh", "-c", script], env={"PATH": os.environ["PATH"]}, text=True)

    by_shell = dict(line.split("=", 1) for line in output.split("\0") if line)
    by_docker = dict(line.split("=", 1) for line in lines)
    assert read_environment(by_shell) == read_environment(by_docker)
    assert ("the-first-secret", "the-second-secret") == read_environment(by_docker).hooks["calendly"].secrets


def test_env_example_has_every_setting_of_a_hook() -> None:
    shown = {line.partition("=")[0] for line in env_example().splitlines() if line.startswith("#HOOKS__")}

    assert {
        "#HOOKS__<NAME>__SECRETS",
        "#HOOKS__<NAME>__RECONCILE",
        "#HOOKS__<NAME>__SOURCE",
        "#HOOKS__<NAME>__CREDENTIALS__<FIELD>",
        "#HOOKS__<NAME>__API_URL",
        "#HOOKS__<NAME>__TOKEN_URL",
        "#HOOKS__<NAME>__TENANTS",
        "#HOOKS__<NAME>__ACCOUNT",
        "#HOOKS__<NAME>__AUTH",
        "#HOOKS__<NAME>__VISITS_API_TOKEN",
        "#HOOKS__<NAME>__TIMEZONE",
        "#HOOKS__<NAME>__TOLERANCE",
    } == shown
