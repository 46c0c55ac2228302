"""What Doorbell knows of the platform that runs it. The variables are those of the platforms' documentation."""

from app.settings.environment import read_environment
from app.settings.platform import find_platform
from tests.support.cases import each

REDIS = {"REDIS_URL": "redis://127.0.0.1:6379/0"}


@each(
    ("variable", "value", "url"),
    [
        ("RENDER_EXTERNAL_URL", "https://bell.onrender.com", "https://bell.onrender.com"),
        ("RAILWAY_PUBLIC_DOMAIN", "bell.up.railway.app", "https://bell.up.railway.app"),
        ("FLY_APP_NAME", "bell", "https://bell.fly.dev"),
        (
            "HEROKU_APP_DEFAULT_DOMAIN_NAME",
            "bell-1234567890ab.herokuapp.com",
            "https://bell-1234567890ab.herokuapp.com",
        ),
    ],
)
def test_the_public_url_is_that_of_the_platform_unless_it_is_set(variable: str, value: str, url: str) -> None:
    own = {"PUBLIC_URL": "https://doorbell.example.com"}

    assert url == read_environment({**REDIS, variable: value}).public_url
    assert own["PUBLIC_URL"] == read_environment({**REDIS, variable: value, **own}).public_url


def test_an_empty_variable_of_a_platform_is_no_url() -> None:
    """Render sets it for every service, empty for a worker."""
    assert None is read_environment({**REDIS, "RENDER_EXTERNAL_URL": ""}).public_url


def test_square_needs_no_public_url_on_a_platform_that_tells_it() -> None:
    hook = {"HOOKS__SQUARE__SECRETS": "a-secret-of-tests"}

    assert ["square"] == list(read_environment({**REDIS, **hook, "FLY_APP_NAME": "bell"}).active_hooks)


@each(
    ("environ", "title"),
    [
        ({"DYNO": "web.1"}, "Heroku"),
        ({"RENDER": "true"}, "Render"),
        ({"RAILWAY_PROJECT_ID": "1"}, "Railway"),
        ({"FLY_APP_NAME": "bell"}, "Fly"),
        ({}, None),
    ],
)
def test_a_platform_is_recognized_by_its_own_variable(environ: dict[str, str], title: str | None) -> None:
    platform = find_platform(environ)

    assert title == (platform.title if platform else None)
