"""Hooks of tools that sign nothing, or not for us alone: their addresses, what they need, and what the doctor says."""

import base64
import gzip
import hmac
import json
import tracemalloc
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from app.cli import main
from app.intake.endpoint import WebhookEndpoint
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.operators.doctor import _hooks, _python, _tenants
from app.settings.environment import SettingsError, read_environment
from app.telemetry import counters, rejections
from app.telemetry.counters import Counters
from app.telemetry.rejections import Rejections
from app.webhooks.registry import _load_source, load_sources, load_specimens
from app.webhooks.source import InvalidSource, Source
from app.webhooks.specimens import find_specimen, sign_specimen
from tests.support.harness import Harness, Server

REDIS = {"REDIS_URL": "redis://127.0.0.1:6379"}
SERVICEM8 = {
    "HOOKS__SERVICEM8__SECRETS": load_specimens("servicem8")["secret"],
    "HOOKS__SERVICEM8__TIMEZONE": "Australia/Sydney",
    "SECRET_KEY": load_specimens("servicem8")["secret_key"],
}
TOKEN = load_specimens("servicem8")["token"]
GOHIGHLEVEL = {
    "HOOKS__GOHIGHLEVEL__SECRETS": load_specimens("gohighlevel")["secret"],
    "HOOKS__GOHIGHLEVEL__TENANTS": "loc_1",
}


def problems(**environ: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as wrong:
        read_environment({**REDIS, **environ})
    return {problem.name: problem.rule for problem in wrong.value.problems}


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


# -- the address --


def test_the_command_line_prints_the_address_of_a_hook_with_its_token() -> None:
    env = {**SERVICEM8, "PUBLIC_URL": "https://hooks.example.com"}

    ran = CliRunner().invoke(main, ["hook-url", "servicem8"], env=env)

    assert (0, f"https://hooks.example.com/hooks/servicem8/{TOKEN}\n") == (ran.exit_code, ran.stdout)


def test_where_a_tool_signs_the_address_has_no_token() -> None:
    env = {
        "HOOKS__CALCOM__SECRETS": "a-secret-of-tests",
        "PUBLIC_URL": "https://hooks.example.com",
        "SECRET_KEY": "a-key-of-sixteen-",
    }

    ran = CliRunner().invoke(main, ["hook-url", "calcom"], env=env)

    assert "https://hooks.example.com/hooks/calcom\n" == ran.stdout


def test_a_hook_that_is_not_there_has_no_address() -> None:
    assert 5 == CliRunner().invoke(main, ["hook-url", "nobody"]).exit_code


async def knock(redis: Redis, path: str, method: str = "POST", content: bytes = b"", **env: str) -> httpx.Response:
    settings = read_environment({**REDIS, **SERVICEM8, "HOOKS__CALCOM__SECRETS": "a-secret-of-tests", **env})
    ledger = Ledger(redis, retention_days=30)
    door = WebhookEndpoint(settings, defaultdict(lambda: ledger), Rejections(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
        content = content or (b'{"object":"company","entry":[]}' if method == "POST" else b"")
        return await client.request(method, path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/hooks/servicem8/{TOKEN}", 200),
        ("/hooks/servicem8", 401),
        ("/hooks/servicem8/", 401),
        (f"/hooks/servicem8/{TOKEN}x", 401),
        (f"/hooks/servicem8/{TOKEN}/", 401),
        (f"/hooks/servicem8/{TOKEN[:-1]}", 401),
        ("/hooks/servicem8/%C3%A9", 401),
        (f"/hooks/nobody/{TOKEN}", 404),
        (f"/hooks/calcom/{TOKEN}", 404),
    ],
)
async def test_the_door_opens_to_the_whole_address_only(redis: Redis, path: str, status: int) -> None:
    assert status == (await knock(redis, path)).status_code


async def test_the_token_of_an_address_is_in_no_log(redis: Redis, logged: list[Any]) -> None:
    for path in (f"/hooks/servicem8/{TOKEN}", f"/hooks/calcom/{TOKEN}", f"/hooks/nobody/{TOKEN}"):
        await knock(redis, path)

    assert 3 == len(logged)
    assert TOKEN not in repr(logged)


async def test_a_new_secret_and_a_new_key_leave_the_old_address_open_while_both_are_set(redis: Redis) -> None:
    both = {
        "HOOKS__SERVICEM8__SECRETS": f"new {load_specimens('servicem8')['secret']}",
        "SECRET_KEY": f"a-newer-key-of-ours {load_specimens('servicem8')['secret_key']}",
    }

    assert 200 == (await knock(redis, f"/hooks/servicem8/{TOKEN}", **both)).status_code
    assert 401 == (await knock(redis, f"/hooks/servicem8/{TOKEN}", SECRET_KEY="a-newer-key-of-ours")).status_code


def token_by(key: str) -> bytes:
    """What an add-on would get, signed by whoever knows the key."""
    unsigned = find_specimen("servicem8", "an add-on gets the same")["body"].rpartition(".")[0].encode()
    digest = hmac.digest(key.encode(), unsigned, "sha256")
    return unsigned + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")


@pytest.mark.parametrize("word", ["doorbell", "servicem8-word-for-tests", "x" * 31])
async def test_a_word_that_is_good_enough_for_an_address_is_no_key_of_a_token(redis: Redis, word: str) -> None:
    forged = await knock(redis, "/hooks/servicem8", content=token_by(word), HOOKS__SERVICEM8__SECRETS=word)

    assert (401, "signature_mismatch") == (forged.status_code, forged.json()["error"])


async def test_a_long_key_signs_tokens(redis: Redis) -> None:
    genuine = await knock(redis, "/hooks/servicem8", content=token_by("x" * 32), HOOKS__SERVICEM8__SECRETS="x" * 32)

    assert 202 == genuine.status_code


@pytest.mark.parametrize(("source", "days"), [("cronofy", 400), ("calendly", 8)])
async def test_a_repeat_is_known_for_longer_where_changes_are_ordered_by_arrival(
    redis: Redis, source: str, days: int
) -> None:
    """Cronofy signs no time: a recorded answer that is sent again after eight days would count as the newest."""
    secret, address = load_specimens(source)["secret"], f"http://door/hooks/{source}"
    settings = read_environment({**REDIS, f"HOOKS__{source.upper()}__SECRETS": secret})
    made = sign_specimen(source, "2", source, [secret], [], address)
    ledger = Ledger(redis, retention_days=30)
    door = WebhookEndpoint(settings, defaultdict(lambda: ledger), Rejections(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door)) as client:
        answer = await client.post(address, content=made.body, headers=made.headers)

    assert 202 == answer.status_code
    [seen] = await redis.command("KEYS", "bell:dedup:*")
    assert days == round(await redis.command("TTL", seen) / 86_400)


# -- events of another customer of the tool --

NYLAS = {"HOOKS__NYLAS__SECRETS": "nylas-secret-of-the-tests-32-long", "HOOKS__NYLAS__TENANTS": "grant-1"}


def nylas_event(number: int, grant: str) -> bytes:
    """With 8 KB of somebody else's data."""
    data = {"grant_id": grant, "object": {"note": "x" * 8_000}}
    return json.dumps(
        {"id": f"event-{number}", "type": "booking.created", "time": 1_790_000_000, "data": data}
    ).encode()


class NylasDoor:
    """A door with this hook, and what it counts."""

    def __init__(self, redis: Redis, **env: str) -> None:
        settings = read_environment({**REDIS, **NYLAS, **env})
        self.redis, self.refusals = redis, Rejections(redis)
        self.counters = Counters(30, {name: hook.settings.secrets for name, hook in settings.active_hooks.items()})
        ledger = Ledger(redis, retention_days=30)
        self.door = WebhookEndpoint(settings, defaultdict(lambda: ledger), self.refusals, self.counters)

    async def ring(self, *bodies: bytes) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.door), base_url="http://door") as client:
            answers = [await client.post("/hooks/nylas", content=raw, headers=self.signed(raw)) for raw in bodies]
        await self.refusals.flush()
        await self.counters.flush(self.redis)
        return answers

    def signed(self, raw: bytes) -> dict[str, str]:
        digest = hmac.new(NYLAS["HOOKS__NYLAS__SECRETS"].encode(), raw, "sha256").hexdigest()
        return {"content-type": "application/json", "x-nylas-signature": digest, "x-request-id": f"r-{digest[:8]}"}


async def test_foreign_events_leave_the_number_of_keys_as_it_was(redis: Redis) -> None:
    door = NylasDoor(redis)
    await door.ring(nylas_event(0, "grant-2"))
    before = await redis.command("DBSIZE")

    answers = await door.ring(*(nylas_event(number, f"grant-{number}") for number in range(2, 202)))

    assert {(200, "foreign_tenant")} == {(answer.status_code, answer.json()["ignored"]) for answer in answers}
    assert before == await redis.command("DBSIZE")
    assert 50 == await redis.command("LLEN", "bell:rejections:nylas:foreign_tenant")
    assert 20_000 > sum([await redis.command("MEMORY", "USAGE", key) for key in await redis.command("KEYS", "*")])


async def test_foreign_events_are_counted_and_the_newest_are_told(redis: Redis) -> None:
    door = NylasDoor(redis)

    await door.ring(*(nylas_event(number, "grant-2") for number in range(60)))

    assert 60 == (await rejections.counts(redis))["nylas", "foreign_tenant"]
    told = await rejections.newest(redis, ["nylas"])
    assert 50 == len([note for note in told if note["reason"] == "foreign_tenant"])
    assert {"the event is of account grant-2; TENANTS does not name it"} == {
        note["detail"] for note in told if note["reason"] == "foreign_tenant"
    }
    assert 60 == (await counters.hourly_counts(redis, 1))[0][1]["nylas", "foreign_tenant"]


async def test_foreign_events_push_no_refusal_out_of_the_newest(redis: Redis) -> None:
    door = NylasDoor(redis)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door.door), base_url="http://door") as client:
        await client.post("/hooks/nylas", content=b"{}")

    await door.ring(*(nylas_event(number, "grant-2") for number in range(60)))

    assert 51 == len(await rejections.newest(redis, ["nylas"]))


@pytest.mark.parametrize("reason", ["missing", "malformed"])
async def test_strangers_push_no_request_of_the_tool_out_of_the_newest(redis: Redis, reason: str) -> None:
    refused = Rejections(redis)
    for real in ("signature_mismatch", "signature_stale", "unreadable_body"):
        refused.record("nylas", real, "of the tool")
    for _ in range(300):
        refused.record("nylas", f"signature_{reason}", "of a stranger")
        refused.record("", "no_such_hook", "of a stranger")
    await refused.flush()

    notes = await rejections.newest(redis, ["", "nylas"])

    for most in (3, 100):
        told = rejections.senders_first(notes, most)
        assert most == len(told)
        assert 3 == [note["detail"] for note in told].count("of the tool")
    assert sorted(notes, key=lambda note: -note["at"]) == notes
    assert 103 == len(notes)


@pytest.mark.parametrize("grant", ["<script>", "x" * 65, "ada@example.com", ""])
async def test_an_account_that_is_no_plain_name_is_not_quoted(redis: Redis, grant: str) -> None:
    await NylasDoor(redis).ring(nylas_event(1, grant))

    [note] = await rejections.newest(redis, ["nylas"])
    assert "the event is of an account without a plain name; TENANTS does not name it" == note["detail"]


async def test_an_event_of_ours_is_kept_as_ever(redis: Redis) -> None:
    [answer] = await NylasDoor(redis).ring(nylas_event(1, "grant-1"))

    assert 202 == answer.status_code
    assert await redis.command("EXISTS", f"bell:delivery:{answer.json()['delivery']}")


async def test_the_doctor_warns_where_every_event_was_foreign(redis: Redis) -> None:
    settings, door = read_environment({**REDIS, **NYLAS}), NylasDoor(redis)
    assert [] == [check async for check in _tenants(redis, settings)]

    await door.ring(nylas_event(1, "grant-2"), nylas_event(2, "grant-2"))
    [check] = [check async for check in _tenants(redis, settings)]
    await door.ring(nylas_event(3, "grant-1"))

    assert "all 2 events" in check.detail
    assert "HOOKS__NYLAS__TENANTS" in check.fix
    assert [] == [check async for check in _tenants(redis, settings)]


# -- compressed bodies --

EVENT = nylas_event(1, "grant-1")


def gzipped(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


async def compressed(redis: Redis, raw: bytes, *encodings: str, **env: str) -> httpx.Response:
    """A signed delivery as it is, under these content encodings."""
    door = NylasDoor(redis, **env)
    lines = [*door.signed(raw).items(), *(("content-encoding", encoding) for encoding in encodings)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door.door), base_url="http://door") as client:
        return await client.post("/hooks/nylas", content=raw, headers=lines)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip ", "identity, gzip", "gzip,"])
async def test_a_compressed_body_is_taken_and_kept_as_it_was_before(redis: Redis, encoding: str) -> None:
    answer = await compressed(redis, gzipped(EVENT), encoding)

    assert 202 == answer.status_code
    assert EVENT == (await Ledger(redis, retention_days=30).load_delivery(answer.json()["delivery"]))[1]


@pytest.mark.parametrize("encodings", [(), ("identity",), ("",), ("identity, identity",)])
async def test_a_body_that_is_not_compressed_is_taken_as_ever(redis: Redis, encodings: tuple[str, ...]) -> None:
    assert 202 == (await compressed(redis, EVENT, *encodings)).status_code


async def test_a_repeat_is_known_whether_compressed_or_not(redis: Redis) -> None:
    first = await compressed(redis, gzipped(EVENT), "gzip")
    again = await compressed(redis, EVENT)

    assert {"delivery": first.json()["delivery"], "repeat": True} == again.json()


@pytest.mark.parametrize(
    "encodings",
    [
        ("deflate",),
        ("br",),
        ("zstd",),
        ("compress",),
        ("gzip, gzip",),
        ("gzip", "gzip"),
        ("gzip, br",),
        ("aws-chunked",),
    ],
)
async def test_another_content_encoding_is_refused_before_the_body_is_looked_at(
    redis: Redis, encodings: tuple[str, ...]
) -> None:
    answer = await compressed(redis, b"", *encodings)

    assert (415, "wrong_content_encoding") == (answer.status_code, answer.json()["error"])
    assert "gzip" == answer.headers["accept-encoding"]


@pytest.mark.parametrize(
    "name", [name for name in load_sources() if not load_sources()[name].definition.content_encodings]
)
async def test_where_a_tool_never_compresses_gzip_is_refused(redis: Redis, name: str) -> None:
    known = load_specimens(name)
    env = {
        f"HOOKS__{name.upper()}__SECRETS": known["secret"],
        f"HOOKS__{name.upper()}__TENANTS": known.get("tenants", ""),
        f"HOOKS__{name.upper()}__TIMEZONE": known.get("timezone", ""),
        f"HOOKS__{name.upper()}__API_URL": "https://api.example.com",
        "PUBLIC_URL": "https://hooks.example.com",
        "SECRET_KEY": known.get("secret_key", "a-key-of-32-characters-for-tests"),
    }
    settings = read_environment({**REDIS, **env})
    door = WebhookEndpoint(settings, defaultdict(lambda: Ledger(redis, retention_days=30)), Rejections(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
        answer = await client.post(f"/hooks/{name}", content=gzipped(b"{}"), headers={"content-encoding": "gzip"})

    assert (415, "identity") == (answer.status_code, answer.headers["accept-encoding"])


GZIPPED = gzipped(EVENT)
#: A member without its name, its time and its checks is still one; these are none.
BROKEN = {
    "cut in the middle": GZIPPED[:50],
    "without its checks": GZIPPED[:-8],
    "without its last byte": GZIPPED[:-1],
    "another check": GZIPPED[:-5] + bytes([GZIPPED[-5] ^ 1]) + GZIPPED[-4:],
    "another length": GZIPPED[:-1] + b"\x01",
    "a head alone": GZIPPED[:10],
    "nothing": b"",
    "plain": EVENT,
    "zlib": zlib.compress(EVENT),
    "two members": gzipped(EVENT[:50]) + gzipped(EVENT[50:]),
    "the same twice": GZIPPED + GZIPPED,
    "something behind it": GZIPPED + b"x",
    "zeros behind it": GZIPPED + bytes(512),
    "of nothing": gzipped(b""),
    "of no JSON": gzipped(b"x"),
    "compressed twice": gzipped(GZIPPED),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
async def test_what_is_not_one_whole_member_is_unreadable(redis: Redis, raw: bytes) -> None:
    answer = await compressed(redis, raw, "gzip")

    assert (400, "unreadable_body") == (answer.status_code, answer.json()["error"])
    assert [] == await redis.command("KEYS", "*")


@pytest.mark.parametrize(("size", "status"), [(60_000, 202), (60_001, 413), (50_000_000, 413)])
async def test_the_limit_is_of_what_comes_out(redis: Redis, size: int, status: int) -> None:
    raw = gzipped(EVENT + b" " * (size - len(EVENT)))
    assert len(raw) < 60_000

    tracemalloc.start()
    answer = await compressed(redis, raw, "gzip", MAX_BODY="60000")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert status == answer.status_code
    assert peak < 5_000_000


async def test_a_compressed_body_that_is_not_signed_is_not_decompressed(redis: Redis) -> None:
    door = NylasDoor(redis)
    headers = door.signed(EVENT) | {"content-encoding": "gzip"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door.door), base_url="http://door") as client:
        answers = [await client.post("/hooks/nylas", content=raw, headers=headers) for raw in (gzipped(EVENT), b"x")]

    assert [401, 401] == [answer.status_code for answer in answers]


@pytest.mark.parametrize("name", load_sources())
def test_only_what_is_signed_as_a_whole_may_be_compressed(name: str) -> None:
    source = load_sources()[name].definition

    assert not source.content_encodings or source.signature.coverage == "body"


# -- what such a hook needs --


def test_an_address_with_a_token_needs_a_key_that_cannot_be_guessed() -> None:
    assert "is required, because ServiceM8 signs nothing" in problems(**without(SERVICEM8, "SECRET_KEY"))["SECRET_KEY"]
    assert "must have 16 characters or more" in problems(**{**SERVICEM8, "SECRET_KEY": "short"})["SECRET_KEY"]


def test_what_a_source_needs_is_asked_for() -> None:
    missing = problems(**without(SERVICEM8, "HOOKS__SERVICEM8__TIMEZONE"))
    assert {"HOOKS__SERVICEM8__TIMEZONE": "is required for ServiceM8"} == missing
    missing = problems(**without(GOHIGHLEVEL, "HOOKS__GOHIGHLEVEL__TENANTS"))
    assert {"HOOKS__GOHIGHLEVEL__TENANTS": "is required for GoHighLevel"} == missing


def test_a_hook_without_a_secret_needs_nothing() -> None:
    assert not read_environment({**REDIS, "HOOKS__SERVICEM8__CREDENTIALS__TOKEN": "smk-x"}).active_hooks


def test_tenants_are_only_for_tools_that_name_them() -> None:
    wrong = problems(HOOKS__CALENDLY__SECRETS="a-secret-of-tests", HOOKS__CALENDLY__TENANTS="me")

    assert {"HOOKS__CALENDLY__TENANTS": "Calendly does not send the account of an event"} == wrong


def test_a_refresh_token_is_kept_under_a_key() -> None:
    assert "SECRET_KEY" in problems(
        HOOKS__JOBBER__SECRETS="a-secret-of-tests", HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN="r"
    )


def test_a_credential_that_a_tool_has_no_use_for_is_told() -> None:
    assert "HOOKS__ACUITY__CREDENTIALS__REFRESH_TOKEN" in problems(HOOKS__ACUITY__CREDENTIALS__REFRESH_TOKEN="r")


# -- what is said of it --


def test_the_doctor_says_that_nothing_proves_the_body() -> None:
    found = [check.detail for check in _hooks(read_environment({**REDIS, **SERVICEM8})) if check.result == "warn"]

    assert any("ServiceM8 proves nothing of the body" in detail for detail in found)


def test_the_doctor_warns_of_a_hook_whose_source_nobody_has_verified() -> None:
    found = [check.detail for check in _hooks(read_environment({**REDIS, **SERVICEM8})) if check.result == "warn"]

    assert "the module for ServiceM8 is verified by nobody: parts come from memory" in found


def test_the_doctor_warns_of_short_keys_that_people_choose_and_not_of_a_tools_own() -> None:
    short = {"HOOKS__CALCOM__SECRETS": "fifteen-letters", "HOOKS__JOBBER__SECRETS": "fifteen-letters"}
    given = {**short, **{f"HOOKS__JOBBER__CREDENTIALS__{name}": "x" for name in ("TOKEN",)}}

    found = {check.name: check.detail for check in _hooks(read_environment({**REDIS, **given}))}

    assert {"hook calcom": "HOOKS__CALCOM__SECRETS is shorter than 32 characters"} == found


@pytest.mark.parametrize(
    ("version", "result", "wanted"),
    [
        ((3, 11, 2), "warn", "3.11.10"),
        ((3, 11, 9), "warn", "3.11.10"),
        ((3, 11, 10), "ok", ""),
        ((3, 12, 5), "warn", "3.12.6"),
        ((3, 12, 6), "ok", ""),
        ((3, 13, 0), "ok", ""),
    ],
)
def test_the_doctor_warns_of_a_python_without_security_fixes(
    version: tuple[int, int, int], result: str, wanted: str
) -> None:
    check = _python(version)

    assert result == check.result
    assert (f"Python {wanted} or newer" in check.fix) == bool(wanted)


def test_the_doctor_is_content_with_what_a_token_can_be_got_from() -> None:
    given = {f"HOOKS__JOBBER__CREDENTIALS__{name}": "x" for name in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")}
    secret = {"HOOKS__JOBBER__SECRETS": "a-secret-of-tests", "SECRET_KEY": "a-key-of-sixteen-"}

    assert [] == _hooks(read_environment({**REDIS, **secret, **given}))
    [said] = _hooks(read_environment({**REDIS, **secret}))
    assert ("fail", 3) == (said.result, said.fix.count("HOOKS__JOBBER__CREDENTIALS__"))


@pytest.mark.parametrize("name", load_sources())
def test_the_command_line_tells_how_a_tool_and_the_door_deal_with_one_another(name: str) -> None:
    source = load_sources()[name].definition

    said = CliRunner().invoke(main, ["sources", name]).stdout

    assert f"the tool gets {source.unavailable_status} and retries" in said
    assert f"answered within {source.sender_timeout_s:g} s" in said
    assert "{url}" not in said


def test_the_list_of_sources_has_what_each_proves_and_waits_for() -> None:
    said = [json.loads(line) for line in CliRunner().invoke(main, ["sources", "--json"]).stdout.splitlines()]

    [servicem8] = [row for row in said if row["source"] == "servicem8"]
    assert {"evidence": "recalled", "proves": "nothing", "busy": 503, "within_s": 3.0}.items() <= servicem8.items()


# -- a module that cannot work is told by name --


def test_a_source_that_needs_tenants_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    good = load_sources()["zoom"].definition
    broken = {field: getattr(good, field) for field in Source.__dataclass_fields__}
    module: Any = type(
        "module", (), {"SOURCE": Source(**{**broken, "required_settings": ("TENANTS",), "tenant_of": None})}
    )
    module.translate = staticmethod(lambda event: [])
    monkeypatch.setattr("importlib.import_module", lambda _: module)

    with pytest.raises(InvalidSource, match=r"app/sources/zoom\.py needs TENANTS"):
        _load_source("zoom")


# -- ringing ourselves, as the tool would --


@pytest.fixture(scope="module")
def open_door(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    with Harness(redis_url, sandbox) as harness:
        harness.env |= {**SERVICEM8, **GOHIGHLEVEL, "HOOKS__ZOOM__SECRETS": load_specimens("zoom")["secret"]}
        app_secret = find_specimen("servicem8", "an add-on gets the same")["secret"]
        harness.env["HOOKS__SERVICEM8__SECRETS"] += f" {app_secret}"
        harness.env["HOOKS__GOHIGHLEVEL__TENANTS"] = load_specimens("gohighlevel")["tenants"]
        harness.start_web()
        yield harness


@pytest.mark.parametrize(
    ("source", "specimen", "status"),
    [
        ("servicem8", "a job is booked", 202),
        ("servicem8", "an add-on gets the same", 202),
        ("servicem8", "the subscription is tried", 200),
        ("gohighlevel", "an appointment is booked", 202),
        ("zoom", "Zoom validates", 200),
        ("zoom", "an invitee books", 202),
    ],
)
def test_a_specimen_rings_as_its_tool_would(open_door: Harness, source: str, specimen: str, status: int) -> None:
    ran = open_door.doorbell("ring", source, specimen, "--to", f"{open_door.web_server.url}/hooks/{source}")

    assert (0, f"answered {status}") == (ran.returncode, ran.stderr.strip())


def test_a_source_that_lists_people_fetches_the_records_that_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = type("module", (), {"SOURCE": load_sources()["zoom"].definition})
    module.translate = staticmethod(lambda event: [])
    module.people = staticmethod(lambda event: ("1", []))
    monkeypatch.setattr("importlib.import_module", lambda _: module)

    with pytest.raises(InvalidSource, match=r"app/sources/zoom\.py has people\(event\), but no fetch"):
        _load_source("zoom")
