"""Writes the tables of docs/connections.md, of the states in docs/glossary.md, and the columns of README.md: `make docs`."""

from collections.abc import Iterator
from pathlib import Path

from app.connections.catch_up_lister import LOOK_BACK
from app.ledger.connection_states import HEALTH, MEANINGS, PROBLEMS
from app.ledger.docs import replace_table, table
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource

_ROOT = Path(__file__).parents[2]
#: The columns of the README's table of tools that show what works through a tool's API.
API_COLUMNS = ("connect", "health", "catch up")
YES, NO = "✓", "–"


def update_page(page: str) -> str:
    """Return docs/connections.md with the current tables."""
    page = replace_table(page, "states", table(("state", "means", "what helps"), _states()))
    header = ("tool", "subscribe", "health", "catch up", "log-in", "evidence", "limits")
    page = replace_table(page, "tools", table(header, _tools()))
    by_hand = [source.definition.title for source in load_sources().values() if not _has_api(source)]
    return replace_table(page, "by hand", f"By hand: {', '.join(sorted(by_hand, key=str.lower))}.")


def update_glossary(page: str) -> str:
    return replace_table(
        page, "connections", table(("state", "means"), ((f"`{state}`", MEANINGS[state]) for state in HEALTH))
    )


def update_readme(page: str) -> str:
    """Return the README with the current marks in the columns `connect`, `health` and `catch up`."""
    by_title = {source.definition.title: source for source in load_sources().values()}
    rows = page.splitlines(keepends=True)
    header = next(row for row in rows if row.startswith("| tool | booked |"))
    names = _cells(header)
    for index, row in enumerate(rows):
        if row.startswith("| ") and (source := by_title.get(_cells(row)[0])):
            cells = dict(zip(names, _cells(row), strict=True)) | dict(zip(API_COLUMNS, marks(source), strict=True))
            rows[index] = f"| {' | '.join(cells.values())} |\n"
    return "".join(rows)


def _cells(row: str) -> list[str]:
    return row.strip().strip("|").strip().split(" | ")


def marks(source: LoadedSource) -> tuple[str, str, str]:
    """Return whether a tool's webhooks can be subscribed to, their state be asked, and its appointments be listed."""
    subscription = source.subscription
    facts = (subscription is not None, subscription is not None and subscription.can_ask, source.listing is not None)
    connect, health, catch_up = (YES if fact else NO for fact in facts)
    return connect, health, catch_up


def _has_api(source: LoadedSource) -> bool:
    return bool(source.subscription or source.listing)


def _states() -> Iterator[tuple[str, str, str]]:
    placeholders = {"title": "the tool", "hook": "HOOK", "source": "SOURCE"}
    for state in HEALTH:
        fix = PROBLEMS[state][1].format(**placeholders) if state in PROBLEMS else NO
        yield f"`{state}`", MEANINGS[state], fix


def _tools() -> Iterator[tuple[str, ...]]:
    for source in sorted(load_sources().values(), key=lambda each: each.definition.title.lower()):
        if _has_api(source):
            connect, health, catch_up = marks(source)
            if source.listing and source.listing.is_daily:
                catch_up = "✓ daily"
            log_in = YES if source.oauth else NO
            limits = "; ".join(_limits(source)) or NO
            yield source.definition.title, connect, health, catch_up, log_in, _evidence(source), limits


def _evidence(source: LoadedSource) -> str:
    """Return who verified the API, as in the README: for subscriptions and for the list, if they differ."""
    declared = [each.evidence for each in (source.subscription, source.listing) if each]
    return ", ".join(dict.fromkeys(declared))


def _limits(source: LoadedSource) -> Iterator[str]:
    subscription, listing = source.subscription, source.listing
    if not subscription:
        yield "the webhooks are set up by hand"
    else:
        if (count := len(subscription.groups)) > 1:
            yield f"{count} subscriptions, each for other events"
        if subscription.is_url_unique:
            replaced = "one with another secret" if subscription.reactivate else "a disabled one"
            yield f"one subscription on a URL: {replaced} is deleted before its replacement is created"
        if subscription.is_event_unique:
            yield "one subscription to an event: one with an earlier PUBLIC_URL is deleted first"
        if secret := _SECRETS[subscription.secret_from].format(credential=subscription.secret_credential):
            yield secret
        if subscription.is_by_hand_if_refused:
            yield "set up by hand, if the account cannot use the API"
        if not subscription.can_ask:
            yield "the tool cannot list subscriptions: health is judged by how long nothing has arrived"
        if subscription.renew:
            yield "subscriptions end, and are renewed"
    if listing and not listing.lists_changed:
        days = (LOOK_BACK + listing.look_back).days
        yield f"misses changes of {listing.records} that began over {days} days earlier"


#: What to know about the signing secret, by who chooses it.
_SECRETS = {
    "doorbell": "",
    "tool": "the tool chooses the secret",
    "credential": "signs with the {credential}",
    "person": "the secret is copied by hand",
}


def main() -> None:
    for path, update in (
        (_ROOT / "docs" / "connections.md", update_page),
        (_ROOT / "docs" / "glossary.md", update_glossary),
        (_ROOT / "README.md", update_readme),
    ):
        path.write_text(update(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
