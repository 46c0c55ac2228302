"""Takes docs/console.png, the picture of the README: `make picture`.

It runs the steps of `doorbell demo --all`, adds the counts of a day to the chart, and takes the overview.
"""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from app.demo.steps import DemoSteps
from app.demo.system import System
from app.demo.tools import HOOKS
from tests.support.browser import ConsoleBrowser, chromium
from tests.support.every_key import run_with_redis

PICTURE = Path(__file__).parents[2] / "docs" / "console.png"
SIZE, ZONE, OPENING_HOURS = {"width": 1280, "height": 900}, "America/New_York", range(13, 23)  # in UTC


def hourly_counts(hooks: tuple[str, ...]) -> Iterator[tuple[str, str, int]]:
    """Yield key, field and count of the last 23 hours: many deliveries while shops are open, a few rejections."""
    chance, now = random.Random(7), int(time.time()) // 3_600
    for hour in range(now - 23, now):
        if hour % 24 in OPENING_HOURS:
            for hook in hooks:
                yield f"bell:hourly:{hour}", f"{hook}:accepted", chance.randint(3, 12)
        elif chance.random() < 0.3:
            yield f"bell:hourly:{hour}", f"{chance.choice(hooks)}:rejected", chance.randint(1, 4)


def take() -> None:
    with ExitStack() as stack:
        system = System(stack, with_more_sources=True)
        assert DemoSteps(system).run_all()
        hooks = tuple(dict.fromkeys((*system.sources, *HOOKS.values())))
        commands = [("HINCRBY", *counts) for counts in hourly_counts(hooks)]
        run_with_redis(system.env["REDIS_URL"], lambda redis: redis.pipeline(commands))
        browser = stack.enter_context(chromium())
        console = ConsoleBrowser(
            browser, system.web_url.replace("127.0.0.1", "localhost"), viewport=SIZE, timezone_id=ZONE
        )
        console.log_in(system.password)
        console.page.wait_for_selector("text=live")
        console.page.screenshot(path=PICTURE, full_page=True)
        console.close()


if __name__ == "__main__":
    take()
