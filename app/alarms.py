"""Is accepted work left lying? How old the oldest is that could be done now, and since when nothing came to an end."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.ledger.ledger import every_account
from app.ledger.redis import Redis

#: Due work this old is an alarm, and so is due work of which nothing came to an end for so long.
OLD_S = 120.0
NO_PROGRESS_S = 300.0


@dataclass(frozen=True, slots=True)
class Due:
    """Seconds.

    ages_s: by state, how long the oldest is overdue: queued since then, running past its lease, waiting past its next
    try, held since its gate was shut. no_progress_s: for how long work was due and none came to an end; what is held
    behind a shut gate is not due, since then it is the API's turn.
    """

    ages_s: dict[str, float]
    no_progress_s: float

    @property
    def oldest_s(self) -> float:
        """Without what is held, which is as old as the trouble of the API."""
        return max(age_s for state, age_s in self.ages_s.items() if state != "held")

    @property
    def is_stuck(self) -> bool:
        return self.no_progress_s > NO_PROGRESS_S


async def due(redis: Redis, accounts: Iterable[str]) -> Due:
    """Raises RedisDown."""
    seconds, micros = await redis.command("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000

    async def overdue_s(key: str) -> float:
        oldest = await redis.command("ZRANGE", key, 0, 0, "WITHSCORES")
        return max(0.0, now_ms - float(oldest[1])) / 1000 if oldest else 0.0

    ages_s = {state: await overdue_s(f"db:{state}") for state in ("queued", "running", "waiting")}
    held_s, let_out_s = 0.0, 0.0
    for account in await every_account(redis, accounts):
        # Who is held stands in the order of the visits' times, which tells no age.
        if first := await redis.command("ZRANGE", f"db:held:{account}", 0, 0):
            shut = await redis.command("HGET", f"db:gate:{account}", "since")
            since = shut or await redis.command("HGET", f"db:{first[0].decode()}", "since") or now_ms
            age_s = max(0.0, (now_ms - int(since)) / 1000)
            held_s, let_out_s = max(held_s, age_s), max(let_out_s, 0.0 if shut else age_s)
    progress = await redis.command("GET", "db:progress")
    quiet_s = max(0.0, now_ms - int(progress)) / 1000 if progress else float("inf")
    # After a quiet night the first visit is not late at once: what is due has to have been due for as long.
    no_progress_s = min(quiet_s, max(*ages_s.values(), let_out_s))
    return Due(ages_s | {"held": held_s}, no_progress_s)
