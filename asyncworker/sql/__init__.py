"""SQL for thousands of tasks: one SQLAlchemy engine a process and database, rows in bulk, large results as a source.

::

    engine = await sql.engine("postgresql://...")   # one a process, shared by all tasks; an AsyncEngine
    await sql.upsert_rows(engine, "orders", rows, key=["id"])
    async for order in sql.stream_rows(engine, "SELECT * FROM orders"):
        ...

Files: options (what tells one engine from another), engine (making and sharing them), rows (what may be written),
writing (insert, upsert, COPY), reading (server-side cursors), failures (what went wrong, as errors of ours).
"""

from asyncworker.sql.engine import engine, open_engine
from asyncworker.sql.reading import stream_rows
from asyncworker.sql.writing import copy_rows, insert_rows, upsert_rows

__all__ = ["copy_rows", "engine", "insert_rows", "open_engine", "stream_rows", "upsert_rows"]
