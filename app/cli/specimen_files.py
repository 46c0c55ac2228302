"""Completes the specimens of a source: signatures by the command in the file, and proposals for `expect`."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery, Event, UnreadableBody, header_lines
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources, load_specimens, specimen_body, specimens_file
from app.webhooks.signatures.combined import FirstPresent
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext
from app.webhooks.source import Ignored, LoadedSource
from app.webhooks.specimens import describe_change
from app.webhooks.translation import parse_event

#: The time in a signature, as the command needs it.
_SIGNED_TIME = re.compile(r"\b1\d{9}(?:\d{3})?\b|\b20\d\d-\d\d-\d\dT[\d:.]+Z")


class CannotComplete(Exception):
    """A specimen lacks something that only its author can add, or its signature is contradictory."""


class NotTranslatable(CannotComplete):
    """The module does not understand the event, so only its author can say what to expect."""


class SpecimenFile:
    """The specimens of a source, which can be completed and written."""

    def __init__(self, name: str) -> None:
        self.tool, self.path = load_sources()[name], specimens_file(name)
        self.content = load_specimens(name)

    def complete(self) -> Iterator[tuple[str, list[str]]]:
        """Complete each delivery. Yield its name with what was added. Raise CannotComplete."""
        for number, recorded in enumerate(self.content.get("deliveries", ()), 1):
            name = f"{number} {recorded.get('name', 'without a name')}"
            try:
                yield name, list(SpecimenEntry(self.tool, self.content, recorded).complete())
            except CannotComplete as problem:
                raise CannotComplete(f"{name}: {problem}") from None

    def write(self) -> None:
        self.path.write_text(json.dumps(self.content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class SpecimenEntry:
    """One delivery of a file of specimens."""

    def __init__(self, tool: LoadedSource, file: MutableMapping[str, Any], recorded: dict[str, Any]) -> None:
        self._tool, self._file, self._recorded = tool, file, recorded
        self._scheme = self._choose_scheme(tool.definition.signature)

    def _choose_scheme(self, scheme: Scheme) -> Scheme:
        """Return the scheme of a tool with several: that of the signature, else the first that the secret fits."""
        while isinstance(scheme, FirstPresent):
            names = {name.lower() for name in self._recorded.get("headers", {})}
            fits = scheme.first.secret_problem(self._setting("secret")) is None
            is_older = getattr(scheme.fallback, "header", "").lower() in names
            scheme = scheme.first if fits and not is_older else scheme.fallback
        return scheme

    def complete(self) -> Iterator[str]:
        """Add what is missing. Yield a sentence for each addition."""
        if "body" not in self._recorded:
            raise CannotComplete("it has no body")
        if "now" not in self._recorded:
            self._recorded["now"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            yield f"now is {self._recorded['now']}"
        expect = self._recorded.get("expect")
        is_signed = not (isinstance(expect, dict) and "handshake" in expect)
        if is_signed and not self._is_valid():
            yield from self._sign()
        if expect is None:
            yield from self._propose_expect()

    # -- signature --

    def _is_valid(self) -> bool:
        try:
            self._scheme.verify(self._delivery(), self._context("secret"))
        except SignatureError:
            return False
        return True

    def missing_header(self) -> str:
        """Return a header that the signature covers and that is not stored, as the id of the message, or an empty string."""
        try:
            self.signed_headers()
        except SignatureError as error:
            name = str(error).removesuffix(" is missing")
            return (
                name
                if error.reason == "missing" and name != str(error) and name not in self._recorded["headers"]
                else ""
            )
        return ""

    def signed_headers(self) -> Mapping[str, str]:
        """Return the headers with the signature. Raise SignatureError."""
        return self._scheme.sign(self._delivery(), self._signing_context())

    def _signing_context(self) -> VerificationContext:
        return self._context("signing_key" if self._setting("signing_key") else "secret")

    def _sign(self) -> Iterator[str]:
        context = self._signing_context()
        token = self._scheme.path_token(self._tool.name, context)
        if token and token != self._setting("token"):
            self._compare([token], "")
            self._file["token"] = token
            yield f"token is {token}"
        body = self._scheme.encode_body(specimen_body(self._recorded), context)
        if body != specimen_body(self._recorded):
            text = body.decode()
            self._recorded["body"] = text if isinstance(self._recorded["body"], str) else json.loads(text)
            yield "the body is signed"
        signed = self.signed_headers()
        self._compare(signed.values(), "".join(self._other_signed_headers(signed, context)))
        headers = self._recorded.setdefault("headers", {"Content-Type": "application/json"})
        for name in [name for name in headers if name.lower() in {new.lower() for new in signed}]:
            del headers[name]
        for name, value in signed.items():
            headers[name] = value
            yield f"{name} is {value}"

    def _other_signed_headers(self, signed: Mapping[str, str], context: VerificationContext) -> Iterator[str]:
        """Yield the values of the headers that the signature covers, but that `sign` does not make, as an id."""
        delivery = self._delivery()
        for name, value in sorted((name.lower(), value) for name, value in self._recorded.get("headers", {}).items()):
            without = tuple(line for line in delivery.headers if line[0] != name.encode())
            if name not in {new.lower() for new in signed}:
                changed = Delivery(
                    delivery.hook, delivery.source, without, delivery.body, delivery.received_at, query=delivery.query
                )
                try:
                    is_signed = self._scheme.sign(changed, context) != signed
                except SignatureError:
                    is_signed = True
                if is_signed:
                    yield value

    def _compare(self, values: Iterable[str], signed_id: str) -> None:
        """Raise CannotComplete if the file's own command makes another signature than the module's scheme."""
        values, command = list(values), self._setting("signed_with")
        if not command:
            raise CannotComplete("the file has no signed_with, the shell command that makes the signature")
        if not values or not (shutil.which("bash") and shutil.which("openssl")):
            return
        times = [match[0] for value in values if (match := _SIGNED_TIME.search(value))]
        env = {
            "PATH": os.environ["PATH"],
            "BODY": specimen_body(self._recorded).decode(),
            "T": times[0] if times else "",
            "ID": signed_id,
            "KEY": self._setting("secret"),
            "SIGNING_KEY": self._setting("signing_key"),
            "SECRET_KEY": self._setting("secret_key"),
            "PUBLIC_URL": self._setting("public_url"),
            "HOOK": self._tool.name,
        }
        result = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
        digest = result.stdout.strip().rpartition(" ")[2]
        if result.returncode or not digest:
            raise CannotComplete(f"signed_with fails: {result.stderr.strip() or 'it prints nothing'}")
        if not any(digest.lower() in value.lower() for value in values):
            raise CannotComplete(f"signed_with gives {digest}, and the scheme of the module {' '.join(values)}")

    def _delivery(self) -> Delivery:
        lines = header_lines(self._recorded.get("headers", {}))
        name, now = self._tool.name, datetime.fromisoformat(self._recorded["now"])
        query = self._setting("query").encode()
        return Delivery(
            name, name, lines, specimen_body(self._recorded), now, token=self._setting("token"), query=query
        )

    def _context(self, key: str) -> VerificationContext:
        if not self._setting(key):
            raise CannotComplete(f"the file has no {key}")
        token = self._setting("token")
        url = f"{self._setting('public_url')}/hooks/{self._tool.name}" + (f"/{token}" if token else "")
        now = datetime.fromisoformat(self._recorded["now"]).timestamp()
        return VerificationContext([self._setting(key)], now, url, keys=[self._setting("secret_key")])

    def _setting(self, name: str) -> str:
        return str(self._recorded.get(name, self._file.get(name, "")))

    # -- expect --

    def _propose_expect(self) -> Iterator[str]:
        """Add what `translate` makes of the event. Whether that is right, only the author can say."""
        try:
            translations = self.translations()
        except (UnreadableBody, Untranslatable) as error:
            raise NotTranslatable(f"translate cannot understand it: {error}") from None
        changes = changes_of(translations)
        self._recorded["expect"] = list(map(describe_change, changes)) or {"ignored": _reason(translations)}
        yield f"expect is {_describe(changes) or self._recorded['expect']}: compare it with the tool's documentation"

    def event(self) -> Event:
        """Raise UnreadableBody."""
        zone = ZoneInfo(self._setting("timezone")) if self._setting("timezone") else None
        return parse_event(self._tool, self._delivery(), zone)

    def translations(self) -> list[list[VisitChange] | Ignored]:
        """Translate like the worker: once for every record. Raise UnreadableBody, Untranslatable, CannotComplete."""
        event = self.event()
        requests = self._tool.fetch(event) if self._tool.fetch else []
        if requests and "records" not in self._recorded:
            self._recorded["requests"] = [request.key for request in requests]
            raise CannotComplete(f"add the responses of the tool to `records`: {', '.join(self._recorded['requests'])}")
        events = [self._with_record(event, request) for request in requests] or [event]
        return [self._tool.translate(each) for each in events]

    def _with_record(self, event: Any, request: Any) -> Any:
        records = self._recorded["records"]
        if request.key not in records:
            raise CannotComplete(f"records lacks {request.key}")
        fetched_at = datetime.fromisoformat(self._recorded.setdefault("fetched_at", self._recorded["now"]))
        record = records[request.key]
        follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
        related = {name: records[follow_up.key] for name, follow_up in follow_ups.items() if follow_up.key in records}
        return event.with_record(record, fetched_at, related, request.path)


def changes_of(translations: Iterable[list[VisitChange] | Ignored]) -> list[VisitChange]:
    return [change for each in translations if not isinstance(each, Ignored) for change in each]


def _reason(translations: Iterable[Any]) -> str:
    return next((each.reason for each in translations if isinstance(each, Ignored)), "")


def _describe(changes: Iterable[VisitChange]) -> str:
    return ", ".join(f"{change.action} {change.external_id_override or change.visit_id}" for change in changes)
