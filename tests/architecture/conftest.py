"""Tests of the architecture start no server: a test that needs one belongs to tests/integration."""

from typing import NoReturn

import pytest


@pytest.fixture
def redis_url() -> NoReturn:
    pytest.fail("tests of the architecture have no Redis")


@pytest.fixture
def sandbox() -> NoReturn:
    pytest.fail("tests of the architecture have no sandbox")
