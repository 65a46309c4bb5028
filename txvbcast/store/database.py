"""The SQLite database of a node: its schema, its rows, and what is refused.

Nothing here knows of threads or of a reactor.  Every function that takes a connection may raise
:class:`sqlite3.Error`; :func:`refusals` turns it into a :class:`~txvbcast.errors.StoreError`.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from txvbcast.core.effects import Persist
from txvbcast.core.inputs import StoredState
from txvbcast.errors import StoreError
from txvbcast.store import records
from txvbcast.store.directory import sync_directory
from txvbcast.wire.codec import CorruptEntry, decode_entry, encode_entry
from txvbcast.wire.messages import U64_MAX, Entry

DATABASE_NAME = "log.sqlite"

#: The schema below.  Another number means that programs of this version cannot read it.
FORMAT = 1

#: How long to wait while another program holds the database, before that is an error.
BUSY_TIMEOUT_S = 5.0

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE log (seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, body BLOB NOT NULL)",
)

_START_ANEW = "restore a backup, or move the data directory away so that the node joins anew"

#: What to do, by the second word of SQLite's name for the error.
_ADVICE = {
    "NOTADB": "move it away, or set another data_dir",
    "CORRUPT": _START_ANEW,
    "FULL": "make room on that disk and start again",
    "BUSY": "end the other program that uses it and start again",
    "CANTOPEN": "give this user the right to read and write it and its directory",
    "READONLY": "give this user the right to read and write it and its directory",
}
_ADVICE_OTHERWISE = "look after that disk, then start again"


@attrs.frozen
class Meta:
    """The ``meta`` table, one row per field; each row has a checksum, because promises rest on it."""

    format: int
    cluster_id: str
    node_id: int
    disk_id: str
    incarnation: int
    promised_epoch: int
    log_epoch: int
    committed: int


def explain(path: Path, error: sqlite3.Error) -> StoreError:
    """What ``error`` of the database at ``path`` means to a user, and what to do."""
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    advice = _ADVICE.get(name.removeprefix("SQLITE_").partition("_")[0], _ADVICE_OTHERWISE)
    return StoreError(f"{path}: {error} ({name}); {advice}")


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Inside, errors of SQLite become :class:`~txvbcast.errors.StoreError` that name ``path``."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error) from error


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection that begins and ends its transactions only when told to.

    :param mode: ``ro``, or ``rwc`` to make a database that is not there.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )


def open_for_writing(directory: Path, node_id: int, cluster_id: str) -> tuple[sqlite3.Connection, StoredState]:
    """Open or make the database in ``directory`` and begin a new incarnation in it, durably.

    :raises StoreError: it is damaged, foreign, of a newer format, or cannot be written; except for what SQLite
        repairs by itself, nothing was changed then.
    """
    path = directory / DATABASE_NAME
    _refuse_orphaned_wal(path)
    with refusals(path), contextlib.ExitStack() as undo:
        connection = connect(path, "rwc")
        undo.callback(connection.close)
        is_new = not _has_tables(connection, path)
        if not is_new:
            _refuse_foreign(path, read_meta(connection, path), node_id, cluster_id)
            _refuse_gaps(connection, path)
        _set_durable(connection, path)
        if is_new:
            _make_tables(connection, node_id, cluster_id)
        state = _begin_incarnation(connection, path)
        # SQLite itself overlooks a failure to make the names of its files durable.
        try:
            sync_directory(directory)
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}; {_ADVICE_OTHERWISE}") from error
        undo.pop_all()
    return connection, state


def open_for_reading(directory: Path) -> tuple[sqlite3.Connection, Path]:
    """Open the database in ``directory``, of a running or a stopped node, and check that it is one of ours.

    :raises StoreError: there is none, or it cannot be read.
    """
    path = directory / DATABASE_NAME
    if not path.exists():
        raise StoreError(f"{path} is not there: no node has used {directory} as its data_dir")
    with refusals(path), contextlib.ExitStack() as undo:
        connection = connect(path, "ro")
        undo.callback(connection.close)
        if not _has_tables(connection, path):
            raise StoreError(f"{path} is empty: the node that made it has not got further")
        read_meta(connection, path)
        undo.pop_all()
    return connection, path


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """What the ``meta`` table says.

    :raises StoreError: its format is newer, a row is missing or was damaged.
    """
    values: dict[str, Any] = {}
    for key, value, crc in connection.execute("SELECT key, value, crc FROM meta"):
        if crc != _meta_crc(key, value):
            raise StoreError(f"{path}: the value of {key} was damaged; {_START_ANEW}")
        values[key] = value
    if values.get("format", FORMAT) > FORMAT:
        raise StoreError(
            f"{path} has format {values['format']}, this program reads up to {FORMAT}; "
            "use the newer program, or set another data_dir"
        )
    names = [field.name for field in attrs.fields(Meta)]
    missing = [name for name in names if name not in values]
    if missing:
        raise StoreError(f"{path}: the value of {', '.join(missing)} is missing; {_START_ANEW}")
    return Meta(**{name: values[name] for name in names})


def write_meta(connection: sqlite3.Connection, values: Mapping[str, int | str]) -> None:
    """Set some values of the ``meta`` table, within the transaction under way."""
    rows = [(key, value, _meta_crc(key, value)) for key, value in values.items()]
    connection.executemany("INSERT OR REPLACE INTO meta (key, value, crc) VALUES (?, ?, ?)", rows)


def write_log(connection: sqlite3.Connection, write: Persist) -> int:
    """Truncate and append what ``write`` says, within the transaction under way.

    :returns: how many bytes the appended entries take.
    :raises LocalProtocolError: an entry cannot be encoded.
    """
    if write.truncate_from is not None:
        connection.execute("DELETE FROM log WHERE seq >= ?", (write.truncate_from,))
    rows = [(entry.seq, entry.epoch, encode_entry(entry)) for entry in write.entries]
    if rows:
        connection.executemany("INSERT INTO log (seq, epoch, body) VALUES (?, ?, ?)", rows)
    return sum(len(body) for _, _, body in rows)


def read_log(connection: sqlite3.Connection, path: Path, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
    """Entries from ``first`` on, up to ``last`` and ``bytes_max`` encoded bytes, but at least one if there is one.

    :raises StoreError: an entry was damaged or is missing in the middle; the text names its seq.
    """
    query = "SELECT seq, epoch, body FROM log WHERE seq BETWEEN ? AND ? ORDER BY seq"
    # A cursor left open would keep the database from reusing the space of its write-ahead log.
    with contextlib.closing(connection.execute(query, (first, last))) as rows:
        return tuple(_entries(path, rows, first, bytes_max))


def read_log_in_pieces(connection: sqlite3.Connection, path: Path, bytes_max: int) -> Iterator[tuple[Entry, ...]]:
    """The whole log from its beginning, each piece read on its own, so that a slow reader holds nothing up.

    :raises StoreError: as :func:`read_log`, and when the database cannot be read.
    """
    first = 1
    while True:
        with refusals(path):
            piece = read_log(connection, path, first, U64_MAX, bytes_max)
        if not piece:
            return
        yield piece
        first = piece[-1].seq + 1


def _entries(path: Path, rows: Iterable[tuple[int, int, object]], first: int, bytes_max: int) -> Iterator[Entry]:
    bytes_read = 0
    for expected, (seq, epoch, body) in enumerate(rows, first):
        if seq != expected:
            raise StoreError(f"{path}: entry {expected} of the log is missing; {_START_ANEW}")
        if not isinstance(body, bytes):
            raise StoreError(f"{path}: entry {seq} of the log was damaged: it holds no bytes; {_START_ANEW}")
        bytes_read += len(body)
        if bytes_read > bytes_max and seq != first:
            return
        try:
            entry = decode_entry(body)
        except CorruptEntry as error:
            raise StoreError(f"{path}: entry {seq} of the log: {error}; {_START_ANEW}") from error
        if (entry.seq, entry.epoch) != (seq, epoch):
            raise StoreError(
                f"{path}: entry {seq} of the log was damaged: in place of epoch {epoch} "
                f"it holds entry {entry.seq} of epoch {entry.epoch}; {_START_ANEW}"
            )
        yield entry


def _meta_crc(key: str, value: object) -> int:
    return zlib.crc32(f"{key}={value!r}".encode())


def _refuse_orphaned_wal(path: Path) -> None:
    # SQLite would take the database for a new one and throw the write-ahead log away.
    wal = path.with_name(f"{path.name}-wal")
    has_database = path.exists() and path.stat().st_size > 0
    if not has_database and wal.exists() and wal.stat().st_size > 0:
        raise StoreError(f"{path} is missing or empty, but {wal} is there: the log was lost; {_START_ANEW}")


def _has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if names and not {"meta", "log"} <= names:
        raise StoreError(f"{path} is the database of another program; move it away, or set another data_dir")
    return bool(names)


def _refuse_foreign(path: Path, meta: Meta, node_id: int, cluster_id: str) -> None:
    for name, found, wanted in (("cluster", meta.cluster_id, cluster_id), ("node", meta.node_id, node_id)):
        if found != wanted:
            raise StoreError(
                f"{path} belongs to {name} {found}, this node is configured as {name} {wanted}; "
                "set the data_dir that belongs to this node"
            )


def _refuse_gaps(connection: sqlite3.Connection, path: Path) -> None:
    count, first, last = connection.execute("SELECT count(*), min(seq), max(seq) FROM log").fetchone()
    if count == 0 or (first == 1 and last == count):
        return
    missing = 1
    if first == 1:
        query = "SELECT min(seq) + 1 FROM log WHERE seq + 1 NOT IN (SELECT seq FROM log)"
        (missing,) = connection.execute(query).fetchone()
    raise StoreError(f"{path}: entry {missing} of the log is missing, though there are later ones; {_START_ANEW}")


def _set_durable(connection: sqlite3.Connection, path: Path) -> None:
    (journal_mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal_mode != "wal":
        raise StoreError(f"{path}: this file system cannot share memory, which the store needs; set another data_dir")
    connection.execute("PRAGMA synchronous = FULL")
    # SQLite keeps a failed checkpoint of its own to itself; the writer makes them, and hears of failures.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # The last life may have ended with a failed fsync: the end of the write-ahead log may then be in the memory of the
    # kernel only, though it can be read.  It is copied and begun anew, so that no later write stands behind that.
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreError(f"{path}: another program uses it; end that program and start again")


def _make_tables(connection: sqlite3.Connection, node_id: int, cluster_id: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    meta = Meta(
        format=FORMAT,
        cluster_id=cluster_id,
        node_id=node_id,
        disk_id=secrets.token_hex(16),
        incarnation=0,
        promised_epoch=0,
        log_epoch=0,
        committed=0,
    )
    write_meta(connection, attrs.asdict(meta))
    connection.execute("COMMIT")


def _begin_incarnation(connection: sqlite3.Connection, path: Path) -> StoredState:
    meta = read_meta(connection, path)
    incarnation = meta.incarnation + 1
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(records.SCHEMA)
    write_meta(connection, {"incarnation": incarnation})
    connection.execute("COMMIT")
    (last_seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM log").fetchone()
    return StoredState(
        incarnation=incarnation,
        disk_id=meta.disk_id,
        promised_epoch=meta.promised_epoch,
        log_epoch=meta.log_epoch,
        committed=meta.committed,
        last_seq=last_seq,
    )
