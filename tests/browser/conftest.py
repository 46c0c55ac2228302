"""One Chromium for all browser tests of a pytest worker."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import browser as browsers


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with browsers.chromium() as browser:
        yield browser
