"""How a database is reached: everything that tells one engine from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from asyncworker.errors import SettingsError
from asyncworker.redaction import redacted

__all__ = ["Options"]

#: The drivers that are meant where a URL names none.
_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the database is, and how much at once. Compares by value; the password is not in its ``repr``.

    Attributes:
        url: An SQLAlchemy URL; ``postgresql://`` and ``sqlite://`` mean the async drivers.
        connections: Connections at most.
        wait_s: Seconds that a task waits for one to come free.
        connect_timeout_s: Seconds for a connection to be ready; on SQLite, for a lock to come free.
        most_age_s: A connection that is older is not used again.
        check_after_s: One that was idle for longer is asked for a sign of life before it is used.
        application_name: What PostgreSQL calls these connections.
    """

    url: URL
    connections: int = 10
    wait_s: float = 30.0
    connect_timeout_s: float = 30.0
    most_age_s: float = 1800.0
    check_after_s: float = 5.0
    application_name: str = "asyncworker"

    def __post_init__(self) -> None:
        if self.sqlite and self.url.database in (None, "", ":memory:"):
            raise SettingsError(f"SQL url is {self.shown!r}: each connection would have its own; give it a file")
        if not isinstance(self.connections, int) or self.connections < 1:
            raise SettingsError(f"SQL connections is {self.connections!r}: a whole number of 1 or more is needed")
        for name in ("wait_s", "connect_timeout_s", "most_age_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"SQL {name} is {getattr(self, name)!r}: more than 0 is needed")
        if not self.check_after_s >= 0:
            raise SettingsError(f"SQL check_after_s is {self.check_after_s!r}: 0 or more is needed")

    @classmethod
    def of(cls, url: str | URL, **others: Any) -> Options:
        """Make options from what a caller writes.

        Raises:
            SettingsError: An option that does not exist, or a value that is not allowed.
        """
        for name in others:
            if name not in cls.__dataclass_fields__:
                known = ", ".join(sorted(cls.__dataclass_fields__))
                raise SettingsError(f"SQL option {name!r} does not exist; known: {known}")
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):  # ValueError: its port
            raise SettingsError("SQL url is not a database URL; expected DIALECT://USER@HOST/DATABASE") from None
        return cls(url=parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername)), **others)

    @property
    def sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def shown(self) -> str:
        """The URL as it is named in messages."""
        return redacted(self.url.render_as_string(hide_password=True))

    def arguments(self) -> dict[str, Any]:
        """Return what SQLAlchemy's ``create_async_engine`` takes."""
        connect: dict[str, Any] = {}
        if self.sqlite or self.url.get_driver_name() == "asyncpg":
            connect["timeout"] = self.connect_timeout_s
        if self.url.get_driver_name() == "asyncpg":
            connect["server_settings"] = {"application_name": self.application_name}
        return {
            "connect_args": connect,
            # Errors are logged, and kept as the failures of items: rows are nobody else's business.
            "hide_parameters": True,
            "pool_size": self.connections,
            "max_overflow": 0,
            "pool_timeout": self.wait_s,
            "pool_recycle": self.most_age_s,
            "pool_use_lifo": True,
        }
