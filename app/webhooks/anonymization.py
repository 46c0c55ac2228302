"""Replaces the personal data of a recorded delivery. Equal values get equal replacements everywhere.

A value is kept only if a rule says that it is not personal: times, short numbers, words in the source's module, words
in fields such as `status`. Every other text is replaced: addresses, phone numbers, names word by word, ids by ids of
the same form, the parts of URLs, and all free text. The result describes the same event of a fictitious customer.
"""

import base64
import binascii
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import orjson

from app.webhooks.fresh_specimens import fresh_id
from app.webhooks.personal_data import (
    BIRTHDAY_KEY,
    EVENT_NAME_KEYS,
    FAMILY_NAME_KEY,
    GIVEN_NAME_KEY,
    NAME_KEY,
    PHONE_KEY,
    PLACE_KEY,
    SAFE_KEYS,
)

Kind = Literal["email", "phone", "name", "id", "url", "text", "place"]

#: Names of the replacement customers.
NAMES = (
    *("Grace", "Hopper", "Katherine", "Johnson", "Edsger", "Dijkstra", "Barbara", "Liskov", "Donald", "Knuth"),
    *("Radia", "Perlman", "Tony", "Hoare", "Frances", "Allen", "Dennis", "Ritchie", "Margaret", "Hamilton"),
)
_EMAIL = re.compile(r"[^\s\"'<>@,;]+@[^\s\"'<>@,;]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"(?=.*[+\s().-])\+?\(?\d[\d\s().-]{5,}\d|\+\d{7,15}")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:\s*[ap]\.?m\.?)?(?:\s*(?:Z|UTC|[+-]\d\d:?\d\d))?"
_DAY = (
    r"(?:\d{4}[-/]\d\d?[-/]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{4}"
    rf"|{_MONTH} \d{{1,2}},? \d{{4}}|\d{{1,2}} {_MONTH},? \d{{4}})"
)
_TIME = re.compile(rf"(?:[a-z]{{3,9}},? )?{_DAY}(?:(?:T|\s+|, | at )+{_CLOCK})?|{_CLOCK}|[+-]\d\d:?\d\d", re.IGNORECASE)
_UNIX_TIME = re.compile(r"1[4-9]\d{8}(?:\d{3})?")
_NUMBER = re.compile(r"-?\d{1,4}|-?\d{1,6}\.\d{1,4}")
_ZONE = re.compile(
    r"(?:Africa|America|Antarctica|Asia|Atlantic|Australia|Europe|Indian|Pacific|Etc)/[A-Za-z0-9_/+-]{1,40}|UTC|GMT"
)
_LOCALE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
_LOCALE_KEY = re.compile(r"currency|locale|language|lang$|country(?:_?code)?$", re.IGNORECASE)
_ID_KEY = re.compile(
    r"domain$|username$|login$|handle$|(?:^|[_-])(?:id|uid|uuid|guid|gid|ref|slug|hash|key|etag)s?$|(?:[a-z]I[Dd]s?|Uid|Uuid|Gid|Key|Token)$|token|secret"
)
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S+", re.IGNORECASE)
_SAFE_OBJECT_KEY = re.compile(r"[A-Za-z_$][A-Za-z_$.:\[\]-]{0,59}|[A-Za-z_$][\w$.:\[\]-]{0,30}")
_PART = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9A-Za-z_]+", re.IGNORECASE)
_LETTERS, _HEX = re.compile(r"[^\W\d_]{3,}"), re.compile(r"[0-9a-f-]{16,}")
_PREFIX = re.compile(r"([a-z]{1,6})_(?=.*\d)")
_TEXT_PART = re.compile(r"[^\s\"'<>@,;]+@[^\s\"'<>@,;]+\.[A-Za-z]{2,}|\w+")
_NAME_PART = re.compile(r"[^\s,;()<>/\"]+")
#: Fields whose value is a word from the tool's fixed list. No source has the complete list, so unknown words are kept,
#: too: a new status is a reason to record a delivery.
_WORD_KEY = re.compile(r"(?:status|state|type|event|action|kind|topic|trigger|reason|method|mode|code)$", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z_.:/-]{1,60}(?: [A-Za-z_.:/-]{1,30}){0,3}")
#: The name of an event, such as `wix.bookings.v2.booking_created`.
_EVENT_NAME = re.compile(r"[A-Za-z][A-Za-z_-]*(?:[.:/_][A-Za-z0-9_-]{1,40})+")
#: Texts that mean yes, no, or no value.
PLAIN_WORDS = frozenset(("yes", "no", "true", "false", "null", "none", "na", "n/a", "on", "off", "unknown"))
MIN_DISTINCT_CHARS = 3
#: Words that replacements contain.
_REPLACEMENT_WORDS = {"example", "street", "place", "text", "customer", "name"}


class Anonymizer:
    """Replaces the values of one delivery and its records. `collect` everything first, then `replace`.

    constants, tokens, hosts: the words and hosts in the source (source_words.py). fixed: replacements that are given.
        exceptions: texts in which only names and numbers are replaced. seed: new ids are derived from it.
    """

    def __init__(
        self,
        *,
        constants: Collection[str],
        tokens: Collection[str],
        hosts: Container[str],
        seed: str,
        fixed: Mapping[str, str] | None = None,
        exceptions: Container[str] = (),
    ) -> None:
        self._constants, self._tokens, self._hosts, self._seed = constants, tokens, hosts, seed
        self._fixed, self._exceptions = dict(fixed or {}), exceptions
        self._domains = {text.lstrip("@").casefold() for text in constants if "." in text}
        self._known_words = {token.casefold() for token in tokens}
        self._names: dict[str, str] = {}
        self._emails: dict[str, str] = {}
        self._phones: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._name_words: set[str] = set()
        self._words: set[str] = set()
        #: Replaced texts that may not be personal data, such as the label of a question.
        self.replaced_texts: dict[str, None] = {}

    # -- first pass --

    def collect(self, value: Any, key: str = "") -> None:
        """Remember the names in a value, so that they are replaced in other fields too."""
        if isinstance(value, dict):
            for name, child in value.items():
                self.collect(child, str(name))
        elif isinstance(value, list):
            for child in value:
                self.collect(child, key)
        elif isinstance(value, str):
            if (nested := _nested_json(value)) is not None:
                self.collect(nested, key)
                return
            self._words.update(map(str.casefold, re.findall(r"\w+", value)))
            if self._kind(value, _field(key)) == "name":
                self._name_words.update(part.casefold() for part in _NAME_PART.findall(value))

    @property
    def personal_values(self) -> set[str]:
        """The replaced values that are about people, to check that none remains.

        Words in the source are not included.
        """
        values = {*self._emails, *self._phones, *self._names}
        return {value for value in values if len(value) >= MIN_DISTINCT_CHARS} - self._known_words - _REPLACEMENT_WORDS

    # -- second pass --

    def replace(self, value: Any, key: str = "") -> Any:
        key = _field(key)
        if isinstance(value, dict):
            return {self._object_key(str(name)): self.replace(child, str(name)) for name, child in value.items()}
        if isinstance(value, list):
            return [self.replace(child, key) for child in value]
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            return self._number(value, key)
        if (nested := _nested_json(value)) is not None:
            return orjson.dumps(self.replace(nested, key)).decode()
        return self.text(str(value), key)

    def text(self, text: str, key: str = "") -> str:
        key = _field(key)
        if text in self._fixed:
            return self._fixed[text]
        if not text.strip():
            return text
        if text in self._exceptions:
            return self._partly(text)
        match self._kind(text, key):
            case None:
                return text
            case "email":
                return self._email(text)
            case "phone":
                return self._phone(text)
            case "name":
                return _NAME_PART.sub(lambda part: self._name(part[0]), text)
            case "url":
                return self._url(text)
            case "id":
                if not _has_digit(text):  # it may be a word
                    self.replaced_texts[text] = None
                return self.id(text)
            case "place":
                number = len(self._texts) + 1
                is_street = " " in text and text[0].isdigit()
                return self._texts.setdefault(text, f"{number} Example Street" if is_street else f"Place {number}")
        self.replaced_texts[text] = None
        return self._texts.setdefault(text, f"Text {len(self._texts) + 1}")

    def form(self, encoded: str) -> str:
        """Replace the values of a form or of a query string."""
        return urlencode(self.replace(dict(parse_qsl(encoded, keep_blank_values=True))))

    def header(self, value: str) -> str:
        """Replace the value of a header that a source needs: a time is kept, everything else is replaced as an id."""
        return value if _is_time(value, "time") else self.id(value)

    def _kind(self, text: str, key: str) -> Kind | None:
        """Return the kind of a text; None if it is kept."""
        text = text.strip()
        if key.lower().endswith("uid"):
            return "id"
        if _EMAIL.fullmatch(text):
            return "email"
        if PHONE_KEY.search(key) and any(map(str.isdigit, text)):
            return "phone"
        if BIRTHDAY_KEY.search(key):
            return "text"
        if GIVEN_NAME_KEY.search(key) or FAMILY_NAME_KEY.search(key):
            return "name"
        if text in self._constants or text.casefold() in PLAIN_WORDS or _is_time(text, key):
            return None
        if _ID_KEY.search(key) and not re.search(r"\s|://", text):
            return "id"
        if _URL.match(text):
            return "url"
        if PLACE_KEY.search(key):
            return "place"
        if NAME_KEY.search(key):
            return "text" if "@" in text else "name"
        if all(part.casefold() in self._name_words for part in _NAME_PART.findall(text)):
            return "name"
        return self._kind_of_value(text, key)

    def _kind_of_value(self, text: str, key: str) -> Kind | None:
        if _NUMBER.fullmatch(text) and not _ID_KEY.search(key):
            return None
        if _ZONE.fullmatch(text) or (_LOCALE_KEY.search(key) and _LOCALE.fullmatch(text)):
            return None
        if _PHONE.fullmatch(text):
            return "phone"
        name = key.lower()
        if re.search(r"type$|event$|topic$|trigger$|fqdn$", key, re.IGNORECASE) and _EVENT_NAME.fullmatch(text):
            return None if not re.search(r"\d{3}", text) else "id"
        if (_WORD_KEY.search(key) or name in EVENT_NAME_KEYS) and _WORDS.fullmatch(text):
            return None if " " not in text or name.endswith("status") else "text"
        if name in SAFE_KEYS - EVENT_NAME_KEYS or _is_token(text):
            return "id"
        return "text"

    def _number(self, value: int | float, key: str) -> int | float:
        text = str(value)
        if re.search(r"^(?:lat|lng|lon)(?:itude|gitude)?$", key, re.IGNORECASE):
            return 0
        if isinstance(value, float) or _is_time(text, key) or (len(text.lstrip("-")) <= 4 and not _ID_KEY.search(key)):
            return value
        if PHONE_KEY.search(key):
            return int(self._phone(text))
        if re.search(r"amount|price|total|cents|paid|cost|duration|seconds|balance|fee|tax", key, re.IGNORECASE):
            return value
        return int(self._fixed.get(text) or self.id(text))

    def _object_key(self, key: str) -> str:
        """Return the key; a key that may be a value is replaced as a value."""
        if _SAFE_OBJECT_KEY.fullmatch(key) or key in self._constants:
            return key
        return self.text(key)

    # -- replacements --

    def _partly(self, text: str) -> str:
        """Replace addresses, numbers and possible names in a text; keep other words."""
        return _TEXT_PART.sub(lambda part: self._text_part(part[0]), text)

    def _text_part(self, part: str) -> str:
        if _EMAIL.fullmatch(part):
            return self._email(part)
        if _has_digit(part):
            return self._ids.get(part) or self.id(part)
        is_name = part.casefold() in self._name_words or (
            part[0].isupper() and part.casefold() not in self._known_words
        )
        return self._name(part) if is_name else part

    def _name(self, part: str) -> str:
        known = part.casefold()
        if known not in self._names:
            # No replacement is a word of the original.
            used = {*map(str.casefold, self._names.values()), *self._words}
            free = (name for name in NAMES if name.casefold() not in used)
            self._names[known] = next(free, f"Name{len(self._names)}")
        return self._names[known]

    def _email(self, address: str) -> str:
        known = address.strip().casefold()
        local, _, domain = known.partition("@")
        # Some tools generate e-mail addresses from phone numbers.
        if local.isdecimal() and domain in self._domains:
            return self._emails.setdefault(known, f"{self._phone(local)}@{domain}")
        return self._emails.setdefault(known, f"customer{len(self._emails) + 1}@example.com")

    def _phone(self, number: str) -> str:
        digits = "".join(filter(str.isdigit, number))
        known = self._phones.setdefault(digits[-9:], f"55501{len(self._phones) + 10_001}")
        return f"+1{known}" if number.strip().startswith("+") else known

    def id(self, text: str) -> str:
        """Return another id of the same form.

        Words in the source are kept, such as the type in `gid://tool/Visit/1`.
        """
        if text in self._ids:
            return self._ids[text]
        if decoded := _decoded_id(text):
            prefix = base64.b64encode(self.id(decoded).encode()).decode()
            return self._ids.setdefault(text, prefix if "=" in text else prefix.rstrip("="))
        parts = [part for part in _PART.findall(text) if part.casefold() not in self._known_words]
        has_numbers = any(map(_has_digit, parts))
        for attempt in range(50):
            seed = f"{self._seed}{attempt}"
            candidate = _PART.sub(lambda part, seed=seed: self._id_part(part[0], seed, has_numbers), text)  # type: ignore[misc]
            if candidate not in self._ids.values() and (candidate != text or not parts):
                break
        return self._ids.setdefault(text, candidate)

    def _id_part(self, part: str, seed: str, has_numbers: bool) -> str:
        if part.casefold() in self._known_words or (
            has_numbers and len(part) < MIN_DISTINCT_CHARS and not _has_digit(part)
        ):
            return part
        if known := self._fixed.get(part) or self._ids.get(part):
            return known
        # A prefix such as `evt_` is the type of the object.
        prefix = match[0] if (match := _PREFIX.match(part)) and match[1] not in self._name_words else ""
        # `fresh_id` keeps the letters of an id with many digits, but they may be a name.
        fresh = fresh_id(part.removeprefix(prefix), seed)
        return prefix + (fresh if _HEX.fullmatch(fresh) else _LETTERS.sub(lambda run: fresh_id(run[0], seed), fresh))

    def _url(self, url: str) -> str:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme in ("http", "https") and host not in self._hosts:
            host = "example.com"
        elif parts.scheme not in ("http", "https"):
            host = host if host in self._tokens or not _has_digit(host) else self.id(host)
        path = "/".join(map(self._segment, parts.path.split("/")))
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        query = urlencode([(self._object_key(name), self._parameter(value, name)) for name, value in pairs])
        return urlunsplit((parts.scheme, host, path, query, ""))

    def _segment(self, segment: str) -> str:
        text = unquote(segment)
        if not text or text in self._tokens or text in self._constants:
            return segment
        return quote(self._email(text) if _EMAIL.fullmatch(text) else self.id(text), safe=":@-._~=")

    def _parameter(self, value: str, key: str) -> str:
        return self.text(value, key) if self._kind(value, key) in ("email", "phone", "name", None) else self.id(value)


def _field(key: str) -> str:
    """Return the last part of a field's name in a form: `topic` for `data[event][topic]`."""
    return key.rstrip("[]").rpartition("[")[2]


def _nested_json(text: str) -> Any:
    if text[:1] not in "{[" or not text:
        return None
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _decoded_id(text: str) -> str:
    """Return the text that an id encodes in base64, if it is a path like `gid://tool/Visit/1`; else an empty string."""
    if len(text) < 12 or not re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", text):
        return ""
    standard = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        decoded = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return decoded if decoded.isprintable() and "/" in decoded else ""


def _is_time(text: str, key: str) -> bool:
    if _TIME.fullmatch(text):
        return True
    return bool(
        _UNIX_TIME.fullmatch(text)
        and re.search(r"time|date|stamp|start|end|at$|created|updated|iat|exp|nbf|_ts$|^t$", key, re.I)
    )


def _is_token(text: str) -> bool:
    """Return whether a text looks like an id: it has digits and no white space."""
    return not re.search(r"\s", text) and _has_digit(text)


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def remaining_values(document: Any, originals: Iterable[str]) -> set[str]:
    """Return the original values that a document still contains as whole words of its texts."""
    text = "\n".join(_texts(document)).casefold()
    return {value for value in originals if re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", text)}


def _texts(document: Any) -> Iterator[str]:
    if isinstance(document, dict | list):
        for child in document.values() if isinstance(document, dict) else document:
            yield from _texts(child)
    else:
        yield str(document)
