"""The `standard` source as docs/standard.md describes it: the body, the signature, the bearer form."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.visits.change import external_id
from tests.support.harness import SECRET, Harness, Server, sign_standard, standard_body, wait_until

DOCS = (Path(__file__).parents[3] / "docs" / "standard.md").read_text("utf-8")
SHELL = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
TOKEN = "0123456789abcdef0123456789abcdef"
BOOKED = {"visit_id": "A-1", "contact": {"email": "ada@example.com"}, "time_scheduled": "2026-10-01T15:00:00Z"}


@pytest.fixture(scope="module")
def started(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    with Harness(redis_url, sandbox) as harness:
        for hook, auth in (("ZAPIER", "bearer"), ("BOTH", "signature bearer")):
            harness.env[f"HOOKS__{hook}__SOURCE"], harness.env[f"HOOKS__{hook}__AUTH"] = "standard", auth
        harness.env |= {"HOOKS__ZAPIER__SECRETS": TOKEN, "HOOKS__BOTH__SECRETS": f"{SECRET} {TOKEN}"}
        harness.start_web()
        harness.start_worker()
        yield harness


def post(harness: Harness, hook: str, raw: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    answer = httpx.post(
        f"{harness.web_server.url}/hooks/{hook}", content=raw, headers={"content-type": "application/json", **headers}
    )
    return answer.status_code, answer.json()


def body(kind: str = "visit.created", id: str | None = None, **data: Any) -> bytes:
    event = {"type": kind, "timestamp": "2026-09-21T14:13:20Z", "data": {**BOOKED, **data}}
    return json.dumps(event | ({"id": id} if id else {})).encode()


# -- what a hook accepts --


def test_a_bearer_token_opens_the_hook_that_accepts_it(started: Harness) -> None:
    status, answer = post(started, "zapier", body(visit_id="B-1"), authorization=f"Bearer {TOKEN}")

    assert (202, 1) == (status, answer["changes"])


@pytest.mark.parametrize("name", ["Authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_name_of_the_bearer_scheme_is_not_case_sensitive(started: Harness, name: str, scheme: str) -> None:
    assert post(started, "zapier", body(visit_id=f"{name}{scheme}"), **{name: f"{scheme} {TOKEN}"})[0] in (200, 202)


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", TOKEN])
def test_any_other_authorization_is_refused(started: Harness, given: str) -> None:
    status, answer = post(started, "zapier", body(), authorization=given)

    assert 401 == status
    assert answer["error"].startswith("signature_")


def test_a_delivery_without_a_token_is_refused_and_told_which_header_is_missing(started: Harness) -> None:
    status, answer = post(started, "zapier", body())

    assert (401, "signature_missing") == (status, answer["error"])


def test_a_signed_hook_accepts_no_bearer_token_not_even_its_own_secret(started: Harness) -> None:
    for token in (TOKEN, SECRET):
        assert 401 == post(started, "standard", body(), authorization=f"Bearer {token}")[0]


def test_a_bearer_hook_accepts_no_signature(started: Harness) -> None:
    raw = standard_body("visit.created", "S-1", time_scheduled="2026-10-01T15:00:00Z")

    assert 401 == post(started, "zapier", raw, **sign_standard(raw))[0]


def test_a_hook_that_says_both_accepts_each(started: Harness) -> None:
    raw = standard_body("visit.created", "S-2", time_scheduled="2026-10-01T15:00:00Z")

    assert 202 == post(started, "both", raw, **sign_standard(raw))[0]
    assert 202 == post(started, "both", body(visit_id="B-2"), authorization=f"Bearer {TOKEN}")[0]


def test_a_wrong_signature_is_never_forgiven_for_the_sake_of_a_right_token(started: Harness) -> None:
    raw = standard_body("visit.created", "S-3", time_scheduled="2026-10-01T15:00:00Z")
    forged = sign_standard(raw.replace(b"S-3", b"S-4"))

    for header in ("webhook-signature", "svix-signature"):
        signed = {name.replace("webhook-", header.partition("-")[0] + "-"): value for name, value in forged.items()}
        assert 401 == post(started, "both", raw, authorization=f"Bearer {TOKEN}", **signed)[0]


# -- repeats --


def test_the_id_in_the_body_names_the_event_where_no_header_does(started: Harness) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    first = post(started, "zapier", body(id="e-1", visit_id="R-1"), **bearer)
    again = post(started, "zapier", body(id="e-1", visit_id="R-1", amount_collected="1.00"), **bearer)
    other = post(started, "zapier", body(id="e-2", visit_id="R-1"), **bearer)

    assert (202, 200, 202) == (first[0], again[0], other[0])
    assert again[1] == {"delivery": first[1]["delivery"], "repeat": True}


def test_the_id_of_the_header_comes_before_the_one_in_the_body(started: Harness) -> None:
    raw = json.dumps({**json.loads(body(visit_id="R-2")), "id": "the-same"}).encode()
    first, second = ({**sign_standard(raw), "content-type": "application/json"} for _ in range(2))
    assert first["webhook-id"] != second["webhook-id"]

    assert [202, 202] == [post(started, "standard", raw, **headers)[0] for headers in (first, second)]


# -- what automations send --


@pytest.mark.parametrize(
    ("amount", "expected"), [(245, "245.00"), (245.5, "245.50"), ("245", "245.00"), ("", None), (None, None)]
)
def test_amounts_are_read_as_automations_write_them(started: Harness, amount: Any, expected: str | None) -> None:
    visit_id = f"M-{amount}-{type(amount).__name__}"

    post(started, "zapier", body(visit_id=visit_id, amount_collected=amount), authorization=f"Bearer {TOKEN}")

    visit = wait_until(lambda: started.visit(external_id("standard", visit_id)))
    assert expected == visit.get("amount_collected")


# -- the document itself --


def test_the_body_in_the_document_becomes_the_visit_that_it_describes(started: Harness) -> None:
    [raw] = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)

    assert 202 == post(started, "zapier", raw.encode(), authorization=f"Bearer {TOKEN}")[0]

    visit = wait_until(lambda: started.visit("standard-A-1042"))
    assert ("2026-03-14T16:00:00Z", "245.00") == (visit["time_scheduled"], visit["amount_collected"])


@pytest.mark.parametrize("block", [block for block in SHELL if "curl" in block], ids=["signed", "bearer"])
def test_the_commands_in_the_document_are_accepted(started: Harness, block: str) -> None:
    env = {"DOORBELL": started.web_server.url, "TOKEN": TOKEN, "PATH": "/usr/local/bin:/usr/bin:/bin"}

    ran = subprocess.run(["bash", "-ec", block], env=env, capture_output=True, text=True, timeout=30)

    assert '"delivery"' in ran.stdout, ran.stderr
