"""The platforms that run Doorbell: how to recognize them, their variables and their commands."""

from collections.abc import Mapping
from typing import NamedTuple


class Platform(NamedTuple):
    """A platform, and what a person does there.

    marker: a variable that only this platform sets. url_variable, url: the variable with the public name of the web
    process, and the URL that it makes. set_variable, run, start_worker: a command, or a place in the dashboard.
    """

    title: str
    marker: str
    url_variable: str
    url: str
    set_variable: str
    run: str
    start_worker: str


PLATFORMS = (
    Platform(
        "Heroku",
        "DYNO",
        "HEROKU_APP_DEFAULT_DOMAIN_NAME",
        "https://{}",
        "`heroku config:set NAME=VALUE`",
        "`heroku run doorbell doctor`",
        "`heroku ps:scale worker=1`",
    ),
    Platform(
        "Render",
        "RENDER",
        "RENDER_EXTERNAL_URL",
        "{}",
        "the environment group doorbell in the dashboard",
        "`doorbell doctor` in the shell of doorbell-web",
        "the service doorbell-worker in the dashboard",
    ),
    Platform(
        "Railway",
        "RAILWAY_PROJECT_ID",
        "RAILWAY_PUBLIC_DOMAIN",
        "https://{}",
        "the shared variables of the project, for both services",
        "`railway ssh doorbell doctor`",
        "a second service with the config file /deploy/railway.worker.toml",
    ),
    Platform(
        "Fly",
        "FLY_APP_NAME",
        "FLY_APP_NAME",
        "https://{}.fly.dev",
        "`fly secrets set NAME=VALUE`",
        "`fly ssh console -C 'doorbell doctor'`",
        "`fly scale count worker=1`",
    ),
)


def find_platform(environ: Mapping[str, str]) -> Platform | None:
    return next((platform for platform in PLATFORMS if environ.get(platform.marker)), None)


def read_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are not empty, without quotes, and with PUBLIC_URL from the platform unless it is set.

    `docker run --env-file` and `kubectl --from-env-file` keep the quotes that shells and compose remove.
    """
    variables = {name: _without_quotes(value.strip()) for name, value in environ.items()}
    variables = {name: value for name, value in variables.items() if value}
    for platform in PLATFORMS:
        if name := variables.get(platform.url_variable):
            variables.setdefault("PUBLIC_URL", platform.url.format(name))
    return variables


def _without_quotes(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1].strip() if is_quoted else value
