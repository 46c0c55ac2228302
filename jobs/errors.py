"""Exceptions that end a run without a result. `jobs.runs.RULES` maps each to the next state of the task."""


class NeedsOperator(Exception):
    """The task cannot continue without an operator.

    reason: a word of `app.ledger.reasons`, alone or before `: details`. summary: a sentence for the operator. is_applied:
    whether the visit in the API has all changes nevertheless, so that a discard discards none.
    """

    def __init__(self, reason: str, summary: str = "", *, is_applied: bool = False) -> None:
        super().__init__(reason)
        self.summary, self.is_applied = summary, is_applied


class BodyNotReadable(Exception):
    """The worker lacks the key or the dictionary of the body. During a deploy, newer processes may have it.

    The argument is the reason, as in NeedsOperator.
    """


class TooManyFetches(Exception):
    """The hook runs as many fetches in this worker as it may."""


class DeadlinePassed(Exception):
    """A call that starts now might end after the lease."""


class RateLimitedLocally(Exception):
    """VISITS_API_RATE allows no call now."""


class RecordNotReadable(Exception):
    """The tool's API has no such record yet. The event is so recent that the record may still appear."""
