"""The `standard` source as docs/standard.md describes it: body, signature, bearer token."""

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
def standard_harness(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    with Harness(redis_url, sandbox) as harness:
        for hook, auth in (("ZAPIER", "bearer"), ("BOTH", "signature bearer")):
            harness.env[f"HOOKS__{hook}__SOURCE"], harness.env[f"HOOKS__{hook}__AUTH"] = "standard", auth
        harness.env |= {"HOOKS__ZAPIER__SECRETS": TOKEN, "HOOKS__BOTH__SECRETS": f"{SECRET} {TOKEN}"}
        harness.start_web()
        harness.start_worker()
        yield harness


def post(harness: Harness, hook: str, raw: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    response = httpx.post(
        f"{harness.web_server.url}/hooks/{hook}", content=raw, headers={"content-type": "application/json", **headers}
    )
    return response.status_code, response.json()


def body(kind: str = "visit.created", id: str | None = None, **data: Any) -> bytes:
    event = {"type": kind, "timestamp": "2026-09-21T14:13:20Z", "data": {**BOOKED, **data}}
    return json.dumps(event | ({"id": id} if id else {})).encode()


# -- authentication --


def test_a_bearer_token_is_accepted_where_auth_includes_bearer(standard_harness: Harness) -> None:
    status, response = post(standard_harness, "zapier", body(visit_id="B-1"), authorization=f"Bearer {TOKEN}")

    assert (202, 1) == (status, response["changes"])


@pytest.mark.parametrize("name", ["Authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_name_of_the_bearer_scheme_is_not_case_sensitive(standard_harness: Harness, name: str, scheme: str) -> None:
    assert post(standard_harness, "zapier", body(visit_id=f"{name}{scheme}"), **{name: f"{scheme} {TOKEN}"})[0] in (
        200,
        202,
    )


@pytest.mark.parametrize(
    "authorization", [f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", TOKEN]
)
def test_any_other_authorization_is_rejected(standard_harness: Harness, authorization: str) -> None:
    status, response = post(standard_harness, "zapier", body(), authorization=authorization)

    assert 401 == status
    assert response["error"].startswith("signature_")


def test_a_delivery_without_a_token_is_rejected_as_signature_missing(standard_harness: Harness) -> None:
    status, response = post(standard_harness, "zapier", body())

    assert (401, "signature_missing") == (status, response["error"])


def test_a_signed_hook_accepts_no_bearer_token_not_even_its_own_secret(standard_harness: Harness) -> None:
    for token in (TOKEN, SECRET):
        assert 401 == post(standard_harness, "standard", body(), authorization=f"Bearer {token}")[0]


def test_a_bearer_hook_accepts_no_signature(standard_harness: Harness) -> None:
    raw = standard_body("visit.created", "S-1", time_scheduled="2026-10-01T15:00:00Z")

    assert 401 == post(standard_harness, "zapier", raw, **sign_standard(raw))[0]


def test_a_hook_with_both_methods_accepts_either(standard_harness: Harness) -> None:
    raw = standard_body("visit.created", "S-2", time_scheduled="2026-10-01T15:00:00Z")

    assert 202 == post(standard_harness, "both", raw, **sign_standard(raw))[0]
    assert 202 == post(standard_harness, "both", body(visit_id="B-2"), authorization=f"Bearer {TOKEN}")[0]


def test_a_wrong_signature_is_rejected_despite_a_valid_token(standard_harness: Harness) -> None:
    raw = standard_body("visit.created", "S-3", time_scheduled="2026-10-01T15:00:00Z")
    forged = sign_standard(raw.replace(b"S-3", b"S-4"))

    for header in ("webhook-signature", "svix-signature"):
        signed = {name.replace("webhook-", header.partition("-")[0] + "-"): value for name, value in forged.items()}
        assert 401 == post(standard_harness, "both", raw, authorization=f"Bearer {TOKEN}", **signed)[0]


# -- repeats --


def test_the_id_in_the_body_identifies_an_event_without_an_id_header(standard_harness: Harness) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    first = post(standard_harness, "zapier", body(id="e-1", visit_id="R-1"), **bearer)
    again = post(standard_harness, "zapier", body(id="e-1", visit_id="R-1", amount_collected="1.00"), **bearer)
    different = post(standard_harness, "zapier", body(id="e-2", visit_id="R-1"), **bearer)

    assert (202, 200, 202) == (first[0], again[0], different[0])
    assert again[1] == {"delivery": first[1]["delivery"], "repeat": True}


def test_the_id_header_takes_precedence_over_the_id_in_the_body(standard_harness: Harness) -> None:
    raw = json.dumps({**json.loads(body(visit_id="R-2")), "id": "the-same"}).encode()
    first, second = ({**sign_standard(raw), "content-type": "application/json"} for _ in range(2))
    assert first["webhook-id"] != second["webhook-id"]

    assert [202, 202] == [post(standard_harness, "standard", raw, **headers)[0] for headers in (first, second)]


# -- bodies of automations --


@pytest.mark.parametrize(
    ("amount", "expected"), [(245, "245.00"), (245.5, "245.50"), ("245", "245.00"), ("", None), (None, None)]
)
def test_amounts_are_accepted_as_automations_send_them(
    standard_harness: Harness, amount: Any, expected: str | None
) -> None:
    visit_id = f"M-{amount}-{type(amount).__name__}"

    post(standard_harness, "zapier", body(visit_id=visit_id, amount_collected=amount), authorization=f"Bearer {TOKEN}")

    visit = wait_until(lambda: standard_harness.visit(external_id("standard", visit_id)))
    assert expected == visit.get("amount_collected")


# -- the examples of the document --


def test_the_body_in_the_document_becomes_the_visit_that_it_describes(standard_harness: Harness) -> None:
    [raw] = re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)

    assert 202 == post(standard_harness, "zapier", raw.encode(), authorization=f"Bearer {TOKEN}")[0]

    visit = wait_until(lambda: standard_harness.visit("standard-A-1042"))
    assert ("2026-03-14T16:00:00Z", "245.00") == (visit["time_scheduled"], visit["amount_collected"])


@pytest.mark.parametrize("block", [block for block in SHELL if "curl" in block], ids=["signed", "bearer"])
def test_the_commands_in_the_document_are_accepted(standard_harness: Harness, block: str) -> None:
    env = {"DOORBELL": standard_harness.web_server.url, "TOKEN": TOKEN, "PATH": "/usr/local/bin:/usr/bin:/bin"}

    result = subprocess.run(["bash", "-ec", block], env=env, capture_output=True, text=True, timeout=30)

    assert '"delivery"' in result.stdout, result.stderr
