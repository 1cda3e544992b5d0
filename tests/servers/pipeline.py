"""What the pipeline of tests/fundamentals/pipeline.py runs between: a folder of orders, and a table for them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg

from tests.servers.postgres import Postgres
from tests.servers.sftp import SFTPServer

__all__ = ["Orders"]


class Orders:
    """A folder of XML files on an SFTP server, and an empty table in PostgreSQL.

    Args:
        folder: Where the files are made.
        sftp: Serves them.
        postgres: Has the table.
        files: How many.
        per_file: Orders in each.
    """

    def __init__(self, folder: Path, sftp: SFTPServer, postgres: Postgres, *, files: int, per_file: int) -> None:
        self.folder = folder
        self.count = files * per_file
        self.database = postgres.add_database()
        self.env = {
            "SFTP_HOST": sftp.host,
            "SFTP_PORT": str(sftp.port),
            "SFTP_USERNAME": sftp.username,
            "SFTP_PASSWORD": sftp.password,
            "SFTP_KNOWN_HOSTS": str(sftp.known_hosts),
            "DATABASE_URL": postgres.url(self.database),
        }
        self._postgres = postgres
        folder.mkdir()
        for file in range(files):
            orders = "".join(
                f'<order number="{number}"><sku>A-{number % 100}</sku><amount>{number}</amount></order>'
                for number in range(file * per_file, (file + 1) * per_file)
            )
            (folder / f"{file:06}.xml").write_text(f"<orders>{orders}</orders>")
        postgres.execute(
            # Counts what is written to each row beside what is in it: an order that is stored again says so.
            "CREATE TABLE orders (number INTEGER PRIMARY KEY, sku TEXT NOT NULL, amount INTEGER NOT NULL);"
            "CREATE TABLE written (number INTEGER NOT NULL);"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO written VALUES (NEW.number); RETURN NEW; END $$;"
            "CREATE TRIGGER note AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();",
            self.database,
        )

    def wait_until_left(self) -> None:
        """Wait until nobody is connected to the database."""
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while self.query(others) != [(0,)]:
            time.sleep(0.02)

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Ask the database, past everything that is tested."""

        async def ask() -> list[tuple[object, ...]]:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=self._postgres.port, user="postgres", database=self.database
            )
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(ask())
