"""The first login of a pool goes ahead: connections that are made beside it log in once the server has let it in.

Servers count refused logins, and lock out who has too many of them. Connecting and the key exchange, which take most
of the round trips, go on side by side.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

__all__ = ["FIRST_LOGIN", "LOGIN_GATE", "hold_login", "open_gate"]

#: Done once the first login is over; set where a connection is made beside it. ``None``: nobody is to be waited for.
LOGIN_GATE: ContextVar[asyncio.Future[None] | None] = ContextVar("sftp_login_gate", default=None)
#: The same, where the first connection is made.
FIRST_LOGIN: ContextVar[asyncio.Future[None] | None] = ContextVar("sftp_first_login", default=None)


def open_gate() -> None:
    """Let the others log in, if this is the first connection: the server has let it in, or it has failed."""
    login = FIRST_LOGIN.get()
    if login is not None and not login.done():
        login.set_result(None)


def hold_login(connection: Any) -> None:
    """Have a connection of asyncssh wait for the gate before it tries to log in."""
    gate = LOGIN_GATE.get()
    if gate is None or gate.done():
        return
    log_in = connection.try_next_auth

    def wait(**how: Any) -> None:
        connection.try_next_auth = log_in
        if gate.done():
            log_in(**how)
        else:
            gate.add_done_callback(lambda _: log_in(**how))

    connection.try_next_auth = wait
