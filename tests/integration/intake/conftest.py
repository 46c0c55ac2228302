"""Fixtures of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.intake import METRICS_TOKEN, SHORT_TIMEOUTS, WebProcess, start_web


@pytest.fixture(scope="module")
def web(redis_url: str) -> Iterator[WebProcess]:
    with start_web(redis_url, METRICS_TOKEN=METRICS_TOKEN) as web:
        yield web


@pytest.fixture(scope="module")
def short_timeout_web(redis_url: str) -> Iterator[WebProcess]:
    with start_web(redis_url, "-c", SHORT_TIMEOUTS) as web:
        yield web
