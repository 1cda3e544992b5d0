"""The README's example of HTTP and SQL, as it is written there."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.servers.http import Exchange, running_http_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_orders_are_read_in_pages_and_stored(tmp_path: Path) -> None:
    (orders,) = re.findall(r"```python\n(# orders.py\n.*?)```", README, re.DOTALL)
    (call,) = re.findall(r"`(store_order\.iterate\(.*\))` reads", README)
    database = tmp_path / "shop.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, sku TEXT)")

    def page(exchange: Exchange) -> None:
        number = int(exchange.query.get("page", "1"))
        following = f"{exchange.server.url}/orders?page={number + 1}" if number < 3 else None
        exchange.send({"results": [{"id": 2 * number}, {"id": 2 * number + 1}], "next": following})

    with running_http_server() as server:
        server.on("/orders", page)
        for number in range(2, 8):
            server.on(
                f"/orders/{number}", lambda each: each.send({"id": int(each.path[8:]), "sku": f"A-{each.path[8:]}"})
            )
        program = orders.replace("https://api.example.com", server.url)
        program = program.replace("postgresql://shop@db.example.com/shop", f"sqlite:///{database}")
        program += f"\nimport asyncio\nasyncio.run({call}.run())\n"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
        )
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT * FROM orders ORDER BY id").fetchall()
    assert rows == [(number, f"A-{number}") for number in range(2, 8)]
