"""The pages that show. Each puts together what other modules know; PAGES says where each one is, and who may see it."""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Container
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from app.console.chart import chart
from app.console.events import EventStream
from app.console.plans import preview
from app.console.rendering import STATIC, Ask, Desk, Page, segment
from app.ledger.keys import KEY_KINDS
from app.ledger.records import BodyUnavailable, NotFound
from app.operators import doctor, redaction
from app.operators.explain import REDACTED, Explain, humanize
from app.operators.filter import INDEXED_STATES, RESULT_STATES, Filter
from app.operators.lists import MAX_GROUPED, PAGE_SIZE, Lists, SearchResult
from app.operators.overview import load_overview
from app.operators.replay import Replay
from app.operators.signature_diagnosis import with_likely_causes
from app.telemetry import counters, rejections
from app.telemetry.health import last_delivery_times, live_workers, open_circuits
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.source import VERIFIED_BY

# -- first things --


async def static(desk: Desk, ask: Ask) -> Response:
    name = ask.path("name")
    if name not in STATIC.files:
        raise NotFound(name)
    kept = "public, max-age=31536000, immutable" if ask.path("version") == STATIC.version else "no-cache"
    kind = STATIC.TYPES[name.rpartition(".")[2]]
    return Response(STATIC.files[name], media_type=kind, headers={"cache-control": kept})


async def login(desk: Desk, ask: Ask) -> Response:
    if ask.user:
        return desk.go("/console")
    return await desk.page(ask, "login.html", trouble="", to=ask.query("to"))


async def overview(desk: Desk, ask: Ask) -> Response:
    view = await load_overview(desk.ledger, desk.settings)
    level, sentence = view.status()
    age = humanize(view.backlog.oldest_s) if view.backlog.oldest_s >= 1 else "nothing"
    return await desk.page(
        ask,
        "overview.html",
        view=view,
        level=level,
        sentence=sentence,
        bars=chart(view.hours),
        most=max(hour.total for hour in view.hours),
        age=age,
        addresses=_addresses(desk, ask),
    )


async def stream(desk: Desk, ask: Ask) -> Response:
    """What happens, as it happens; who finds no place here asks now and then."""
    if ask.request.method == "HEAD":
        return Response(media_type="text/event-stream")
    messages = desk.live.subscribe()
    if messages is None:
        return Response(status_code=503, headers={"retry-after": "30"})
    return EventStream(desk.live, messages, lambda: desk.access.user(ask.request))


async def search(desk: Desk, ask: Ask) -> Response:
    asked = ask.query("q")
    found = await _lists(desk).search(asked) if asked else []
    if len(found) == 1:
        return desk.go(_address(found[0]))
    return await desk.page(ask, "search.html", asked=asked, found=found, days=desk.settings.retention_days)


def _address(found: SearchResult) -> str:
    return f"/console/{'deliveries' if found.kind == 'delivery' else 'visits'}/{segment(found.id)}"


# -- deliveries --


async def deliveries(desk: Desk, ask: Ask) -> Response:
    lists, filter = _lists(desk), Filter.from_query(ask.request.query_params)
    rows, states, sizes, mark, matching = await asyncio.gather(
        lists.deliveries(filter),
        lists.count_by_state(),
        lists.count_by_hook(),
        lists.newest_cursor(filter),
        lists.count(filter),
    )
    counted = {state: states[state] for state in INDEXED_STATES} | dict.fromkeys(RESULT_STATES)
    return await desk.page(
        ask,
        "deliveries.html",
        filter=filter,
        rows=rows,
        states=counted,
        hooks=sizes,
        mark="" if filter.state or filter.reason else mark,
        matching=matching,
        at_most=filter.state in RESULT_STATES,
    )


async def newer(desk: Desk, ask: Ask) -> Response:
    """A piece of the page of deliveries: how many came since it was made."""
    filter = Filter.from_query(ask.request.query_params)
    return await desk.page(
        ask, "newer_count.html", filter=filter, count=await _lists(desk).count_newer(filter, ask.query("newest"))
    )


async def state(desk: Desk, ask: Ask) -> Response:
    """A piece of the page of deliveries: what has become of one."""
    return await desk.page(ask, "state_cell.html", row=await desk.explain.delivery_summary(ask.path("id")))


async def delivery(desk: Desk, ask: Ask) -> Response:
    return await delivery_page(desk, ask, ask.path("id"))


async def delivery_page(desk: Desk, ask: Ask, id: str, revealed: Container[str] = ()) -> Response:
    explain = Explain(desk.ledger, desk.settings, revealed)
    story = await explain.delivery(id)
    try:
        meta, raw = await desk.ledger.load_delivery(id)
        tool = load_sources().get(meta.source)
        body = await asyncio.to_thread(
            redaction.redact_body, raw, revealed, tool.definition.event_name_path if tool else ()
        )
    except BodyUnavailable as error:
        body = [str(error)]
    return await desk.page(
        ask,
        "delivery.html",
        story=story,
        body=body,
        steps=await preview(Replay(desk.ledger, desk.settings).plan(Filter(ids=(id,)))),
        is_open=any(change["state"] in ("parked", "waiting", "held", "queued") for change in story["changes"]),
    )


# -- visits --


async def visit(desk: Desk, ask: Ask) -> Response:
    return await visit_page(desk, ask, ask.path("external_id"))


async def visit_page(
    desk: Desk, ask: Ask, external_id: str, revealed: Container[str] = (), remote: dict[str, Any] | None = None
) -> Response:
    stories = await Explain(desk.ledger, desk.settings, revealed).visit(external_id)
    for story in stories:
        await asyncio.to_thread(_prepare, story)
    return await desk.page(ask, "visit.html", external_id=external_id, stories=stories, revealed=revealed, asked=remote)


#: So many facts and changes of one visit are on its page; `doorbell visit` shows all.
MAX_ROWS_OF_VISIT = 300


def _prepare(story: dict[str, Any]) -> None:
    """For the page: why each fact holds; of very many changes the newest."""
    spoken = {(change["delivery"], name) for change in story["changes"] for name in change["fields"]}
    said = Counter(name for _, name in spoken)
    for name, fact in story["facts"].items():
        fact["hidden"] = fact["value"] == REDACTED
        fact["why"] = "the only one to say so" if said[name] < 2 else f"the newest of {said[name]}"
    changes = sorted(story["changes"], key=lambda change: int(change["version"]))
    story["more_facts"] = max(0, len(story["facts"]) - MAX_ROWS_OF_VISIT)
    story["more_changes"] = max(0, len(changes) - MAX_ROWS_OF_VISIT)
    story["facts"] = dict(itertools.islice(story["facts"].items(), MAX_ROWS_OF_VISIT))
    story["changes"] = changes[-MAX_ROWS_OF_VISIT:]


# -- failures --


async def failures(desk: Desk, ask: Ask) -> Response:
    lists, filter = _lists(desk), Filter.from_query(ask.request.query_params)
    filter = Filter(reason=filter.reason, source=filter.source, since=filter.since, cursor=filter.cursor)
    rows, groups = await asyncio.gather(lists.tasks(filter), lists.group_by_reason())
    if filter.since or ask.parked > MAX_GROUPED:
        matching = await lists.count(replace(filter, state="parked"))
    else:  # what was grouped is counted already
        fitting = (one for one in groups if filter.reason in one.reason and filter.source in ("", one.source))
        matching = sum(group.count for group in fitting)
    reasons, sources = Counter[str](), Counter[str]()
    for group in groups:
        reasons[group.reason] += group.count
        sources[group.source] += group.count
    return await desk.page(
        ask,
        "failures.html",
        filter=filter,
        rows=rows,
        matching=matching,
        total=sum(reasons.values()),
        reasons=dict(reasons.most_common(50)),
        sources=dict(sources),
    )


# -- refused --


async def rejected(desk: Desk, ask: Ask) -> Response:
    by_hook, by_reason = Counter[str](), Counter[str]()
    for (hook, reason), count in (await rejections.counts(desk.redis)).items():
        by_hook[hook] += count
        by_reason[reason] += count
    wanted = ask.query("hook")
    hooks = ([wanted] if wanted in by_hook else []) if wanted else ["", *desk.settings.hooks]
    notes = with_likely_causes(await rejections.newest(desk.redis, hooks))
    return await desk.page(
        ask,
        "rejections.html",
        notes=rejections.senders_first(notes, 2 * PAGE_SIZE),
        counts=dict(by_reason.most_common(6)),
        hooks={hook: count for hook, count in by_hook.items() if hook},
        hook=wanted,
        newest=rejections.MAX_NEWEST,
    )


# -- sources and workers --


async def sources(desk: Desk, ask: Ask) -> Response:
    lasts, gates = await asyncio.gather(
        last_delivery_times(desk.redis, desk.settings), open_circuits(desk.redis, desk.settings)
    )
    entrances = desk.settings.entrances.values()
    listed = [
        {
            "name": tool.name,
            "title": tool.definition.title,
            "verified_by": VERIFIED_BY[tool.definition.evidence],
            "hooks": [{"name": e.name, "last": lasts[e.name]} for e in entrances if e.tool.name == tool.name],
        }
        for tool in load_sources().values()
    ]
    listed.sort(key=lambda source: not source["hooks"])
    shut = {gate.account: gate for gate in gates}
    of_accounts = {account: desk.settings.hooks_of(account) for account in desk.settings.accounts.values()}
    return await desk.page(ask, "sources.html", sources=listed, accounts=of_accounts, shut=shut)


async def source(desk: Desk, ask: Ask) -> Response:
    return await source_page(desk, ask, ask.path("name"))


async def source_page(desk: Desk, ask: Ask, name: str, response: dict[str, Any] | None = None) -> Response:
    tool = load_sources().get(name)
    if tool is None:
        raise NotFound(name)
    hooks: list[dict[str, Any]] = []
    for entrance in desk.settings.entrances.values():
        if entrance.tool.name == name:
            matched = await counters.secret_last_used(
                desk.redis, entrance.name, entrance.hook.secrets, desk.settings.secret_key
            )
            secrets = [{"fingerprint": one, "matched": at} for one, at in matched.items()]
            hooks.append({"name": entrance.name, "secrets": secrets})
    addresses = _addresses(desk, ask)
    # Before there is a secret, there is no token either.
    token = f"/{HIDDEN_TOKEN}" if tool.definition.signature.needs_key else ""
    address = addresses[hooks[0]["name"]] if hooks else f"{_base(desk, ask)}/hooks/{name}{token}"
    return await desk.page(
        ask,
        "source.html",
        tool=tool,
        verified_by=VERIFIED_BY[tool.definition.evidence],
        hooks=hooks,
        addresses=addresses,
        unseen=HIDDEN_TOKEN,
        setup=_CONTINUED_LINE.sub(" ", tool.definition.setup.strip()).replace("{url}", address),
        specimens=[recorded["name"] for recorded in load_specimens(name)["deliveries"]],
        rang=response,
    )


#: The end of a line that is not the end of a step or a paragraph.
_CONTINUED_LINE = re.compile(r"(?<!\n)\n(?!\n|\d+\.) *")


async def workers(desk: Desk, ask: Ask) -> Response:
    at_work, states, flat = await asyncio.gather(
        live_workers(desk.redis),
        _lists(desk).count_by_state(),
        desk.redis.command("ZRANGE", "bell:running", 0, PAGE_SIZE - 1, "WITHSCORES"),
    )
    running = [(work.decode(), float(until)) for work, until in zip(flat[::2], flat[1::2], strict=True)]
    return await desk.page(ask, "workers.html", workers=at_work, states=states, running=running)


# -- the desk itself --


async def activity(desk: Desk, ask: Ask) -> Response:
    return await desk.page(ask, "activity.html", lines=await desk.audit_log.newest(ask.query("cursor")))


async def settings(desk: Desk, ask: Ask) -> Response:
    checks = [check async for check in doctor.local_checks(desk.redis, desk.settings)]
    sessions = await desk.access.count_sessions()
    return await desk.page(
        ask, "settings.html", checks=checks, environment=list(desk.settings.shown()), kinds=KEY_KINDS, sessions=sessions
    )


def _lists(desk: Desk) -> Lists:
    return Lists(desk.ledger, desk.settings, desk.explain)


def _base(desk: Desk, ask: Ask) -> str:
    """Our own address, as tools should call it."""
    return desk.settings.public_url or f"{ask.request.url.scheme}://{ask.request.url.netloc}"


#: In the place of a token that is not for this user, or does not exist yet.
HIDDEN_TOKEN = "•••"


def _addresses(desk: Desk, ask: Ask) -> dict[str, str]:
    """Of each hook the address to paste into its tool. Who has an address with a token can send deliveries: an operator
    sees it, a viewer does not."""
    settings, base, found = desk.settings, _base(desk, ask), dict[str, str]()
    may_see = bool(ask.user and ask.user.has_role("operator"))
    for name, entrance in settings.entrances.items():
        address = settings.address(entrance)
        if entrance.tool.definition.signature.needs_key and not may_see:
            address = f"{address.rpartition('/')[0]}/{HIDDEN_TOKEN}"
        found[name] = address if settings.public_url else base + address
    return found


PAGES = [
    Page("GET", "/console/static/{version}/{name}", "static", static),
    Page("GET", "/console/login", "anybody", login),
    Page("GET", "/console", "viewer", overview),
    Page("GET", "/console/stream", "viewer", stream),
    Page("GET", "/console/search", "viewer", search),
    Page("GET", "/console/deliveries", "viewer", deliveries),
    Page("GET", "/console/deliveries/newer", "viewer", newer),
    Page("GET", "/console/deliveries/{id}", "viewer", delivery),
    Page("GET", "/console/deliveries/{id}/state", "viewer", state),
    Page("GET", "/console/visits/{external_id}", "viewer", visit),
    Page("GET", "/console/failures", "viewer", failures),
    Page("GET", "/console/rejections", "viewer", rejected),
    Page("GET", "/console/sources", "viewer", sources),
    Page("GET", "/console/sources/{name}", "viewer", source),
    Page("GET", "/console/workers", "viewer", workers),
    Page("GET", "/console/activity", "viewer", activity),
    Page("GET", "/console/settings", "viewer", settings),
]
