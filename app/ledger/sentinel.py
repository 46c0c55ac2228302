"""Finds the primary of a Redis that Sentinels watch: https://redis.io/docs/latest/develop/reference/sentinel-clients/.

The Sentinels are asked at each connect, and while a connection lives, so that a failover is noticed even if the old primary
still answers. All are asked at once, and the newest answer counts: one that was cut off may name the previous primary.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

DEFAULT_PORT = 26_379
SCHEMES = ("redis+sentinel", "rediss+sentinel")
#: The longest wait for the answer of a Sentinel.
ANSWER_TIMEOUT_S = 1.0

Endpoint = tuple[str, int]


class NoPrimary(Exception):
    """No Sentinel names a primary. The message has the cause."""


class SentinelAddress(NamedTuple):
    """The Sentinels and the name of the primary, with the credentials for the Sentinels."""

    sentinels: tuple[Endpoint, ...]
    primary: str
    username: str = ""
    password: str = ""

    @classmethod
    def parse(cls, url: str) -> "SentinelAddress":
        """Parse redis+sentinel://[user:password@]host1:26379,host2/mymaster/0?sentinel_username=…&sentinel_password=….

        Raises ValueError with a sentence.
        """
        parts = urlsplit(url)
        name = parts.path.strip("/").split("/")[0]
        sentinels = tuple(_endpoint(each) for each in parts.netloc.rpartition("@")[2].split(",") if each)
        if not sentinels:
            raise ValueError("must name at least one Sentinel")
        if not name:
            raise ValueError("must name the primary after the Sentinels, like /mymaster/0")
        query = parse_qs(parts.query)
        username, password = (query.get(f"sentinel_{key}", [""])[0] for key in ("username", "password"))
        return cls(sentinels, unquote(name), username, password)


def _endpoint(text: str) -> Endpoint:
    """Parse host, host:port or [IPv6]:port."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"must name the Sentinels as host:port, separated by commas; one is {text!r}")
    return parts.hostname, parts.port or DEFAULT_PORT


async def find_primary(address: SentinelAddress, tls: SSLContext | None = None) -> Endpoint:
    """Return host and port of the primary. Raises NoPrimary."""
    questions = [asyncio.create_task(_query(address, sentinel, tls)) for sentinel in address.sentinels]
    try:
        answers = await asyncio.gather(*questions, return_exceptions=True)
    finally:
        for question in questions:
            question.cancel()
    named = [answer for answer in answers if isinstance(answer, tuple)]
    if named:
        return max(named)[1]
    problems = dict.fromkeys(str(answer) or type(answer).__name__ for answer in answers)
    raise NoPrimary(f"no Sentinel names a primary for {address.primary}: {'; '.join(problems)}")


async def _query(address: SentinelAddress, sentinel: Endpoint, tls: SSLContext | None) -> tuple[int, Endpoint]:
    """Return the configuration epoch of this Sentinel, and the primary. Raises NoPrimary."""
    where = f"{sentinel[0]}:{sentinel[1]}"
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*sentinel, ssl=tls)
            try:
                if address.password:
                    credentials = filter(None, (address.username, address.password))
                    await _call(reader, writer, "AUTH", *credentials)
                flat = await _call(reader, writer, "SENTINEL", "MASTER", address.primary)
                # `MASTER` names the old primary until all replicas have changed to the new one.
                named = await _call(reader, writer, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.primary)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise NoPrimary(f"{where} does not answer ({type(error).__name__})") from None
    except hiredis.HiredisError as error:
        raise NoPrimary(f"{where} answers: {str(error)[:100]}") from None
    state = dict(zip(flat[::2], flat[1::2], strict=False))
    with suppress(KeyError, ValueError, TypeError):
        return int(state[b"config-epoch"]), (named[0].decode(), int(named[1]))
    raise NoPrimary(f"{where} answers in an unknown form")


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *command: str) -> Sequence[Any]:
    """Send a command and return its reply. Raises hiredis.HiredisError for an error reply."""
    writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]
    parser = hiredis.Reader()
    while (reply := parser.gets()) is False:
        data = await reader.read(65_536)
        if not data:
            raise ConnectionResetError
        parser.feed(data)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply  # type: ignore[no-any-return]
