"""Rejections for people: their titles and likely causes, and groups of the same cause.

Only reason and detail of the newest rejections are stored, and the number of all.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.ledger.redis import Redis
from app.ledger.times import humanize
from app.telemetry import rejections as stored


class LikelyCause(NamedTuple):
    """title: what happened. text: why, and what to do; {} is the difference between the clocks."""

    title: str
    text: str


#: By prefix of the reason.
CAUSES = {
    "signature_missing": LikelyCause("No signature", "The tool does not sign, or a proxy removes the header."),
    "signature_stale": LikelyCause(
        "The signed time is too far from now",
        "The clocks differ by {}, or the request was delayed or repeated. Synchronize the clock of this server.",
    ),
    "signature_mismatch": LikelyCause(
        "The signature does not match",
        "The secret of this hook is not the tool's (an old one, or another hook's), or a proxy changed the body. Compare "
        "the fingerprint of the tool's secret with those of this hook.",
    ),
    "signature_": LikelyCause(
        "The signature has another format",
        "The header is not in this tool's format: another tool sent it, or a proxy rewrites the header.",
    ),
    "no_such_hook": LikelyCause(
        "No hook has this URL",
        "The name in the URL is mistyped, or the hook has no secret. For a stored hook, run `doorbell hooks rotate HOOK`; "
        "for a hook of the environment, set HOOKS__<NAME>__SECRETS, and restart.",
    ),
    "too_large": LikelyCause("The body is too large", "The body is larger than MAX_BODY."),
    "wrong_content_type": LikelyCause(
        "Wrong content type", "The request is not a webhook of this tool: check the content type in the tool."
    ),
    "unreadable_body": LikelyCause(
        "The body cannot be parsed",
        "The signature is valid, but the body cannot be parsed: check the format in the tool.",
    ),
    "method_not_allowed": LikelyCause(
        "Not a POST request", "The URL was opened in a browser, or the tool uses a method other than POST."
    ),
    "foreign_tenant": LikelyCause(
        "An event of another account",
        "The event belongs to another account of the tool. If it is yours, add its id to TENANTS. Events that arrived "
        "before are not stored.",
    ),
    "wrong_content_encoding": LikelyCause(
        "The body is compressed", "The tool compresses its bodies: turn compression off in the tool."
    ),
    "redis_down": LikelyCause("Redis did not answer", "Redis did not answer. Most tools retry."),
    "redis_full": LikelyCause("Redis is full", "Use a larger plan, or lower RETENTION_DAYS. Most tools retry."),
    "redis_read_only": LikelyCause(
        "Redis accepts no writes",
        "Redis is a replica, cannot save to its disk, or lacks replicas. Most tools retry.",
    ),
    "hook_unavailable": LikelyCause(
        "The hook could not be loaded",
        "The stored hooks could not be loaded, or this one cannot be used: `doorbell doctor` says why. Most tools retry.",
    ),
    "hook_moved": LikelyCause(
        "The hook has moved to another cell",
        "Send its requests to the other cell: `doorbell move` names it. Most tools retry.",
    ),
    "too_many_in_flight": LikelyCause(
        "Too many at once", "More deliveries arrive at once than Redis can store. Most tools retry."
    ),
    "too_slow": LikelyCause(
        "The body took too long", "The body was not complete in time, or too many were unfinished."
    ),
    "unfinished": LikelyCause("The sender disconnected", "The sender disconnected before the body was complete."),
    "internal_error": LikelyCause(
        "An error in Doorbell", "The log has the stack trace at unhandled_exception: report it. Most tools retry."
    ),
}
_SECONDS = re.compile(r"(\d+) s (old|ahead|in the future)?")


def find_cause(reason: str, detail: str = "") -> LikelyCause:
    prefixes = [prefix for prefix in CAUSES if reason.startswith(prefix)]
    if not prefixes:
        return LikelyCause(reason, "–")
    match = _SECONDS.search(detail)
    title, text = CAUSES[max(prefixes, key=len)]
    return LikelyCause(title, text.replace("{}", humanize(float(match[1])) if match else "too much"))


def with_likely_causes(rejections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rejections, as `rejections.newest` returns them, each with its likely cause."""
    return [
        {**rejection, "cause": find_cause(rejection["reason"], rejection["detail"]).text} for rejection in rejections
    ]


@dataclass(frozen=True, slots=True)
class RejectionGroup:
    """The rejections of one hook with one reason. hook: empty if no hook has the URL.

    count: all since the installation. last: the time of the newest in ms, if it is still stored. details: those of
    the newest with their number, the most frequent first. tools: those whose names were tried as hooks.
    """

    hook: str
    reason: str
    count: int
    last: float | None
    cause: LikelyCause
    details: list[tuple[str, int]]
    tools: list[str]

    @classmethod
    def build(cls, hook: str, reason: str, count: int, notes: Sequence[dict[str, Any]]) -> "RejectionGroup":
        """Build the group of the newest rejections `notes`, newest first."""
        details = Counter(note["detail"] for note in notes)
        last, detail = (notes[0]["at"], notes[0]["detail"]) if notes else (None, "")
        tools = list(dict.fromkeys(note["tool"] for note in notes if "tool" in note))
        # A flush writes the counts first, so there may be more notes than the count that was read before.
        return cls(hook, reason, max(count, len(notes)), last, find_cause(reason, detail), details.most_common(), tools)


async def group_by_cause(redis: Redis, hooks: Sequence[str]) -> list[RejectionGroup]:
    """Return the groups of these hooks, the one with the newest rejection first. Raises RedisUnavailable."""
    counts, newest = await asyncio.gather(stored.counts(redis), stored.newest(redis, hooks))
    notes: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for note in newest:
        notes.setdefault((note["hook"], note["reason"]), []).append(note)
    groups = [
        RejectionGroup.build(hook, reason, counts.get((hook, reason), 0), notes.get((hook, reason), []))
        for hook, reason in counts.keys() | notes.keys()
        if hook in hooks
    ]
    return sorted(groups, key=lambda group: (-(group.last or 0), -group.count, group.hook, group.reason))
