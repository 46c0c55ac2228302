"""Fixtures of this folder."""

import pytest

from tests.support.source_world import SourceWorld


@pytest.fixture
def world(source_world: SourceWorld) -> SourceWorld:
    return source_world
