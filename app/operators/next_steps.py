"""What a person does after a deploy, in the order in which it has to be done."""

from collections.abc import Iterator

from app.operators.setup_steps import UNKNOWN_URL
from app.settings.environment import RANDOM_CHARACTERS
from app.settings.model import Settings
from app.settings.platform import Platform


def next_steps(settings: Settings, platform: Platform | None) -> Iterator[str]:
    """Yield sentences. A URL with a token is not among them: release logs are no place for secrets."""
    url = settings.public_url or UNKNOWN_URL
    if platform:
        yield f"{platform.title}: change settings with {platform.set_variable}, run commands like {platform.run}."
    if settings.has_console:
        yield f"Log in to the console: {url}/console"
    else:
        key = "" if settings.secret_key else f", and SECRET_KEY to {RANDOM_CHARACTERS}"
        yield f"Open the console to operators: set CONSOLE_PASSWORD_HASH to the output of `doorbell hash-password`{key}."
    if not settings.active_hooks:
        yield "Connect a tool: `doorbell connect calendly`, or in the console under Sources. `doorbell sources` lists them."
    for name, hook in settings.active_hooks.items():
        source = hook.source.definition
        address = f"{url}{hook.path}"
        if source.signature.needs_secret_key:
            address = f"the URL that `doorbell hook-url {name}` prints"
        yield f"Set the webhook URL at {source.title} to {address}."
    if settings.active_hooks:
        yield (
            "Book an appointment with your own e-mail address at the tool. `doorbell listen HOOK` and the console show it "
            "arrive."
        )
    yield "Check everything, with the worker: `doorbell doctor`."
