"""The loader of the Lua scripts, and rules for every script."""

import re
from pathlib import Path

import pytest

from app.ledger import keys, scripts
from app.ledger.records import Member, PackedChange
from app.ledger.scripts import CALLERS, Script, check_callers, check_calls, load
from tests.support.cases import each

GREET = """#!lua flags=allow-oom
--- greet: Greet somebody.
--- @args name times
--- @varargs friends: name age
--- @returns ok
--- @include lib/words

return greeting .. name .. key.queued
"""
WORDS = "--- @include lib/letters\nlocal greeting = letters\n"
SCRIPTS = load(scripts.SOURCES)
SOURCES = {"greet": GREET, "lib/words": WORDS, "lib/letters": "local letters = 'hello'\n"}


def greet() -> Script:
    return load(SOURCES)["greet"]


def test_the_header_gives_the_parameters() -> None:
    script = greet()

    assert ["name", "times"] == script.args
    assert ("friends", ["name", "age"]) == script.varargs
    assert ("Greet somebody.", "ok") == (script.description, script.returns)


def test_argv_begins_with_the_name_of_the_script() -> None:
    command, script = greet().call(times=2, name="Ada", friends=[("Grace", 1), ("Alan", 2)])

    assert ("EVALSHA", script.sha, 0, "greet", "Ada", 2, "Grace", 1, "Alan", 2) == command


def test_the_source_binds_argv_to_names_after_the_includes() -> None:
    code = [line for line in greet().source.splitlines() if not line.startswith("---")]

    assert [
        "#!lua flags=allow-oom",
        "local letters = 'hello'",
        "local greeting = letters",
        "local name, times = unpack(ARGV, 2, 3)",
        "local friends = {}",
        "for i = 4, #ARGV, 2 do friends[#friends + 1] = {name = ARGV[i + 0], age = ARGV[i + 1]} end",
        "",
        "return greeting .. name .. 'bell:state:queued'",
    ] == code


EARLY = "--- @bind_only friends\nif is_only then return age end\n--- @bind friends"


def test_a_script_may_make_the_list_of_arguments_later() -> None:
    early = GREET.replace("friends: name age", "friends: friend age").replace("\nreturn", f"\n{EARLY}\nreturn")
    code = load(SOURCES | {"greet": early})["greet"].source.splitlines()

    assert [
        "local name, times = unpack(ARGV, 2, 3)",
        "",
        "local is_only = #ARGV == 5",
        "local friend, age = unpack(ARGV, 4, 5)",
        "if is_only then return age end",
        "local friends = {}",
        "for i = 4, #ARGV, 2 do friends[#friends + 1] = {friend = ARGV[i + 0], age = ARGV[i + 1]} end",
        "return greeting .. name .. 'bell:state:queued'",
    ] == code[-8:]


def test_a_field_must_not_replace_an_argument() -> None:
    with pytest.raises(LookupError, match=r"^the script greet has name twice: as argument and as field$"):
        load(SOURCES | {"greet": GREET.replace("\nreturn", f"\n{EARLY}\nreturn")})


def test_a_file_is_included_once() -> None:
    sources = SOURCES | {
        "greet": GREET.replace("--- @include lib/words", "--- @include lib/letters\n--- @include lib/words")
    }

    assert 1 == load(sources)["greet"].source.count("local letters")


@each(
    ("arguments", "problem"),
    [
        ({"name": "Ada", "friends": []}, "greet() missing 1 required keyword-only argument: 'times'"),
        (
            {"name": "Ada", "times": 1, "friends": [], "loudly": 1},
            "greet() got an unexpected keyword argument 'loudly'",
        ),
        ({"name": "Ada", "times": 1, "friends": [("Grace",)]}, "not enough values to unpack (expected 2, got 1)"),
    ],
)
def test_a_call_with_wrong_arguments_is_rejected(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(problem)}$"):
        greet().call(**arguments)


@each(
    ("code", "problem"),
    [
        ("scripts.greet(name=a, times=b)", "scripts.greet needs friends"),
        ("scripts.greet(name=a, times=b, friends=c, loudly=d)", "scripts.greet does not take loudly"),
        ("scripts.greet(a, times=b, friends=c)", "scripts.greet needs name, does not take *arguments"),
        ("scripts.greet(**all)", "scripts.greet needs friends, needs name, needs times, does not take **arguments"),
        ("scripts.gret(name=a)", "there is no script gret"),
    ],
)
def test_a_wrong_call_in_the_code_is_detected_without_running_it(code: str, problem: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(f'ledger.py:3: {problem}')}$"):
        check_calls(
            f"async def run(a, b, c, d):\n    await before()\n    return await redis.run({code})\n",
            "ledger.py",
            load(SOURCES),
        )


def test_a_correct_call_in_the_code_passes() -> None:
    check_calls("redis.run(scripts.greet(friends=[], name=a, times=1))", "ledger.py", load(SOURCES))


def test_every_module_that_calls_scripts_is_checked_at_start() -> None:
    root = Path(keys.__file__).parents[2]
    modules = [*root.glob("app/*/*.py"), *root.glob("jobs/*.py")]
    calls = {file.name: set(re.findall(r"\bscripts\.(?!check_)(\w+)\(", file.read_text())) for file in modules}

    assert sorted(CALLERS) == sorted(name for name, scripts in calls.items() if scripts)
    assert set(SCRIPTS) == set.union(*calls.values())
    check_callers()


def test_an_unknown_include_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"^a script includes lib/letters, and there is no lib/letters\.lua$"):
        load({"greet": GREET, "lib/words": WORDS})


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"^a script uses key\.nobody, and keys\.py has no NOBODY$"):
        load(SOURCES | {"greet": GREET.replace("key.queued", "key.nobody")})


def test_an_unknown_script_is_no_attribute() -> None:
    assert not hasattr(scripts, "complet")


# -- the scripts of the ledger --


def test_only_accept_is_refused_by_a_full_server() -> None:
    flags = {name: script.source.partition("\n")[0] for name, script in SCRIPTS.items()}

    assert {"accept"} == {name for name, line in flags.items() if not re.search("allow-oom|no-writes", line)}
    assert [] == [name for name, line in flags.items() if "allow-cross-slot-keys" not in line]


@each("name", sorted(SCRIPTS))
def test_a_script_has_a_description(name: str) -> None:
    assert re.match(r"[A-Z].*[.]", SCRIPTS[name].description)
    assert len(SCRIPTS) == len({script.sha for script in SCRIPTS.values()})


def local_names(code: str) -> set[str]:
    """Return the names of the top-level locals and functions."""
    return {
        name for line in re.findall(r"^local (?:function )?([\w, ]+)", code, re.MULTILINE) for name in line.split(", ")
    }


LOCAL_NAMES = {local_name for script in SCRIPTS.values() for local_name in local_names(script.source)}


@each("name", sorted(SCRIPTS))
def test_a_script_includes_what_it_uses(name: str) -> None:
    """Redis detects a missing include only when the line runs."""
    code = re.sub(r"--.*|'[^']*'", "", SCRIPTS[name].source)
    first_uses: dict[str, int] = {}
    for used in re.finditer(r"(?<![\w.])(\w+)\(", code):
        first_uses.setdefault(used[1], used.start())

    for local_name in first_uses.keys() & LOCAL_NAMES:
        defined = re.search(rf"\blocal (?:function )?(?:\w+, )*{local_name}\b", code)
        assert defined, local_name
        assert defined.start() < first_uses[local_name], local_name


def test_every_field_that_a_script_reads_is_described() -> None:
    """A field that is no longer written would be read as missing, without an error."""
    files = list(scripts.SOURCES.values())
    described = {name for text in files for name in re.findall(r"^--- @field ([a-z_]+)", text, re.MULTILINE)}
    calls = [call for text in files for call in re.findall(r"get_fields\((.*)\)", text)]
    read = {name for call in calls for name in re.findall(r"'([a-z_]+)'", call)}

    assert read
    assert set() == read - described


ITEMS = {"accept": PackedChange, "record_changes": PackedChange, "assign_contact": PackedChange, "complete": Member}


@each("name", ITEMS)
def test_the_items_of_a_list_have_the_fields_of_the_script(name: str) -> None:
    _, fields = SCRIPTS[name].varargs

    assert list(ITEMS[name]._fields) == fields
