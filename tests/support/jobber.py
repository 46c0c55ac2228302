"""Deliveries and OAuth tokens of Jobber, for tests of fetches and token exchanges."""

import base64
import json
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.support.harness import hmac_sha256
from tests.support.tool_api import SPECIMENS, ToolApi, ToolWorld

BOOKED = SPECIMENS["jobber"]["deliveries"][0]
ITEM = BOOKED["body"]["data"]["webHookEvent"]["itemId"]
OAUTH = {
    "HOOKS__JOBBER__CREDENTIALS__TOKEN": "",
    "HOOKS__JOBBER__CREDENTIALS__CLIENT_ID": "the-client",
    "HOOKS__JOBBER__CREDENTIALS__CLIENT_SECRET": "its-secret",
    "HOOKS__JOBBER__CREDENTIALS__REFRESH_TOKEN": "refresh-one",
    "SECRET_KEY": "a-key-of-ours-for-tests",
}
FIRST_TOKEN = {"access_token": "access-one", "expires_in": 3600, "refresh_token": "refresh-two"}
SECOND_TOKEN = {"access_token": "access-two", "expires_in": 3600}


async def send_event(world: ToolWorld, second: int, item: str = ITEM) -> str:
    """Send a new event about a visit. Return the id of its task."""
    event = {**BOOKED["body"]["data"]["webHookEvent"], "itemId": item, "occurredAt": f"2026-03-10T15:20:{second:02d}Z"}
    body = {"data": {"webHookEvent": event}}
    raw = json.dumps(body, separators=(",", ":")).encode()
    signature = base64.b64encode(hmac_sha256(SPECIMENS["jobber"]["secret"].encode(), raw)).decode()
    headers = {"Content-Type": "application/json", "X-Jobber-Hmac-SHA256": signature}
    response = await world.receive("jobber", {"body": body, "headers": headers})
    assert 202 == response.status_code, response.text
    return f"event:{response.json()['delivery']}"


def record_requests(world: ToolWorld) -> list[dict[str, str]]:
    """Return the headers of the requests for records."""
    return [headers for _, path, headers, _ in world.tool.requests if path == "/jobber/graphql"]


def set_token_responses(world: ToolWorld, *tokens: dict[str, Any] | int) -> list[dict[str, str]]:
    """Let the token endpoint send these responses, and then the last one repeatedly. Return the forms that it receives."""
    forms: list[dict[str, str]] = []
    remaining = list(tokens)
    real = ToolApi.respond

    def respond(request: Request, body: bytes) -> Response:
        if request.url.path != "/oauth/token":
            return real(world.tool, request, body)
        forms.append({name: value for name, [value] in parse_qs(body.decode()).items()})
        token = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return PlainTextResponse("no", token) if isinstance(token, int) else JSONResponse(token)

    world.tool.respond = respond  # type: ignore[method-assign]
    return forms


def connect(world: ToolWorld, **settings: str) -> None:
    world.configure(**{**OAUTH, "HOOKS__JOBBER__TOKEN_URL": f"{world.url}/oauth/token", **settings})
    world.tool.add_records("jobber", BOOKED)
