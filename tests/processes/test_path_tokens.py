"""Hooks with a token in the URL, hooks with tenants, compressed bodies, and the settings that such hooks require."""

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
from app.ledger.ids import delivery_key
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
from tests.support.cases import each
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
    with pytest.raises(SettingsError) as error:
        read_environment({**REDIS, **environ})
    return {problem.name: problem.rule for problem in error.value.problems}


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


# The URL


def test_hook_url_prints_the_url_with_its_token() -> None:
    env = {**SERVICEM8, "PUBLIC_URL": "https://hooks.example.com"}

    result = CliRunner().invoke(main, ["hook-url", "servicem8"], env=env)

    assert (0, f"https://hooks.example.com/hooks/servicem8/{TOKEN}\n") == (result.exit_code, result.stdout)


def test_the_url_of_a_tool_that_signs_has_no_token() -> None:
    env = {
        "HOOKS__CALCOM__SECRETS": "a-secret-of-tests",
        "PUBLIC_URL": "https://hooks.example.com",
        "SECRET_KEY": "a-key-of-sixteen-",
    }

    result = CliRunner().invoke(main, ["hook-url", "calcom"], env=env)

    assert "https://hooks.example.com/hooks/calcom\n" == result.stdout


def test_an_unknown_hook_has_no_url() -> None:
    assert 5 == CliRunner().invoke(main, ["hook-url", "nobody"]).exit_code


async def send_request(
    redis: Redis, path: str, method: str = "POST", content: bytes = b"", **env: str
) -> httpx.Response:
    settings = read_environment({**REDIS, **SERVICEM8, "HOOKS__CALCOM__SECRETS": "a-secret-of-tests", **env})
    ledger = Ledger(redis, retention_days=30)
    endpoint = WebhookEndpoint(settings, defaultdict(lambda: ledger), Rejections(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://doorbell") as client:
        content = content or (b'{"object":"company","entry":[]}' if method == "POST" else b"")
        return await client.request(method, path, content=content, headers={"content-type": "application/json"})


@each(
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
async def test_only_the_exact_url_is_accepted(redis: Redis, path: str, status: int) -> None:
    assert status == (await send_request(redis, path)).status_code


async def test_the_token_of_a_url_is_not_logged(redis: Redis, logged: list[Any]) -> None:
    for path in (f"/hooks/servicem8/{TOKEN}", f"/hooks/calcom/{TOKEN}", f"/hooks/nobody/{TOKEN}"):
        await send_request(redis, path)

    assert 3 == len(logged)
    assert TOKEN not in repr(logged)


async def test_the_old_url_stays_valid_while_the_old_secret_and_key_are_set(redis: Redis) -> None:
    both = {
        "HOOKS__SERVICEM8__SECRETS": f"new {load_specimens('servicem8')['secret']}",
        "SECRET_KEY": f"a-newer-key-of-ours {load_specimens('servicem8')['secret_key']}",
    }

    assert 200 == (await send_request(redis, f"/hooks/servicem8/{TOKEN}", **both)).status_code
    assert 401 == (await send_request(redis, f"/hooks/servicem8/{TOKEN}", SECRET_KEY="a-newer-key-of-ours")).status_code


def token_by(key: str) -> bytes:
    """Return the body that an add-on gets, signed with the key."""
    unsigned = find_specimen("servicem8", "an add-on gets the same")["body"].rpartition(".")[0].encode()
    digest = hmac.digest(key.encode(), unsigned, "sha256")
    return unsigned + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")


@each("secret", ["doorbell", "servicem8-word-for-tests", "x" * 31])
async def test_a_secret_shorter_than_32_characters_signs_no_token(redis: Redis, secret: str) -> None:
    forged = await send_request(redis, "/hooks/servicem8", content=token_by(secret), HOOKS__SERVICEM8__SECRETS=secret)

    assert (401, "signature_mismatch") == (forged.status_code, forged.json()["error"])


async def test_a_secret_of_32_characters_signs_tokens(redis: Redis) -> None:
    verified = await send_request(
        redis, "/hooks/servicem8", content=token_by("x" * 32), HOOKS__SERVICEM8__SECRETS="x" * 32
    )

    assert 202 == verified.status_code


@pytest.mark.parametrize(("source", "days"), [("cronofy", [400]), ("calendly", [])])
async def test_repeats_are_detected_for_longer_if_changes_are_ordered_by_arrival(
    redis: Redis, source: str, days: list[int]
) -> None:
    """Cronofy signs no time: a recorded request that is sent again after eight days would count as the newest."""
    secret, address = load_specimens(source)["secret"], f"http://doorbell/hooks/{source}"
    settings = read_environment({**REDIS, f"HOOKS__{source.upper()}__SECRETS": secret})
    specimen = sign_specimen(source, "2", source, [secret], [], address)
    ledger = Ledger(redis, retention_days=30)
    endpoint = WebhookEndpoint(settings, defaultdict(lambda: ledger), Rejections(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint)) as client:
        response = await client.post(address, content=specimen.body, headers=specimen.headers)

    assert 202 == response.status_code
    marks = await redis.command("KEYS", "bell:dedup:*")
    assert days == [round(await redis.command("TTL", mark) / 86_400) for mark in marks]


# Events of an account that is not in TENANTS

NYLAS = {"HOOKS__NYLAS__SECRETS": "nylas-secret-of-the-tests-32-long", "HOOKS__NYLAS__TENANTS": "grant-1"}


def nylas_event(number: int, grant: str) -> bytes:
    """Return an event with 8 KB of data."""
    data = {"grant_id": grant, "object": {"note": "x" * 8_000}}
    return json.dumps(
        {"id": f"event-{number}", "type": "booking.created", "time": 1_790_000_000, "data": data}
    ).encode()


class NylasEndpoint:
    """The webhook endpoint with this hook, and its counters."""

    def __init__(self, redis: Redis, **env: str) -> None:
        settings = read_environment({**REDIS, **NYLAS, **env})
        self.redis, self.rejections = redis, Rejections(redis)
        self.counters = Counters(30)
        ledger = Ledger(redis, retention_days=30)
        self.app = WebhookEndpoint(settings, defaultdict(lambda: ledger), self.rejections, self.counters)

    async def send(self, *bodies: bytes) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://doorbell") as client:
            responses = [await client.post("/hooks/nylas", content=raw, headers=self.sign(raw)) for raw in bodies]
        await self.rejections.flush()
        await self.counters.flush(self.redis)
        return responses

    def sign(self, raw: bytes) -> dict[str, str]:
        digest = hmac.new(NYLAS["HOOKS__NYLAS__SECRETS"].encode(), raw, "sha256").hexdigest()
        return {"content-type": "application/json", "x-nylas-signature": digest, "x-request-id": f"r-{digest[:8]}"}


async def test_foreign_events_do_not_change_the_number_of_keys(redis: Redis) -> None:
    endpoint = NylasEndpoint(redis)
    await endpoint.send(nylas_event(0, "grant-2"))
    before = await redis.command("DBSIZE")

    responses = await endpoint.send(*(nylas_event(number, f"grant-{number}") for number in range(2, 202)))

    assert {(200, "foreign_tenant")} == {(response.status_code, response.json()["ignored"]) for response in responses}
    assert before == await redis.command("DBSIZE")
    assert 50 == await redis.command("LLEN", "bell:rejections:nylas:foreign_tenant")
    assert 20_000 > sum([await redis.command("MEMORY", "USAGE", key) for key in await redis.command("KEYS", "*")])


async def test_foreign_events_are_counted_and_the_newest_are_listed(redis: Redis) -> None:
    endpoint = NylasEndpoint(redis)

    await endpoint.send(*(nylas_event(number, "grant-2") for number in range(60)))

    assert 60 == (await rejections.counts(redis))["nylas", "foreign_tenant"]
    notes = [note for note in await rejections.newest(redis, ["nylas"]) if note["reason"] == "foreign_tenant"]
    assert 50 == len(notes)
    assert {"the event is from account grant-2; TENANTS does not name it"} == {note["detail"] for note in notes}
    assert 60 == (await counters.hourly_counts(redis, 1))[0][1]["nylas", "foreign_tenant"]


async def test_foreign_events_push_no_rejection_out_of_the_newest(redis: Redis) -> None:
    endpoint = NylasEndpoint(redis)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint.app), base_url="http://doorbell") as client:
        await client.post("/hooks/nylas", content=b"{}")

    await endpoint.send(*(nylas_event(number, "grant-2") for number in range(60)))

    assert 51 == len(await rejections.newest(redis, ["nylas"]))


@pytest.mark.parametrize("reason", ["missing", "malformed"])
async def test_unsigned_requests_push_no_request_of_the_tool_out_of_the_newest(redis: Redis, reason: str) -> None:
    recorder = Rejections(redis)
    for tool_reason in ("signature_mismatch", "signature_stale", "unreadable_body"):
        recorder.record("nylas", tool_reason, "of the tool")
    for _ in range(300):
        recorder.record("nylas", f"signature_{reason}", "of a stranger")
        recorder.record("", "no_such_hook", "of a stranger")
    await recorder.flush()

    notes = await rejections.newest(redis, ["", "nylas"])

    for limit in (3, 100):
        listed = rejections.senders_first(notes, limit)
        assert limit == len(listed)
        assert 3 == [note["detail"] for note in listed].count("of the tool")
    assert sorted(notes, key=lambda note: -note["at"]) == notes
    assert 103 == len(notes)


@pytest.mark.parametrize("grant", ["<script>", "x" * 65, "ada@example.com", ""])
async def test_an_account_with_an_unusual_name_is_not_quoted(redis: Redis, grant: str) -> None:
    await NylasEndpoint(redis).send(nylas_event(1, grant))

    [note] = await rejections.newest(redis, ["nylas"])
    assert "the event is from an account without a plain name; TENANTS does not name it" == note["detail"]


async def test_an_event_of_a_tenant_is_stored(redis: Redis) -> None:
    [response] = await NylasEndpoint(redis).send(nylas_event(1, "grant-1"))

    assert 202 == response.status_code
    assert await redis.command("EXISTS", delivery_key(response.json()["delivery"]))


async def test_doctor_warns_if_every_event_is_foreign(redis: Redis) -> None:
    settings, endpoint = read_environment({**REDIS, **NYLAS}), NylasEndpoint(redis)
    assert [] == [check async for check in _tenants(redis, settings)]

    await endpoint.send(nylas_event(1, "grant-2"), nylas_event(2, "grant-2"))
    [check] = [check async for check in _tenants(redis, settings)]
    await endpoint.send(nylas_event(3, "grant-1"))

    assert "all 2 events" in check.detail
    assert "HOOKS__NYLAS__TENANTS" in check.fix
    assert [] == [check async for check in _tenants(redis, settings)]


# Compressed bodies

EVENT = nylas_event(1, "grant-1")


def gzipped(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


async def send_encoded(redis: Redis, raw: bytes, *encodings: str, **env: str) -> httpx.Response:
    """Send a signed delivery with these content encodings, without changing its body."""
    endpoint = NylasEndpoint(redis, **env)
    lines = [*endpoint.sign(raw).items(), *(("content-encoding", encoding) for encoding in encodings)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint.app), base_url="http://doorbell") as client:
        return await client.post("/hooks/nylas", content=raw, headers=lines)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip ", "identity, gzip", "gzip,"])
async def test_a_compressed_body_is_stored_decompressed(redis: Redis, encoding: str) -> None:
    response = await send_encoded(redis, gzipped(EVENT), encoding)

    assert 202 == response.status_code
    assert EVENT == (await Ledger(redis, retention_days=30).load_delivery(response.json()["delivery"]))[1]


@pytest.mark.parametrize("encodings", [(), ("identity",), ("",), ("identity, identity",)])
async def test_an_uncompressed_body_is_accepted(redis: Redis, encodings: tuple[str, ...]) -> None:
    assert 202 == (await send_encoded(redis, EVENT, *encodings)).status_code


async def test_a_repeat_is_detected_whether_compressed_or_not(redis: Redis) -> None:
    first = await send_encoded(redis, gzipped(EVENT), "gzip")
    repeat = await send_encoded(redis, EVENT)

    assert {"delivery": first.json()["delivery"], "repeat": True} == repeat.json()


@each(
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
async def test_another_content_encoding_is_rejected_before_the_body_is_read(
    redis: Redis, encodings: tuple[str, ...]
) -> None:
    response = await send_encoded(redis, b"", *encodings)

    assert (415, "wrong_content_encoding") == (response.status_code, response.json()["error"])
    assert "gzip" == response.headers["accept-encoding"]


@each("name", [name for name in load_sources() if not load_sources()[name].definition.content_encodings])
async def test_gzip_is_rejected_for_a_tool_that_never_compresses(redis: Redis, name: str) -> None:
    specimens = load_specimens(name)
    env = {
        f"HOOKS__{name.upper()}__SECRETS": specimens["secret"],
        f"HOOKS__{name.upper()}__TENANTS": specimens.get("tenants", ""),
        f"HOOKS__{name.upper()}__TIMEZONE": specimens.get("timezone", ""),
        f"HOOKS__{name.upper()}__API_URL": "https://api.example.com",
        "PUBLIC_URL": "https://hooks.example.com",
        "SECRET_KEY": specimens.get("secret_key", "a-key-of-32-characters-for-tests"),
    }
    settings = read_environment({**REDIS, **env})
    endpoint = WebhookEndpoint(settings, defaultdict(lambda: Ledger(redis, retention_days=30)), Rejections(redis))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://doorbell") as client:
        response = await client.post(f"/hooks/{name}", content=gzipped(b"{}"), headers={"content-encoding": "gzip"})

    assert (415, "identity") == (response.status_code, response.headers["accept-encoding"])


GZIPPED = gzipped(EVENT)
#: Bodies that are not exactly one complete gzip member with a JSON body.
BROKEN = {
    "truncated": GZIPPED[:50],
    "without a trailer": GZIPPED[:-8],
    "without its last byte": GZIPPED[:-1],
    "wrong checksum": GZIPPED[:-5] + bytes([GZIPPED[-5] ^ 1]) + GZIPPED[-4:],
    "wrong length": GZIPPED[:-1] + b"\x01",
    "only a header": GZIPPED[:10],
    "empty": b"",
    "plain": EVENT,
    "zlib": zlib.compress(EVENT),
    "two members": gzipped(EVENT[:50]) + gzipped(EVENT[50:]),
    "the same twice": GZIPPED + GZIPPED,
    "trailing byte": GZIPPED + b"x",
    "trailing zeros": GZIPPED + bytes(512),
    "an empty body": gzipped(b""),
    "not JSON": gzipped(b"x"),
    "compressed twice": gzipped(GZIPPED),
}


@each("raw", BROKEN.values(), ids=BROKEN)
async def test_a_body_that_is_not_one_complete_gzip_member_is_unreadable(redis: Redis, raw: bytes) -> None:
    response = await send_encoded(redis, raw, "gzip")

    assert (400, "unreadable_body") == (response.status_code, response.json()["error"])
    assert [] == await redis.command("KEYS", "*")


@each(("size", "status"), [(60_000, 202), (60_001, 413), (50_000_000, 413)])
async def test_max_body_limits_the_decompressed_size(redis: Redis, size: int, status: int) -> None:
    raw = gzipped(EVENT + b" " * (size - len(EVENT)))
    assert len(raw) < 60_000

    tracemalloc.start()
    response = await send_encoded(redis, raw, "gzip", MAX_BODY="60000")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert status == response.status_code
    assert peak < 5_000_000


async def test_an_unsigned_body_is_not_decompressed(redis: Redis) -> None:
    endpoint = NylasEndpoint(redis)
    headers = endpoint.sign(EVENT) | {"content-encoding": "gzip"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint.app), base_url="http://doorbell") as client:
        responses = [await client.post("/hooks/nylas", content=raw, headers=headers) for raw in (gzipped(EVENT), b"x")]

    assert [401, 401] == [response.status_code for response in responses]


@each("name", load_sources())
def test_only_sources_that_sign_the_whole_body_accept_compression(name: str) -> None:
    source = load_sources()[name].definition

    assert not source.content_encodings or source.signature.coverage == "body"


# Required settings


def test_a_url_with_a_token_requires_a_long_secret_key() -> None:
    assert "is required, because ServiceM8 signs nothing" in problems(**without(SERVICEM8, "SECRET_KEY"))["SECRET_KEY"]
    assert "must have 16 characters or more" in problems(**{**SERVICEM8, "SECRET_KEY": "short"})["SECRET_KEY"]


def test_a_missing_required_setting_is_reported() -> None:
    missing = problems(**without(SERVICEM8, "HOOKS__SERVICEM8__TIMEZONE"))
    assert {"HOOKS__SERVICEM8__TIMEZONE": "is required for ServiceM8"} == missing
    missing = problems(**without(GOHIGHLEVEL, "HOOKS__GOHIGHLEVEL__TENANTS"))
    assert {"HOOKS__GOHIGHLEVEL__TENANTS": "is required for GoHighLevel"} == missing


def test_a_hook_without_a_secret_requires_no_settings() -> None:
    assert not read_environment({**REDIS, "HOOKS__SERVICEM8__CREDENTIALS__TOKEN": "smk-x"}).active_hooks


def test_tenants_are_rejected_for_tools_that_send_no_account() -> None:
    reported = problems(HOOKS__CALENDLY__SECRETS="a-secret-of-tests", HOOKS__CALENDLY__TENANTS="me")

    assert {"HOOKS__CALENDLY__TENANTS": "Calendly does not send the account of an event"} == reported


def test_a_refresh_token_requires_a_secret_key() -> None:
    assert "SECRET_KEY" in problems(
        HOOKS__JOBBER__SECRETS="a-secret-of-tests", HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN="r"
    )


def test_an_unknown_credential_is_reported() -> None:
    assert "HOOKS__ACUITY__CREDENTIALS__REFRESH_TOKEN" in problems(HOOKS__ACUITY__CREDENTIALS__REFRESH_TOKEN="r")


# Doctor and sources


def warnings_of(**environ: str) -> list[str]:
    return [check.detail for check in _hooks(read_environment({**REDIS, **environ})) if check.result == "warn"]


def test_doctor_warns_of_a_tool_that_does_not_sign_the_body() -> None:
    details = warnings_of(**SERVICEM8)

    assert any("ServiceM8 signs nothing of the body" in detail for detail in details)


def test_doctor_warns_of_a_source_that_is_not_verified() -> None:
    details = warnings_of(**SERVICEM8)

    assert "the module for ServiceM8 is verified by nobody; the facts are from memory" in details


def test_doctor_warns_of_short_secrets_that_people_choose_and_not_of_generated_ones() -> None:
    short = {"HOOKS__CALCOM__SECRETS": "fifteen-letters", "HOOKS__JOBBER__SECRETS": "fifteen-letters"}

    checks = _hooks(read_environment({**REDIS, **short, "HOOKS__JOBBER__CREDENTIALS__TOKEN": "x"}))

    assert {"hook calcom": "HOOKS__CALCOM__SECRETS is shorter than 32 characters"} == {
        check.name: check.detail for check in checks
    }


@each(
    ("version", "result", "recommended"),
    [
        ((3, 11, 2), "warn", "3.11.10"),
        ((3, 11, 9), "warn", "3.11.10"),
        ((3, 11, 10), "ok", ""),
        ((3, 12, 5), "warn", "3.12.6"),
        ((3, 12, 6), "ok", ""),
        ((3, 13, 0), "ok", ""),
    ],
)
def test_doctor_warns_of_a_python_without_security_fixes(
    version: tuple[int, int, int], result: str, recommended: str
) -> None:
    check = _python(version)

    assert result == check.result
    assert (f"Python {recommended} or newer" in check.fix) == bool(recommended)


def test_doctor_accepts_credentials_that_can_be_exchanged_for_a_token() -> None:
    credentials = {
        f"HOOKS__JOBBER__CREDENTIALS__{name}": "x" for name in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")
    }
    secret = {"HOOKS__JOBBER__SECRETS": "a-secret-of-tests", "SECRET_KEY": "a-key-of-sixteen-"}

    assert [] == _hooks(read_environment({**REDIS, **secret, **credentials}))
    [check] = _hooks(read_environment({**REDIS, **secret}))
    assert ("fail", 3) == (check.result, check.fix.count("HOOKS__JOBBER__CREDENTIALS__"))


@each(
    ("name", "sentence"),
    [
        ("square", "while Redis is unavailable, the tool gets 503 and retries;"),
        ("gohighlevel", "while Redis is unavailable, the tool gets 429 and retries;"),
        ("calcom", "while Redis is unavailable, the tool gets 503, and hardly ever retries;"),
        ("youcanbookme", "while Redis is unavailable, the tool gets 503; whether it retries is not known;"),
    ],
)
def test_sources_says_whether_a_tool_retries(name: str, sentence: str) -> None:
    """Square and GoHighLevel document it, Cal.com's code shows that it rarely does, YouCanBook.me's pages mention none."""
    assert sentence in " ".join(CliRunner().invoke(main, ["sources", name]).stdout.split())  # lines are wrapped


@each("name", load_sources())
def test_sources_shows_the_timeout_and_the_status_of_a_tool(name: str) -> None:
    source = load_sources()[name].definition

    output = " ".join(CliRunner().invoke(main, ["sources", name]).stdout.split())  # lines are wrapped

    assert f"the tool gets {source.unavailable_status}" in output
    assert f"the tool gets a response within {source.sender_timeout_s:g} s" in output
    assert "{url}" not in output


def test_sources_lists_the_coverage_of_the_signature_and_the_timeout() -> None:
    rows = [json.loads(line) for line in CliRunner().invoke(main, ["sources", "--json"]).stdout.splitlines()]

    [servicem8] = [row for row in rows if row["source"] == "servicem8"]
    assert {
        "evidence": "none",
        "signature_covers": "nothing",
        "unavailable_status": 503,
        "answer_within_s": 3.0,
    }.items() <= servicem8.items()


# Invalid modules


def test_a_source_that_requires_tenants_must_define_tenant_of(monkeypatch: pytest.MonkeyPatch) -> None:
    valid = load_sources()["zoom"].definition
    fields = {field: getattr(valid, field) for field in Source.__dataclass_fields__}
    module: Any = type(
        "module", (), {"SOURCE": Source(**{**fields, "required_settings": ("TENANTS",), "tenant_of": None})}
    )
    module.translate = staticmethod(lambda event: [])
    monkeypatch.setattr("importlib.import_module", lambda _: module)

    with pytest.raises(InvalidSource, match=r"app/sources/zoom\.py needs TENANTS"):
        _load_source("zoom")


# Specimens


@pytest.fixture(scope="module")
def service(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    with Harness(redis_url, sandbox) as harness:
        harness.env |= {**SERVICEM8, **GOHIGHLEVEL, "HOOKS__ZOOM__SECRETS": load_specimens("zoom")["secret"]}
        app_secret = find_specimen("servicem8", "an add-on gets the same")["secret"]
        harness.env["HOOKS__SERVICEM8__SECRETS"] += f" {app_secret}"
        harness.env["HOOKS__GOHIGHLEVEL__TENANTS"] = load_specimens("gohighlevel")["tenants"]
        harness.start_web()
        yield harness


@each(
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
def test_ring_sends_a_specimen_as_its_tool_does(service: Harness, source: str, specimen: str, status: int) -> None:
    result = service.doorbell("ring", source, specimen, "--to", f"{service.web_server.url}/hooks/{source}")

    assert (0, f"status {status}") == (result.returncode, result.stderr.splitlines()[0])


def test_a_source_with_people_must_define_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = type("module", (), {"SOURCE": load_sources()["zoom"].definition})
    module.translate = staticmethod(lambda event: [])
    module.people = staticmethod(lambda event: ("1", []))
    monkeypatch.setattr("importlib.import_module", lambda _: module)

    with pytest.raises(InvalidSource, match=r"app/sources/zoom\.py has people\(event\), but no fetch"):
        _load_source("zoom")
