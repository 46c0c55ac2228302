"""Cross-site forms are rejected."""

from typing import Any

import pytest

from tests.support.console import Browser


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "", "origin": "https://evil.example.com"},
    ],
)
async def test_a_form_from_elsewhere_does_nothing(app: Any, delivery: str, headers: dict[str, str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    answer = await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"}, **headers)

    assert 403 == answer.status_code
    assert "ada@example.com" not in answer.text


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "null", "", "https://doorbell.example.com.evil.example"]
)
async def test_an_old_browsers_form_needs_our_origin(app: Any, delivery: str, origin: str) -> None:
    operator = Browser(app)
    await operator.log_in()
    path, form = f"/console/deliveries/{delivery}/reveal", {"token": operator.token, "field": "*"}

    theirs = await operator.http.post(path, data=form, headers={"origin": origin} if origin else {})
    ours = await operator.http.post(path, data=form, headers={"origin": "https://doorbell.example.com"})

    assert (403, 200) == (theirs.status_code, ours.status_code)


async def test_a_form_needs_the_token_of_its_own_session(app: Any, delivery: str) -> None:
    operator, other = Browser(app), Browser(app)
    await operator.log_in()
    await other.log_in()
    path = f"/console/deliveries/{delivery}/reveal"

    for token in ("", "x", other.token):
        assert 403 == (await operator.post(path, {"token": token, "field": "*"})).status_code
    assert 200 == (await operator.post(path, {"field": "*"})).status_code
