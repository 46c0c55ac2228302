"""Visits and contacts in SQLite."""

import contextlib
import random
import re
import sqlite3
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

#: The contact that the reference uses in its examples.
DOCUMENTED_CONTACT = "cont_KYdl3lftgZXGRbxqoj"


# AUTOINCREMENT never reuses the id of a deleted visit. Neither external_id nor email is unique: a duplicate is stored, so
# that tests can detect it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS visits (
    id INTEGER PRIMARY KEY AUTOINCREMENT, external_id TEXT, time_scheduled TEXT, time_completed TEXT,
    amount_collected TEXT, date_cancelled TEXT, completed INTEGER AS (time_completed IS NOT NULL), contact_id TEXT,
    event_date TEXT, created_at TEXT, updated_at TEXT);
CREATE INDEX IF NOT EXISTS visits_external_id ON visits (external_id);
CREATE TABLE IF NOT EXISTS contacts (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, account_id TEXT, email TEXT, first_name TEXT, last_name TEXT,
    phone TEXT, company TEXT, position TEXT, created_at TEXT, updated_at TEXT);
CREATE INDEX IF NOT EXISTS contacts_email ON contacts (email);
"""
VISIT_COLUMNS = (
    "external_id",
    "time_scheduled",
    "time_completed",
    "amount_collected",
    "date_cancelled",
    "contact_id",
    "event_date",
)
CONTACT_COLUMNS = ("id", "email", "first_name", "last_name", "phone", "company", "position")
CONTACT = "id, account_id, email, first_name, last_name, phone, company, position, created_at, updated_at"
INSERT_VISIT = f"""INSERT INTO visits ({", ".join(VISIT_COLUMNS)}, created_at, updated_at)
    VALUES ({", ".join(f":{name}" for name in VISIT_COLUMNS)}, :now, :now) RETURNING *"""
UPDATE_VISIT = f"""UPDATE visits SET {", ".join(f"{name} = :{name}" for name in VISIT_COLUMNS)}, updated_at = :now
    WHERE id = :id RETURNING *"""
INSERT_CONTACT = f"""INSERT INTO contacts ({", ".join(CONTACT_COLUMNS)}, account_id, created_at, updated_at)
    VALUES ({", ".join(f":{name}" for name in CONTACT_COLUMNS)}, 'acct_sandbox', :now, :now) RETURNING {CONTACT}"""

Row = dict[str, Any]


class Store:
    """Visits and contacts in one SQLite connection, which only the event loop's thread uses."""

    def __init__(self, file: str) -> None:
        #: How often everything was deleted.
        self.generation = 0
        self.connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        # Not the generator of the module `random`: test tools seed it, and ids would repeat.
        self._rng = random.Random()
        if file != ":memory:":
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.executescript(SCHEMA)
        if not self.has_contact(DOCUMENTED_CONTACT):
            self._insert_documented_contact()

    def visit(self, id: str) -> Row | None:
        """Return the visit with that numeric id, else the oldest with that external_id."""
        # Eighteen digits always fit into SQLite's integers.
        by_id = self._rows("SELECT * FROM visits WHERE id = ?", int(id)) if re.fullmatch("[0-9]{1,18}", id) else []
        return by_id[0] if by_id else self.visit_by_external_id(id)

    def visit_by_external_id(self, external_id: str) -> Row | None:
        visits = self._rows("SELECT * FROM visits WHERE external_id = ? ORDER BY id LIMIT 1", external_id)
        return visits[0] if visits else None

    def visits(self, limit: int, page: int) -> tuple[list[Row], int]:
        """Return one page, oldest first, and the number of all visits."""
        total: int = self.connection.execute("SELECT count(*) FROM visits").fetchone()[0]
        return self._rows("SELECT * FROM visits ORDER BY id LIMIT ? OFFSET ?", limit, (page - 1) * limit), total

    def insert_visit(self, values: Row) -> Row:
        return self._write(INSERT_VISIT, {**dict.fromkeys(VISIT_COLUMNS), **values, "now": _now()})

    def update_visit(self, visit: Row, values: Row) -> Row:
        return self._write(UPDATE_VISIT, {**visit, **values, "now": _now()})

    def delete_visit(self, visit: Row) -> None:
        self._write("DELETE FROM visits WHERE id = :id RETURNING id", visit)

    def has_contact(self, contact_id: str) -> bool:
        return bool(self._rows("SELECT 1 FROM contacts WHERE id = ?", contact_id))

    def contacts(self, email: str | None, limit: int) -> list[Row]:
        if email is None:
            return self._rows(f"SELECT {CONTACT} FROM contacts ORDER BY number LIMIT ?", limit)
        return self._rows(f"SELECT {CONTACT} FROM contacts WHERE email = ? ORDER BY number LIMIT ?", email, limit)

    def insert_contact(self, values: Row) -> Row:
        generated = {"id": f"cont_{''.join(self._rng.choices(string.ascii_letters + string.digits, k=18))}"}
        return self._write(INSERT_CONTACT, {**dict.fromkeys(CONTACT_COLUMNS), **generated, **values, "now": _now()})

    def clear(self) -> None:
        """Delete everything. Ids of visits start from 1 again."""
        self.generation += 1
        with self._writing():
            for table in ("visits", "contacts", "sqlite_sequence"):
                self.connection.execute(f"DELETE FROM {table}")
        self._insert_documented_contact()

    def _insert_documented_contact(self) -> None:
        self.insert_contact({"id": DOCUMENTED_CONTACT, "email": "first.contact@example.com"})

    def _rows(self, sql: str, *values: str | int) -> list[Row]:
        return [dict(row) for row in self.connection.execute(sql, values)]

    def _write(self, sql: str, values: Row) -> Row:
        with self._writing():
            return dict(self.connection.execute(sql, values).fetchall()[0])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            yield


def _now() -> str:
    return iso_timestamp(datetime.now(UTC))


def iso_timestamp(moment: datetime) -> str:
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"
