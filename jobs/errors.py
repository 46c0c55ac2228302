"""Why a run ends without a result. `jobs.runs.RULES` has what becomes of its task."""


class NeedsOperator(Exception):
    """reason: a word of `app.ledger.reasons`, alone or before `: details`. summary: a sentence for the operator."""

    def __init__(self, reason: str, summary: str = "") -> None:
        super().__init__(reason)
        self.summary = summary


class TooManyFetches(Exception):
    """The hook's fetches take up all of its share of this worker."""


class DeadlinePassed(Exception):
    """A call that begins now might not end before the lease."""


class RateLimitedLocally(Exception):
    """VISITS_API_RATE allows no call now."""


class RecordNotReadable(Exception):
    """The tool's API has no such record, and the event is too young for its absence to mean anything."""
