"""Fixtures of this folder."""

import pytest

from tests.support.tool_api import ToolWorld


@pytest.fixture
def world(tool_world: ToolWorld) -> ToolWorld:
    return tool_world
