"""Fixtures of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.intake import IMPATIENT, METRICS_TOKEN, Door, web


@pytest.fixture(scope="module")
def door(redis_url: str) -> Iterator[Door]:
    with web(redis_url, METRICS_TOKEN=METRICS_TOKEN) as door:
        yield door


@pytest.fixture(scope="module")
def impatient(redis_url: str) -> Iterator[Door]:
    with web(redis_url, "-c", IMPATIENT) as door:
        yield door
