"""`doorbell sources`, `hook-url`, `ring`: what can ring, and how to connect it."""

import os
import sys
from collections.abc import Iterable

import click

from app import settings as configuration
from app.cli.words import CHECK_FAILED, NOTHING_MATCHED, UNREACHABLE, as_json, end, settings_or_none, show_rows
from app.ring import Unknown, ring_at
from app.settings import SettingsError
from app.sources import Source, load, specimens


@click.command()
@click.argument("name", required=False)
@as_json
def sources(name: str | None, as_json: bool) -> None:
    """What can ring; with a NAME, how to connect it."""
    hooks = settings_or_none()
    if name is None:
        rows = [
            {
                "source": tool.name,
                "title": tool.source.title,
                "evidence": tool.source.evidence,
                "proves": tool.source.signature.covers,
                "busy": tool.source.busy,
                "within_s": tool.source.answer_within_s,
                "hooks": []
                if hooks is None
                else [e.path for e in hooks.entrances.values() if e.tool.name == tool.name],
            }
            for tool in load().values()
        ]
        return show_rows(rows, as_json)
    if name not in load():
        end(NOTHING_MATCHED, f"there is no source {name}; there are {', '.join(load())}")
    source = load()[name].source
    public_url = (hooks and hooks.public_url) or "https://YOUR-DOORBELL"
    click.echo(f"{source.title}  ({source.docs}; evidence: {source.evidence})")
    url = f"{public_url}/hooks/{name}"
    if source.signature.needs_key:
        url = f"the address that `doorbell hook-url {name}` prints"
    click.echo(source.setup.replace("{url}", url).rstrip())
    click.echo(f"\n{'; '.join(_terms_of(source))}.")
    return None


def _terms_of(source: Source) -> Iterable[str]:
    """How the tool and the door deal with one another, in words."""
    yield PROVES[source.signature.covers]
    yield f"while Redis is away it hears {source.busy} and tries again"
    yield f"it is answered within {source.answer_within_s:g} s"
    needs = [f"HOOKS__<NAME>__{need}" for need in source.needs]
    needs += ["PUBLIC_URL"] * source.signature.needs_url + ["SECRET_KEY"] * source.signature.needs_key
    if needs:
        yield f"it needs {', '.join(needs)} too"
    if source.credential_names:
        yield f"records are fetched with the credentials {', '.join(source.credential_names)}"


PROVES = {
    "body": "The signature proves the whole body",
    "fields": "The signature proves some fields of the body only",
    "nothing": "Nothing proves the body: whoever has the address or the token could make one up",
}


@click.command("hook-url")
@click.argument("hook")
def hook_url(hook: str) -> None:
    """The address of a HOOK, as the tool should have it; with its token, where the tool signs nothing."""
    try:
        settings = configuration.read(redis_needed=False)
    except SettingsError as error:
        end(CHECK_FAILED, str(error))
    entrance = settings.entrances.get(hook)
    if entrance is None:
        end(NOTHING_MATCHED, f"there is no hook {hook}, or it has no secret")
    if not settings.public_url:
        click.echo("PUBLIC_URL is not set: put our own address before it", err=True)
    click.echo(settings.address(entrance))


@click.command()
@click.argument("source")
@click.argument("specimen", required=False)
@click.option("--to", "url", help="The hook's address; by default http://127.0.0.1:$PORT/hooks/SOURCE.")
def ring(source: str, specimen: str | None, url: str | None) -> None:
    """Send a really signed SPECIMEN, by its number or a part of its name; without one, list them."""
    if source not in load():
        end(NOTHING_MATCHED, f"there is no source {source}; there are {', '.join(load())}")
    names = [delivery["name"] for delivery in specimens(source)["deliveries"]]
    if specimen is None:
        return show_rows([{"number": number, "specimen": name} for number, name in enumerate(names, 1)], False)
    url = url or f"http://127.0.0.1:{os.environ.get('PORT', '8000')}/hooks/{source}"
    try:
        answer = ring_at(url, source, specimen, os.environ)
    except Unknown as error:
        end(NOTHING_MATCHED, str(error))
    except OSError as error:
        end(UNREACHABLE, f"{url} cannot be reached ({error})")
    click.echo(answer.text)
    click.echo(f"answered {answer.status_code}", err=True)
    sys.exit(0 if answer.is_success else CHECK_FAILED)
