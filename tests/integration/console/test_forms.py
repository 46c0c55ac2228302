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
async def test_a_cross_site_form_is_answered_403(app: Any, delivery: str, headers: dict[str, str]) -> None:
    operator = Browser(app)
    await operator.log_in()

    response = await operator.post(f"/console/deliveries/{delivery}/reveal", {"field": "*"}, **headers)

    assert 403 == response.status_code
    assert "ada@example.com" not in response.text


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "null", "", "https://doorbell.example.com.evil.example"]
)
async def test_a_form_of_an_old_browser_needs_our_origin(app: Any, delivery: str, origin: str) -> None:
    operator = Browser(app)
    await operator.log_in()
    path, form = f"/console/deliveries/{delivery}/reveal", {"token": operator.token, "field": "*"}

    foreign = await operator.http.post(path, data=form, headers={"origin": origin} if origin else {})
    own = await operator.http.post(path, data=form, headers={"origin": "https://doorbell.example.com"})

    assert (403, 200) == (foreign.status_code, own.status_code)


async def test_a_form_needs_the_token_of_its_own_session(app: Any, delivery: str) -> None:
    operator, other_operator = Browser(app), Browser(app)
    await operator.log_in()
    await other_operator.log_in()
    path = f"/console/deliveries/{delivery}/reveal"

    for token in ("", "x", other_operator.token):
        assert 403 == (await operator.post(path, {"token": token, "field": "*"})).status_code
    assert 200 == (await operator.post(path, {"field": "*"})).status_code
