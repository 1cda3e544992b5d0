"""Which columns of a table that is known by its name only hold JSON, and their values on the way there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import Pool, TableClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.errors import SQLRowsRefused
from asyncworker.sql.rows import Row

__all__ = ["JSONColumns"]

#: Each column of the table, and whether it is of JSON (also by a domain), or of a list of it.
_POSTGRESQL = text(
    "SELECT attname, coalesce(base.typname, own.typname) IN ('json', 'jsonb'), "
    "coalesce(base.typname, own.typname) IN ('_json', '_jsonb') "
    "FROM pg_attribute JOIN pg_type own ON own.oid = atttypid LEFT JOIN pg_type base ON base.oid = own.typbasetype "
    "WHERE attrelid = to_regclass(:quoted) AND attnum > 0 AND NOT attisdropped"
)
_SQLITE = text("SELECT name, upper(type) LIKE '%JSON%', 0 FROM pragma_table_info(:name, :schema)")

_Names = tuple[frozenset[str], frozenset[str]]
#: By pool of connections and table: columns hardly ever change, and items write to one table by the thousand.
_known: WeakKeyDictionary[Pool, dict[str, _Names]] = WeakKeyDictionary()


class JSONColumns:
    """The columns of a table that hold JSON, and how their values are sent.

    Args:
        names: The columns of JSON, and those of lists of it.
        target: The table's name, for errors.
        anywhere: Objects and lists are sent as JSON to other columns as well: SQLite knows no type that takes them.
    """

    def __init__(self, names: _Names, target: str, *, anywhere: bool) -> None:
        self._names, self._lists = names
        self._target = target
        self._anywhere = anywhere

    @classmethod
    async def of(cls, connection: AsyncConnection, table: TableClause, target: str) -> JSONColumns:
        """Ask the database, once a pool and table."""
        known = _known.setdefault(connection.sync_engine.pool, {})
        names = known.get(target)
        if names is None:
            columns = await _ask(connection, table)
            names = frozenset(one[0] for one in columns if one[1]), frozenset(one[0] for one in columns if one[2])
            if columns:  # else it may be made later
                known[target] = names
        return cls(names, target, anywhere=connection.dialect.name == "sqlite")

    def encode(self, rows: Sequence[Row], first: int) -> Sequence[Row]:
        """Return the rows as they are sent.

        A value of such a column becomes JSON; text is taken as JSON already, and ``None`` as no value.

        Args:
            rows: Of one shape.
            first: The number of the first, for errors.

        Raises:
            SQLRowsRefused: JSON has no form for a value.
        """
        names = [name for name in rows[0] if self._anywhere or name in self._names or name in self._lists]
        if not names:
            return rows
        encoded = []
        for number, row in enumerate(rows, first):
            changed = dict(row)
            for name in names:
                value = row[name]
                if name in self._lists and isinstance(value, list | tuple):
                    changed[name] = [self._encoded(one, name, number) for one in value]
                elif name in self._names or (self._anywhere and isinstance(value, dict | list)):
                    changed[name] = self._encoded(value, name, number)
            encoded.append(changed)
        return encoded

    def _encoded(self, value: Any, name: str, number: int) -> Any:
        if value is None or isinstance(value, str):
            return value
        try:
            return msgspec.json.encode(value).decode()
        except (TypeError, ValueError, RecursionError) as exc:
            said = f"{self._target}, row {number:,}, column {name}: {exc}"
            raise SQLRowsRefused(said, table=self._target) from None


async def _ask(connection: AsyncConnection, table: TableClause) -> list[tuple[str, bool, bool]]:
    """Return each column's name, whether it is of JSON, and whether it is of lists of it; none of a missing table."""
    if connection.dialect.name == "postgresql":
        quoted = connection.dialect.identifier_preparer.format_table(table)
        found = await connection.execute(_POSTGRESQL, {"quoted": quoted})
    elif connection.dialect.name == "sqlite":
        where = {"name": table.name, "schema": getattr(table, "schema", None) or "main"}
        found = await connection.execute(_SQLITE, where)
    else:
        return []
    return [(row[0], bool(row[1]), bool(row[2])) for row in found]
