"""The endpoints of the Visits API. Each takes a parsed request and returns a result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.sandbox.faults import ENDPOINTS, Faults
from app.sandbox.store import CONTACT_COLUMNS, Row, Store
from app.sandbox.validation import (
    ApiError,
    check_email,
    is_empty,
    positive_integer,
    required,
    texts,
    unprocessable,
    updates,
)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A parsed request. id: a numeric id or an external_id from the path. query, fields: from the URL and the body."""

    id: str
    query: Mapping[str, str]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """The response to a call, and fields for the journal. committed: the database has changed."""

    status: int
    body: Mapping[str, Any]
    committed: bool = False
    external_id: str | None = None
    contact_id: str | None = None


Handler = Callable[[Store, Faults, ApiRequest], Result]


def list_visits(store: Store, faults: Faults, request: ApiRequest) -> Result:
    limit = positive_integer(request.query, "limit", 25, maximum=100)
    page = positive_integer(request.query, "page", 1, maximum=999_999_999)
    visits, total = store.visits(limit, page)
    pagination = {"page": page, "limit": limit, "total": total, "total_pages": -(-total // limit)}
    return Result(200, {"visits": [_without_unset(visit) for visit in visits], "pagination": pagination})


def create_visit(store: Store, faults: Faults, request: ApiRequest) -> Result:
    contact_id = _existing_contact_id(store, request.fields)
    names = texts(request.fields, ("external_id",))
    values = {name: value for name, value in updates(request.fields).items() if value is not None}
    if names and (existing := store.visit_by_external_id(names["external_id"])):
        if faults.duplicate_external_id == "upsert":
            return _update(store, faults, existing, request.fields)
        if faults.duplicate_external_id != "allow":
            status = 409 if faults.duplicate_external_id == "conflict" else 422
            raise ApiError(status, "duplicate", "external_id has already been taken", field="external_id")
    defaults = {"event_date": values.get("time_scheduled")}
    visit = store.insert_visit({"contact_id": contact_id, **names, **defaults, **values})
    return _visit_result(faults.created_status, visit, committed=True)


def get_visit(store: Store, faults: Faults, request: ApiRequest) -> Result:
    return _visit_result(200, _existing_visit(store, request.id), committed=False)


def update_visit(store: Store, faults: Faults, request: ApiRequest) -> Result:
    return _update(store, faults, _existing_visit(store, request.id), request.fields)


def delete_visit(store: Store, faults: Faults, request: ApiRequest) -> Result:
    visit = _existing_visit(store, request.id)
    store.delete_visit(visit)
    return Result(faults.deleted_status, {}, True, visit["external_id"], visit["contact_id"])


def list_contacts(store: Store, faults: Faults, request: ApiRequest) -> Result:
    limit = positive_integer(request.query, "limit", 10, maximum=100)
    contacts = store.contacts(request.query.get("email"), limit + 1)
    body = {"has_more": len(contacts) > limit, "data": [_without_unset(contact) for contact in contacts[:limit]]}
    return Result(200, body, contact_id=contacts[0]["id"] if len(contacts) == 1 else None)


def create_contact(store: Store, faults: Faults, request: ApiRequest) -> Result:
    check_email(required(request.fields, "email"))
    contact = store.insert_contact(texts(request.fields, CONTACT_COLUMNS[1:]))
    return Result(faults.created_status, _without_unset(contact), True, contact_id=contact["id"])


def unknown_endpoint(store: Store, faults: Faults, request: ApiRequest) -> Result:
    raise ApiError(404, "no_endpoint", f"there is no such endpoint; the endpoints are {', '.join(ENDPOINTS)}")


HANDLERS: Mapping[str, Handler] = dict(
    zip(
        ENDPOINTS,
        (list_visits, create_visit, get_visit, update_visit, delete_visit, list_contacts, create_contact),
        strict=True,
    )
)


def _update(store: Store, faults: Faults, visit: Row, fields: Mapping[str, Any]) -> Result:
    values = updates(fields)
    if not faults.empty_clears:
        values = {name: value for name, value in values.items() if value is not None}
    if faults.event_date_follows and values.get("time_scheduled"):
        values = {"event_date": values["time_scheduled"], **values}
    if faults.contact_can_change and not is_empty(fields.get("contact_id")):
        values["contact_id"] = _existing_contact_id(store, fields)
    return _visit_result(200, store.update_visit(visit, values), committed=True)


def _existing_visit(store: Store, id: str) -> Row:
    visit = store.visit(id)
    if visit is None:
        raise ApiError(404, "not_found", "there is no visit with that id or external_id")
    return visit


def _existing_contact_id(store: Store, fields: Mapping[str, Any]) -> str:
    contact_id = required(fields, "contact_id")
    if not store.has_contact(contact_id):
        raise unprocessable("contact_id", "is not a contact of this account")
    return contact_id


def _visit_result(status: int, visit: Row, committed: bool) -> Result:
    return Result(status, _without_unset(visit), committed, visit["external_id"], visit["contact_id"])


def _without_unset(row: Row) -> Row:
    """Return the row as a response has it: without empty columns."""
    fields = {name: value for name, value in row.items() if value is not None}
    if "completed" in fields:
        fields["completed"] = bool(fields["completed"])
    return fields
