"""`doorbell hooks`: lists all hooks, and adds, changes, rotates and removes stored ones."""

import json
from typing import Any

import pytest

from tests.support.harness import CALENDLY_SECRET, Harness

KEY = {"SECRET_KEY": "secret-key-of-the-tests-0123456789"}
SECRET = "canary-signing-secret"
CREDENTIALS = b"SECRET=canary-signing-secret\nUSER_ID=42\nAPI_KEY=canary-api-key\n"


@pytest.fixture
def harness(module_harness: Harness) -> Harness:
    module_harness.reset()
    module_harness.env |= KEY
    return module_harness


def rows(harness: Harness) -> list[dict[str, Any]]:
    return [json.loads(line) for line in harness.doorbell("hooks", "--json").stdout.splitlines()]


def row(harness: Harness, name: str) -> dict[str, Any]:
    return next(row for row in rows(harness) if row["hook"] == name)


def test_hooks_of_the_environment_and_stored_ones_are_listed(harness: Harness) -> None:
    added = harness.doorbell("hooks", "add", "shop", "--source", "acuity", "--account", "main", stdin=CREDENTIALS)

    assert (0, "") == (added.returncode, added.stdout)
    assert [("calendly", "environment"), ("shop", "stored"), ("standard", "environment")] == [
        (row["hook"], row["set_in"]) for row in rows(harness)
    ]
    assert {
        "hook": "shop",
        "source": "acuity",
        "set_in": "stored",
        "account": "main",
        "secrets": 1,
        "credentials": ["API_KEY", "USER_ID"],
        "state": "active",
        "missing": [],
        "detail": "",
    } == row(harness, "shop")
    table = harness.doorbell("hooks").stdout
    assert "shop" in table
    assert "canary" not in table + added.stderr + harness.doorbell("activity", "--json").stdout


def test_a_new_hook_says_what_it_lacks(harness: Harness) -> None:
    shop = harness.doorbell("hooks", "add", "shop", "--source", "acuity", stdin=b"USER_ID=42").stderr
    east = harness.doorbell("hooks", "add", "east", "--source", "calendly", stdin=f"SECRET={SECRET}".encode()).stderr

    assert ("has no secret" in shop, "without API_KEY" in " ".join(shop.split())) == (True, True)
    assert ("has no secret" in east, "without" in east) == (False, False)


def test_other_commands_see_a_stored_hook(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "shop", "--source", "acuity", stdin=CREDENTIALS)

    assert "/hooks/shop\n" == harness.doorbell("hook-url", "shop").stdout
    assert "shop" in harness.doorbell("secrets").stdout
    assert 0 == harness.doorbell("pause", "shop").returncode
    assert "shop" in harness.doorbell("sources", "--json").stdout


def test_a_generated_secret_is_printed_once(harness: Harness) -> None:
    added = harness.doorbell("hooks", "add", "zapier", "--source", "standard", "--generate")

    assert added.stdout.startswith("whsec_")
    assert added.stdout.strip() not in harness.doorbell("hooks", "--json").stdout
    assert 3 == harness.doorbell("hooks", "add", "shop", "--source", "acuity", "--generate").returncode


def test_settings_and_credentials_are_changed_and_removed(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "shop", "--source", "acuity", "--timezone", "Europe/Berlin", stdin=CREDENTIALS)

    changed = harness.doorbell("hooks", "change", "shop", "--timezone", "", "--tolerance", "60")
    removed = harness.doorbell("hooks", "change", "shop", "--credentials", stdin=b"API_KEY=\n")

    assert (0, 0) == (changed.returncode, removed.returncode)
    assert (["USER_ID"], ["API_KEY"]) == (row(harness, "shop")["credentials"], row(harness, "shop")["missing"])


def test_a_secret_is_rotated_in_two_steps(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "shop", "--source", "calendly", stdin=f"SECRET={SECRET}".encode())

    rotated = harness.doorbell("hooks", "rotate", "shop", stdin=b"SECRET=canary-of-the-new-secret")
    both = row(harness, "shop")["secrets"]
    finished = harness.doorbell("hooks", "rotate", "shop", "--finish")

    assert (0, 2, 0, 1) == (rotated.returncode, both, finished.returncode, row(harness, "shop")["secrets"])
    assert 0 == harness.doorbell("hooks", "rotate", "shop", "--only-new", stdin=f"SECRET={SECRET}".encode()).returncode
    assert 1 == row(harness, "shop")["secrets"]
    assert "canary" not in rotated.stdout + rotated.stderr + harness.doorbell("activity").stdout


def test_stored_hooks_are_encrypted_with_the_newest_key(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "shop", "--source", "calendly", stdin=f"SECRET={SECRET}".encode())
    new_key = "another-key-of-the-tests-0123456789"

    both = f"{new_key} {KEY['SECRET_KEY']}"
    assert 0 == harness.doorbell("hooks", "encrypt", SECRET_KEY=both).returncode

    assert "shop" in harness.doorbell("secrets", SECRET_KEY=new_key).stdout


def test_removal_needs_a_confirmation(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "shop", "--source", "calendly", stdin=f"SECRET={SECRET}".encode())

    assert 2 == harness.doorbell("hooks", "remove", "shop").returncode
    assert "stored" == row(harness, "shop")["set_in"]
    assert 0 == harness.doorbell("hooks", "remove", "shop", "--yes").returncode
    assert ["calendly", "standard"] == [row["hook"] for row in rows(harness)]


@pytest.mark.parametrize("can_decrypt", [True, False])
def test_a_stored_hook_below_one_of_the_environment_is_shown_and_can_be_removed(
    harness: Harness, can_decrypt: bool
) -> None:
    former = {"HOOKS__CALENDLY__SECRETS": ""}
    if not can_decrypt:
        former["SECRET_KEY"] = "another-key-of-the-tests-0123456789"
    harness.doorbell("hooks", "add", "calendly", stdin=f"SECRET={SECRET}".encode(), **former)

    in_environment, stored = (row for row in rows(harness) if row["hook"] == "calendly")
    assert ("environment", "active") == (in_environment["set_in"], in_environment["state"])
    assert ("stored", "overridden") == (stored["set_in"], stored["state"])
    assert can_decrypt == ("it cannot be read" not in stored["detail"])
    assert 0 == harness.doorbell("hooks", "remove", "calendly", "--yes").returncode


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "part"),
    [
        (["add", "calendly"], b"SECRET=x", 3, "set in the environment"),
        (["add", "shop"], b"SECRET=x", 2, "there is no source shop"),
        (["add", "shop", "--source", "calendly"], b"PASSWORD=canary", 2, "line 1"),
        (["add", "shop", "--source", "calendly"], b"canary", 2, "line 1"),
        (["add", "shop", "--source", "calendly", "--timezone", "Nowhere"], b"SECRET=a-secret-of-tests", 3, "TIMEZONE"),
        (["add", "Shop", "--source", "calendly"], b"SECRET=a-secret-of-tests", 3, "NAME"),
        (["change", "calendly", "--timezone", "Europe/Berlin"], b"", 3, "HOOKS__CALENDLY__"),
        (["change", "shop", "--timezone", "Europe/Berlin"], b"", 5, "there is no stored hook shop"),
        (["change", "shop"], b"", 2, "name a setting"),
        (["rotate", "calendly"], b"SECRET=x", 3, "environment"),
        (["rotate", "shop"], b"SECRET=x", 5, "no stored hook"),
        (["remove", "calendly", "--yes"], b"", 3, "environment"),
        (["remove", "shop", "--yes"], b"", 5, "no stored hook"),
    ],
)
def test_what_cannot_be_done_says_why(
    harness: Harness, arguments: list[str], stdin: bytes, status: int, part: str
) -> None:
    result = harness.doorbell("hooks", *arguments, stdin=stdin)

    assert (status, "") == (result.returncode, result.stdout)
    assert part in result.stderr
    assert "canary" not in result.stderr


def test_without_secret_key_hooks_are_listed_and_none_can_be_added(harness: Harness) -> None:
    listed = harness.doorbell("hooks", SECRET_KEY="")
    added = harness.doorbell(
        "hooks", "add", "shop", "--source", "calendly", stdin=b"SECRET=a-secret-of-tests", SECRET_KEY=""
    )

    assert (0, 3) == (listed.returncode, added.returncode)
    assert "SECRET_KEY" in added.stderr
    assert CALENDLY_SECRET not in listed.stdout


def test_a_hook_that_cannot_be_decrypted_says_so(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "shop", "--source", "calendly", stdin=b"SECRET=a-secret-of-tests")
    other = {"SECRET_KEY": "another-key-of-the-tests-0123456789"}

    [shop] = [
        row
        for line in harness.doorbell("hooks", "--json", **other).stdout.splitlines()
        if (row := json.loads(line))["hook"] == "shop"
    ]

    assert ("unusable", "it is encrypted with a key that SECRET_KEY lacks") == (
        shop["state"],
        shop["detail"].partition(" (")[0],
    )


def test_steps_and_secrets_of_a_stored_hook_name_no_variables(harness: Harness) -> None:
    """A shell would not accept the variables of a name with a hyphen."""
    harness.doorbell(
        "hooks", "add", "acuity-east", "--source", "acuity", stdin=b"SECRET=a-signing-key-of-acuity-east\n"
    )
    harness.doorbell("hooks", "add", "standard-2", "--source", "standard", stdin=b"SECRET=whsec_c2VjcmV0LXNlY3JldA==\n")

    steps = harness.doorbell("sources", "acuity-east")
    generated = harness.doorbell("secrets", "generate", "standard-2")

    assert (0, 0) == (steps.returncode, generated.returncode)
    assert "/hooks/acuity-east" in steps.stdout
    assert [] == [text for text in (steps.stdout, generated.stderr) if "HOOKS__" in text]
    assert "`doorbell hooks rotate standard-2`" in generated.stderr


def test_ring_signs_with_the_secret_of_a_stored_hook(harness: Harness) -> None:
    harness.doorbell("hooks", "add", "east", "--source", "calendly", stdin=b"SECRET=a-signing-key-of-the-hook-east\n")
    url = harness.start_web().url

    east, west = [harness.doorbell("ring", "calendly", "1", "--to", f"{url}/hooks/{hook}") for hook in ("east", "west")]

    assert (0, "") == (east.returncode, east.stderr.partition("status 202")[0])
    assert "no secret of the hook west is set or stored here: signed with the specimen's own secret" in west.stderr
