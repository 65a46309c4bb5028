"""The records of past absences: a table of its own beside the log, which is worth more.

The log decides what the cluster has promised; a record only makes the next estimate better.  So what is
wrong with this table alone costs the records and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

import attrs
import msgspec

from txvbcast.absences import ABSENCES_KEPT
from txvbcast.core.inputs import PastAbsence

#: Not part of the log's format: programs that do not know the table leave it alone.
SCHEMA = "CREATE TABLE IF NOT EXISTS absences (number INTEGER PRIMARY KEY, record TEXT NOT NULL)"

#: SQLite's names for errors that undo their own statement only: the transaction, with the log's part of it, goes on.
_OWN_FAULTS = ("SQLITE_ERROR", "SQLITE_CONSTRAINT")


def keep(connection: sqlite3.Connection, records: Iterable[PastAbsence]) -> str:
    """Append ``records`` within the transaction under way, and drop what is older than the latest ABSENCES_KEPT.

    :returns: why not all of that was done, or empty.
    :raises sqlite3.Error: the disk has failed, for the log too.
    """
    # This encoder takes any text, also one that is not Unicode.
    rows = [(json.dumps(attrs.asdict(record)),) for record in records]
    try:
        connection.executemany("INSERT INTO absences (record) VALUES (?)", rows)
        oldest = "SELECT max(number) - ? FROM absences"
        connection.execute(f"DELETE FROM absences WHERE number <= ({oldest})", (ABSENCES_KEPT,))
    except sqlite3.Error as error:
        if not error.sqlite_errorname.startswith(_OWN_FAULTS):
            raise
        return str(error)
    return ""


def read(connection: sqlite3.Connection) -> tuple[tuple[PastAbsence, ...], str]:
    """The records that are kept, oldest first, and what is wrong with others, or empty.

    :raises sqlite3.Error: the table cannot be read.  Then it must not be written either: a transaction that
        has touched a damaged page cannot be committed, not even the log's part of it.
    """
    query = "SELECT CAST(record AS BLOB) FROM absences ORDER BY number DESC LIMIT ?"
    rows = connection.execute(query, (ABSENCES_KEPT,)).fetchall()
    records: list[PastAbsence] = []
    problem = ""
    for (row,) in reversed(rows):
        try:
            records.append(msgspec.json.decode(row, type=PastAbsence))
        except msgspec.DecodeError as error:
            problem = str(error)
    return tuple(records), problem
