"""No request to a hook is answered 3xx or 410.

Calendly deletes its subscription on 410, and most tools do not follow a redirect of a POST.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.demo.valkey import free_port
from app.webhooks.registry import load_sources, load_specimens
from tests.support.cases import each
from tests.support.console import HASHES, OPERATORS
from tests.support.harness import wait_until
from tests.support.intake import (
    MAX_BODY,
    SHORT_TIMEOUTS,
    WebProcess,
    is_error_response,
    new_event_body,
    padded_body,
    request,
    signed_headers,
    start_web,
)
from tests.support.ledger_client import LedgerClient
from tests.support.specimens import BY_TOOL

#: The statuses that docs/runbook.md lists.
DOCUMENTED = {200, 202, 400, 401, 404, 405, 408, 413, 415, 429, 503}
METHODS = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "MKCOL", "MOVE", "LOCK",
    "SEARCH", "REPORT", "PURGE", "LINK", "SUBSCRIBE", "M-SEARCH", "QUERY", "post", "BREW",
]  # fmt: skip
HOOKS = ["standard", "calendly", "acuity", "servicem8", "gohighlevel", "nylas", "zoom", "calcom", "nobody"]
#: Variants of a hook's path.
PATH_SHAPES = [
    "/hooks/{}", "/hooks/{}/", "/hooks/{}//", "/hooks//{}", "//hooks/{}", "/hooks/{}/token", "/hooks/{}/token/",
    "/hooks/{}?a=b", "/hooks/{}?", "/hooks/{}?challenge=abc", "/hooks/{}?hub.challenge=1", "/hooks/{}/?a=b", "/hooks/{}#x",
    "/hooks/{}%2F", "/hooks/{}%2f..", "/hooks/%2e%2e/{}", "/hooks/./{}", "/hooks/../hooks/{}", "/hooks/{}/..",
    "/hooks/{};a=b",
    "/hooks/{}%20", "/hooks/{}%00", "/hooks/{}%0d%0alocation:%20x", "/hooks/{}\\", "/Hooks/{}", "/HOOKS/{}", "/hook/{}",
    "/%68ooks/{}", "/hooks%2f{}", "http://doorbell/hooks/{}", "http://evil.example/hooks/{}", "https://doorbell:443/hooks/{}",
    "/hooks/{}/console", "/hooks/console/{}", "/hooks/{}.json", "/hooks/{}/healthz",
]  # fmt: skip
#: Paths of no hook that a tool may call by mistake.
OTHER_PATHS = [
    "/hooks", "/hooks/", "/hooks//", "/hooks?", "/hooks/?a=b", "/hooks/%", "/hooks/%zz", "/hooks/%ff",
    "/hooks/" + "a" * 10_000,
    "*", "/hooks/*", "hooks/standard", "", "//", "/..", "http://doorbell", "http:///hooks", "doorbell:443",
]  # fmt: skip

ENV = {
    "HOOKS__NYLAS__SECRETS": "nylas-secret-of-the-tests-32-long",
    "HOOKS__ZOOM__SECRETS": load_specimens("zoom")["secret"],
    "HOOKS__SERVICEM8__SECRETS": load_specimens("servicem8")["secret"],
    "HOOKS__SERVICEM8__TIMEZONE": "Australia/Sydney",
    "HOOKS__GOHIGHLEVEL__SECRETS": load_specimens("gohighlevel")["secret"],
    "HOOKS__GOHIGHLEVEL__TENANTS": "loc_1",
    "SECRET_KEY": "a-key-of-32-characters-for-tests",
    "CONSOLE_PASSWORD_HASH": HASHES[OPERATORS],
}
#: A web process that accepts no delivery, because MAX_IN_FLIGHT is 0.
OVERLOADED = SHORT_TIMEOUTS.replace("4, 2, 0.05", "4, 0, 0.05")
#: A web process with a bug.
DEFECTIVE = f"from app.intake.acceptance import Acceptance\nAcceptance.begin = None\n{SHORT_TIMEOUTS}"


def _start(stack: ExitStack, redis_url: str, state: str) -> WebProcess:
    match state:
        case "without a console":
            return stack.enter_context(start_web(redis_url, **{**ENV, "CONSOLE_PASSWORD_HASH": ""}))
        case "without Redis":
            return stack.enter_context(start_web(f"redis://127.0.0.1:{free_port()}/0", **ENV))
        case "busy":
            return stack.enter_context(start_web(redis_url, "-c", OVERLOADED, **ENV))
    return stack.enter_context(start_web(redis_url, **ENV))


STATES = ["with a console", "without a console", "without Redis", "busy"]


@pytest.fixture(scope="module", params=STATES)
def state(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def web(state: str, redis_url: str) -> Iterator[WebProcess]:
    with ExitStack() as stack:
        yield _start(stack, redis_url, state)


def responses(web: WebProcess, requests: list[bytes], *, hangs_up: bool = False) -> dict[int, bytes]:
    """Return each response status with the first request that received it. 0: closed without a response."""
    first_requests: dict[int, bytes] = {}
    for raw in requests:
        response = web.send_bytes(raw, method=raw.partition(b" ")[0].decode(), half_closes=hangs_up)
        first_requests.setdefault(response.status, raw[:200])
        if "location" in response.headers:
            first_requests.setdefault(302, raw[:200])
    return first_requests


def undocumented(first_requests: dict[int, bytes]) -> dict[int, bytes]:
    return {status: raw for status, raw in first_requests.items() if status not in DOCUMENTED}


@each("method", METHODS)
def test_every_method_at_every_path_gets_a_documented_status(web: WebProcess, state: str, method: str) -> None:
    """In each state a third of the paths: all pairs of method and shape, of method and hook, and of shape and hook.

    Three of the states together have every path with every method.
    """
    offset = METHODS.index(method) + STATES.index(state)
    pairs = [(m, n) for m in range(len(PATH_SHAPES)) for n in range(len(HOOKS)) if (m + n + offset) % 3 == 0]
    paths = [PATH_SHAPES[m].format(HOOKS[n]) for m, n in pairs]

    assert {} == undocumented(responses(web, [request(path, method) for path in [*paths, *OTHER_PATHS]]))


def test_every_signed_request_gets_a_documented_status(web: WebProcess) -> None:
    raw = new_event_body("standard")
    signed = signed_headers(raw)
    headers = [
        {},
        {"content_type": "text/plain"},
        {"content_encoding": "gzip"},
        {"expect": "100-continue"},
        {"upgrade": "websocket", "connection": "upgrade"},
        {"upgrade": "h2c", "http2_settings": "AAMAAABkAARAAAAAAAIAAAAA"},
        {"host": "evil.example", "x_forwarded_host": "evil.example", "x_forwarded_proto": "http"},
        {"x_forwarded_proto": "https", "forwarded": "proto=http;host=x"},
        {"x_http_method_override": "DELETE"},
        {"accept": "text/html", "cookie": "a=b", "origin": "null"},
        {"if_none_match": "*", "if_modified_since": "Sat, 29 Oct 2050 19:43:31 GMT", "range": "bytes=0-1"},
    ]
    requests = [
        request(shape.format("standard"), "POST", raw, **signed | {"content_length": str(len(raw))} | more)
        for shape in PATH_SHAPES
        for more in headers
    ]

    first_requests = responses(web, requests)

    assert {} == undocumented(first_requests)
    assert {200, 202} <= first_requests.keys() or 503 in first_requests


def test_every_invalid_body_gets_a_documented_status(web: WebProcess) -> None:
    large = padded_body(MAX_BODY + 1)
    requests = [request(f"/hooks/{hook}", body=large, content_length=str(len(large))) for hook in HOOKS]
    requests += [request(f"/hooks/{hook}", body=b"{", content_length="5") for hook in HOOKS]
    requests += [request(f"/hooks/{hook}", body=b"zz\r\n", transfer_encoding="chunked") for hook in HOOKS]
    requests += [request(f"/hooks/{hook}", body=b"2\r\n{}\r\n0\r\n\r\n", transfer_encoding="chunked") for hook in HOOKS]

    # A sender that closes the connection in the middle of a body gets no response.
    first_requests = responses(web, requests, hangs_up=True)
    assert {} == undocumented({status: raw for status, raw in first_requests.items() if status})


@each("name", [name for name in HOOKS if name in BY_TOOL])
def test_every_specimen_at_every_path_gets_a_documented_status(web: WebProcess, name: str) -> None:
    """The requests have the vendor's body and headers; not every signature is valid here."""
    requests = []
    for specimen in BY_TOOL[name]:
        raw = specimen.delivery.body
        headers = {key.decode().replace("-", "_"): value.decode() for key, value in specimen.delivery.headers}
        headers["content_length"] = str(len(raw))
        paths = (f"/hooks/{name}", f"/hooks/{name}/", f"/hooks/{name}/x", f"/hooks/{name}?a=b")
        requests += [request(path, "POST", raw, **headers) for path in paths]
        requests += [request(paths[0], method, raw, **headers) for method in ("GET", "PUT", "DELETE")]

    assert {} == undocumented(responses(web, requests))


@each("name", load_sources())
def test_the_unavailable_status_of_every_source_makes_the_tool_retry(name: str) -> None:
    assert load_sources()[name].definition.unavailable_status in (429, 503)


def test_a_bug_is_answered_with_the_status_after_which_the_tool_retries(redis_url: str) -> None:
    with start_web(redis_url, "-c", DEFECTIVE, **ENV) as web:
        answers = {name: web.send_bytes(request(f"/hooks/{name}", body=b"{}")) for name in ("standard", "gohighlevel")}

    assert is_error_response(answers["standard"], 503)
    assert is_error_response(answers["gohighlevel"], 429)


def test_an_event_whose_translation_has_a_bug_is_stored_and_parked(redis_url: str) -> None:
    code = f"import app.sources.standard as source\nsource.translate = lambda event: {{}}['lost']\n{SHORT_TIMEOUTS}"
    with start_web(redis_url, "-c", code) as web:
        response = web.send("standard")
        listed = LedgerClient(redis_url).tasks("parked")
        wait_until(lambda: "KeyError at <string>:2" in web.log)

    assert 202 == response.status_code, response.text
    assert f"event:{response.json()['delivery']}" in listed


def test_the_root_redirects_to_the_console_if_it_is_configured(web: WebProcess) -> None:
    response = web.send_bytes(request("/", "GET"), method="GET")

    assert (response.status, response.headers.get("location")) in ((303, "/console"), (404, None))
    assert not re.match("3|410", str(web.send_bytes(request("/", "POST")).status))
