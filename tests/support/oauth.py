"""Connects a tool in the console, with the log-in of a fake tool."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

import httpx

from app.vendors.oauth import OAuthServer
from app.vendors.vendor import Vendor
from tests.support.console import Browser

PUBLIC_URL = "https://doorbell.example.com"


def app_variables(vendor: Vendor, api_url: str) -> dict[str, str]:
    """Return the settings of the app that is registered at the fake tool, with its redirect URI."""
    oauth_of(vendor).redirect_uris = (f"{PUBLIC_URL}/console/connect/{vendor.name}/callback",)
    return {"PUBLIC_URL": PUBLIC_URL, **vendor.oauth_variables(api_url)}


def oauth_of(vendor: Vendor) -> OAuthServer:
    assert vendor.oauth
    return vendor.oauth


@dataclass
class Login:
    """A log-in at the tool, step by step."""

    browser: Browser
    source: str
    form: Mapping[str, str]

    async def begin(self) -> str:
        """Send the form, and return the address of the tool's page."""
        page = await self.browser.post(f"/console/connect/{self.source}/authorize", dict(self.form))
        assert 200 == page.status_code, (page.status_code, page.headers.get("location"))
        [url] = re.findall(r'<a href="(http[^"]+)" rel="noreferrer">', page.text)
        assert f"0; url={html.unescape(url)}" == page.headers["refresh"]
        return html.unescape(url)

    async def decide(self, url: str, decision: str = "allow") -> str:
        """Decide on the tool's page, and return the address to which it redirects."""
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            page = await http.get(url)
            assert 200 == page.status_code, page.text
            answer = await http.post(url, data={"decision": decision})
        assert 302 == answer.status_code, answer.text
        return answer.headers["location"]

    async def come_back(self, location: str) -> httpx.Response:
        assert location.startswith(f"{PUBLIC_URL}/console/connect/{self.source}/callback?")
        return await self.browser.get(location.removeprefix(PUBLIC_URL), headers={"sec-fetch-site": "cross-site"})

    async def connect(self, decision: str = "allow") -> httpx.Response:
        return await self.come_back(await self.decide(await self.begin(), decision))

    async def reconnect(self) -> httpx.Response:
        """Log in again from the page of the hook."""
        page = await self.browser.get(f"/console/hooks/{self.form['name']}")
        assert f'action="/console/connect/{self.source}/authorize"' in page.text
        again = replace(self, form={"name": self.form["name"], "again": "1"})
        return await again.connect()


def is_connected(response: httpx.Response) -> bool:
    return response.status_code == 303 and "/first-delivery?since=" in response.headers["location"]


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))
