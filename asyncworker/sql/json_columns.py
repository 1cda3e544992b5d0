"""Which columns of a table that is known by its name only hold JSON, and their values on the way there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from sqlalchemy import Engine, TableClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from asyncworker.errors import SQLRowsRefused
from asyncworker.sql.rows import Row

__all__ = ["JSONColumns"]

_POSTGRESQL = text(
    "SELECT attname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
    "WHERE attrelid = to_regclass(:quoted) AND attnum > 0 AND NOT attisdropped AND typname IN ('json', 'jsonb')"
)
_SQLITE = text("SELECT name FROM pragma_table_info(:name, :schema) WHERE upper(type) LIKE '%JSON%'")

#: By engine and table: columns hardly ever change, and items write to one table by the thousand.
_known: WeakKeyDictionary[Engine, dict[str, frozenset[str]]] = WeakKeyDictionary()


class JSONColumns:
    """The columns of a table that hold JSON, and how their values are sent.

    Args:
        names: The columns.
        target: The table's name, for errors.
        anywhere: Objects and lists are sent as JSON to other columns as well: SQLite knows no type that takes them.
    """

    def __init__(self, names: Collection[str], target: str, *, anywhere: bool) -> None:
        self._names = names
        self._target = target
        self._anywhere = anywhere

    @classmethod
    async def of(cls, connection: AsyncConnection, table: TableClause, target: str) -> JSONColumns:
        """Ask the database, once an engine and table."""
        dialect, known = connection.dialect, _known.setdefault(connection.engine.sync_engine, {})
        if target not in known:
            known[target] = frozenset(await _ask(connection, table))
        return cls(known[target], target, anywhere=dialect.name == "sqlite")

    def encode(self, rows: Sequence[Row], first: int) -> Sequence[Row]:
        """Return the rows as they are sent.

        A value of such a column becomes JSON; text is taken as JSON already, and ``None`` as no value.

        Args:
            rows: Of one shape.
            first: The number of the first, for errors.

        Raises:
            SQLRowsRefused: JSON has no form for a value.
        """
        names = self._names
        if self._anywhere:
            names = {name for name, value in rows[0].items() if name in names or isinstance(value, dict | list)}
        names = [name for name in rows[0] if name in names]
        if not names:
            return rows
        encoded = []
        for number, row in enumerate(rows, first):
            changed = dict(row)
            for name in names:
                changed[name] = self._encoded(row[name], name, number)
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


async def _ask(connection: AsyncConnection, table: TableClause) -> list[str]:
    if connection.dialect.name == "postgresql":
        quoted = connection.dialect.identifier_preparer.format_table(table)
        return [*(await connection.execute(_POSTGRESQL, {"quoted": quoted})).scalars()]
    if connection.dialect.name == "sqlite":
        where = {"name": table.name, "schema": getattr(table, "schema", None) or "main"}
        return [*(await connection.execute(_SQLITE, where)).scalars()]
    return []
