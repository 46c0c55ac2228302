"""How a tool is connected, for console and command line: the steps, their commands, a new secret, and the terms."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from secrets import token_bytes, token_urlsafe

from app.webhooks.registry import load_specimens
from app.webhooks.source import LoadedSource, Retries, Source

#: What a signature proves, by the coverage of the scheme.
PROVES = {
    "body": "The signature covers the whole body",
    "fields": "The signature covers only some fields of the body",
    "nothing": "No signature covers the body: anyone with the URL or the token can forge a delivery",
}

#: What the tool does after a response that is not 2xx.
RETRIES: Mapping[Retries, str] = {
    "yes": " and retries",
    "no": ", and hardly ever retries",
    "unknown": "; whether it retries is not known",
}

#: Where PUBLIC_URL is not set.
UNKNOWN_URL = "https://YOUR-DOORBELL"

#: What a field of a change tells about a visit.
CAPABILITIES = {
    "time_scheduled": "bookings",
    "date_cancelled": "cancellations",
    "time_completed": "completions",
    "no_show": "no-shows",
    "amount_collected": "amounts",
}


@cache
def capabilities(source: str) -> list[str]:
    """Return what a tool tells about visits: the fields that have a value in the changes of its specimens."""
    expected = [delivery.get("expect") for delivery in load_specimens(source)["deliveries"]]
    changes = [change for result in expected if isinstance(result, list) for change in result]
    fields = {name.partition(" ")[0] for change in changes for name, value in change.items() if value is not None}
    return [word for name, word in CAPABILITIES.items() if name in fields]


@dataclass(slots=True)
class SetupStep:
    """A step, or a paragraph after the steps: then its number is 0. commands: of the shell, with their line breaks."""

    number: int
    text: str
    commands: list[str] = field(default_factory=list)


def setup_steps(source: LoadedSource, hook: str, url: str, shell_url: str = "") -> list[SetupStep]:
    """Return the steps that connect a hook.

    url: only its path if the rest is unknown. shell_url: the URL in commands, if it is not `url`.
    In the text of a source, a step begins with its number, and a command with `$`, on lines of their own. A command
    continues on lines with more indentation, which is removed.
    """
    steps: list[SetupStep] = []
    is_new, command_indent = True, 99
    for line in source.setup_for(hook, "{url}").splitlines():
        text, indentation = line.strip(), len(line) - len(line.lstrip())
        numbered = re.match(r"([0-9]+)\. ", line)
        if text and indentation > command_indent:
            steps[-1].commands[-1] += f"\n  {text}"
            continue
        command_indent = indentation if text.startswith("$ ") else 99
        if text.startswith("$ "):
            steps[-1].commands.append(text[2:])
        elif numbered:
            steps.append(SetupStep(int(numbered[1]), text[numbered.end() :]))
        elif text and is_new:
            steps.append(SetupStep(0, text))
        elif text:
            steps[-1].text += f" {text}"
        is_new = not text
    shell_url = shell_url or (f"{UNKNOWN_URL}{url}" if url.startswith("/") else url)
    for step in steps:
        step.text = step.text.replace("{url}", url)
        step.commands = [command.replace("{url}", shell_url) for command in step.commands]
    return steps


#: What the console calls the settings of a hook.
FIELD_NAMES = {
    "SECRETS": "Signing secret",
    "TENANTS": "Accounts of {title} that are accepted",
    "TIMEZONE": "Time zone",
    "API_URL": "URL of the tool's API",
    "TOKEN_URL": "URL that renews the tool's tokens",
}


#: What `doorbell connect` calls the settings of a hook, and options that only `doorbell hooks change` has.
PROMPT_NAMES = {"SECRETS": "SECRET", "API_URL": "--api-url", "TIMEZONE": "--timezone"}
OPTIONS_OF_CHANGE = {"TOKEN_URL": "--token-url", "AUTH": "--auth", "TOLERANCE": "--tolerance"}


def with_field_names(steps: Sequence[SetupStep], source: LoadedSource, hook: str, url: str) -> list[SetupStep]:
    """Return the steps for a person who fills in a form: with its fields instead of variables.

    What the form does itself is left out: restarts, SECRET_KEY, PUBLIC_URL, and `doorbell connect`.
    """
    credentials = {name: title for name, (title, _) in source.definition.credential_help.items()}

    def field_name(name: str) -> str:
        title = credentials.get(name) or FIELD_NAMES.get(name) or name.replace("_", " ").capitalize()
        return f"“{title.format(title=source.definition.title)}”"

    return _with_names(steps, hook, url, field_name)


def with_prompt_names(steps: Sequence[SetupStep], hook: str, url: str) -> list[SetupStep]:
    """Return the steps for a person who runs `doorbell connect`: with what it asks for instead of variables."""
    names = PROMPT_NAMES | OPTIONS_OF_CHANGE
    renamed = _with_names(steps, hook, url, lambda name: names.get(name, name))
    options = [option for option in OPTIONS_OF_CHANGE.values() if any(option in step.text for step in renamed)]
    return renamed + [SetupStep(0, f"{option} is an option of `doorbell hooks change {hook}`.") for option in options]


def _with_names(steps: Sequence[SetupStep], hook: str, url: str, name_of: Callable[[str], str]) -> list[SetupStep]:
    """Return the steps without variables, and without what connecting does itself. name_of: the name of a setting."""
    variable = rf"(?:HOOKS__{hook.upper()}__|…__)(?:CREDENTIALS__)?(?P<name>[A-Z_]+)"
    renamed = list[SetupStep]()
    for step in steps:
        text = re.sub(r"the URL that `doorbell hook-url [^`]+` prints", url, step.text)
        text = re.sub(r",? and restart\b|(?<=\. )Restart\.|^Restart\.", "", text)
        text = text.replace("Set SECRET_KEY to 32 random characters or more, and ", "Set ")
        text = re.sub(r"(?:,? and|,? with|,) SECRET_KEY(?: to 32 random characters or more)?", "", text)
        text = re.sub(r"Set PUBLIC_URL,[^.]*\.|[^.]*`doorbell connect[^`]*`[^.]*\.", "", text)
        text = re.sub(variable, lambda match: name_of(match["name"]), text)
        text = re.sub(
            r"Set (?:“Signing secret”|SECRET) to a word that you choose[^.]*\.", "", text
        )  # it is only in the URL
        if text.strip():
            renamed.append(SetupStep(step.number, text.strip(), step.commands))
    if not any(re.search(r"\bsteps? [0-9]", step.text) for step in renamed):
        for number, step in enumerate([step for step in renamed if step.number], 1):
            step.number = number
    return renamed


def is_secret_generated(source: LoadedSource) -> bool:
    """Whether Doorbell generates the signing secret, instead of the tool or a person."""
    return new_secret(source.definition) is not None


def terms_of(source: Source) -> Iterator[str]:
    """Yield sentences about the signature, responses, compression and settings of a source."""
    yield PROVES[source.signature.coverage]
    yield f"while Redis is unavailable, the tool gets {source.unavailable_status}{RETRIES[source.retries]}"
    yield f"the tool gets a response within {source.sender_timeout_s:g} s"
    if source.content_encodings:
        yield f"bodies may be compressed ({', '.join(source.content_encodings)})"
    required = [f"HOOKS__<NAME>__{setting}" for setting in source.required_settings]
    required += ["PUBLIC_URL"] * source.signature.needs_url + ["SECRET_KEY"] * source.signature.needs_secret_key
    if required:
        yield f"the hook also needs {', '.join(required)}"
    if source.credential_names:
        yield f"Doorbell calls the tool's API with the credentials {', '.join(source.credential_names)}"


def new_secret(source: Source) -> str | None:
    """Return a new secret; None if the tool generates its own. Some schemes accept only base64."""
    scheme = source.signature
    if not source.is_secret_user_chosen:
        return None
    key = base64.b64encode(token_bytes(32)).decode()
    if scheme.secret_problem("a text, and not base64") is None:
        return token_urlsafe(32)
    return next((secret for secret in (f"whsec_{key}", key) if scheme.secret_problem(secret) is None), None)
