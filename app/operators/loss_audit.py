"""The audit after a restart or failover of Redis, which may have lost its newest writes.

A delivery that was lost after it was applied is in the Visits API and not in the ledger. The audit reads the visits that the
API created shortly before, a bounded number of pages, and changes nothing.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger, take_turn
from app.ledger.losses import Loss, Losses, visit_names
from app.operators.activity_log import ActivityLog
from app.operators.visit_audit import AccountMoves, VisitAudit
from app.settings.model import Settings
from app.telemetry.logs import log
from app.visits.client import VisitsApiError

#: Tools send again what was answered 503, and leases expire, before the audit.
AUDIT_AFTER_S = 60.0
#: A replica that lacks more than this is not promoted, unless an operator forces it.
PERIOD = timedelta(minutes=15)
#: Pages of 100 visits for each account.
MAX_PAGES = 20
#: Calls per second if VISITS_API_RATE is not set.
CALLS_PER_S = 2.0
#: After a failure of the Visits API. After GIVE_UP_AFTER_S no audit is tried again.
RETRY_AFTER_S, GIVE_UP_AFTER_S = 60.0, 86_400.0
MAX_VISITS = 100


class LossAudit:
    def __init__(
        self, ledger: Ledger, settings: Settings, http: httpx.AsyncClient, after_s: float = AUDIT_AFTER_S
    ) -> None:
        self._ledger, self._settings, self._http, self._after_s = ledger, settings, http, after_s
        self._losses = Losses(ledger.redis)

    async def step(self) -> None:
        """Detect a restart or failover of Redis; one process audits a minute later. Raises RedisUnavailable."""
        now = await self._ledger.server_time()
        if await self._losses.notice_other_server():
            log.warning("redis_changed", audit_in_s=self._after_s)
            await self._losses.store(Loss(_ms(now)))
            return
        loss = await self._losses.load()
        if loss is None or loss.audited_at_ms or (_ms(now) - loss.changed_at_ms) < self._after_s * 1000:
            return
        if await take_turn(self._ledger.redis, keys.LOSS_LOCK, RETRY_AFTER_S):
            await self._audit(loss)

    async def _audit(self, loss: Loss) -> None:
        result = Loss(loss.changed_at_ms)
        try:
            for account in self._settings.tokens:
                await self._audit_account(account, result)
        except VisitsApiError as error:
            log.warning("loss_audit_failed", reason=str(error))
            result.problem = f"the Visits API failed: {error}"
        now_ms = _ms(await self._ledger.server_time())
        if not result.problem or now_ms - loss.changed_at_ms > GIVE_UP_AFTER_S * 1000:
            result.audited_at_ms = now_ms
        if (newest := await self._losses.load()) and newest.changed_at_ms != loss.changed_at_ms:
            return  # Redis changed again during the audit
        await self._losses.store(result)
        if result.audited_at_ms:
            await self._report(result)

    async def _audit_account(self, account: str, result: Loss) -> None:
        rate = None if self._settings.visits_api_rate else CALLS_PER_S
        audit = VisitAudit(self._ledger, self._settings, self._http, account, rate)
        since = datetime.fromtimestamp(result.changed_at_ms / 1000, UTC) - PERIOD
        unexpected = []
        with suppress(AccountMoves):
            async for difference in audit.recent_differences(since, MAX_PAGES):
                result.different += difference.kind == "different"
                if difference.kind == "unexpected":
                    unexpected.append(TaskId.visit(account, difference.visit))
        lost = await self._losses.without_changes(unexpected)
        result.visits += lost[: MAX_VISITS - len(result.visits)]
        result.visit_count += audit.progress.counts.get("seen", 0)
        result.is_complete &= audit.progress.page >= audit.progress.pages

    async def _report(self, result: Loss) -> None:
        counts = {"compared": result.visit_count, "lost": len(result.visits), "different": result.different}
        if not result.visits and not result.different:
            log.info("loss_audit_finished", complete=result.is_complete, **counts)
            return
        log.warning("loss_audit_finished", complete=result.is_complete, **counts)
        if result.visits:
            await ActivityLog(self._ledger).record(
                "Doorbell", "worker", "noticed lost visits", visit_names(result.visits)
            )


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
