"""The environment of the workers that the command line starts, and of the clients that talk to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from asyncworker.cli.embedded import SERVER_VARIABLE, EmbeddedServer

__all__ = ["celery_command", "client_variables", "use_variables", "without_settings"]


def client_variables(server: EmbeddedServer, state_dir: Path) -> dict[str, str]:
    """Return what a client needs to reach the embedded server and to see the runs in that state folder."""
    return {
        "ASYNCWORKER_BROKER_URL": server.broker_url,
        "ASYNCWORKER_RESULT_URL": server.result_url,
        "ASYNCWORKER_STATE_DIR": str(state_dir),
    }


def without_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return that environment without a setting of ours or of Celery, but for the server program's name.

    Celery's own broker variable wins over any configuration, so it must not be passed on.
    """
    return {
        name: value
        for name, value in env.items()
        if name == SERVER_VARIABLE or not name.startswith(("ASYNCWORKER_", "CELERY_"))
    }


def use_variables(variables: Mapping[str, str]) -> None:
    """Make this process a client of exactly these settings; before the default app is made."""
    kept = without_settings(os.environ)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ.update(variables)


def celery_command(
    python: str, *, name: str, loglevel: str, concurrency: int | None = None, banner: bool = True
) -> list[str]:
    """Return the command line of a worker with the default app."""
    quiet = [] if banner else ["--quiet"]
    command = [
        python,
        "-m",
        "celery",
        *quiet,
        "-A",
        "asyncworker",
        "worker",
        "--loglevel",
        loglevel,
        "--hostname",
        name,
    ]
    # It would spend its first second looking for others on a broker that only it uses.
    command.append("--without-mingle")
    return command if concurrency is None else [*command, "--concurrency", str(concurrency)]
