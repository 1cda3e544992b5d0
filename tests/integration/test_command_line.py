"""Every command says in one line what a user can mend: servers that are away, wrong URLs, unknown ids, little room."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asyncworker.cli import COMMANDS, main
from asyncworker.store import DeadLetter, Deliveries, RunRequest, open_store
from tests.servers.command import asyncworker
from tests.servers.worker import ROOT

NOBODY = "redis://:s3cret@127.0.0.1:1/0"
ID = "0c1f2f0e-7f5c-4f5e-9b0b-8f9a5f0a8d11"
APP = "tests.integration.own_app"


@pytest.fixture
def environment(state_dir: Path) -> dict[str, str]:
    return {"ASYNCWORKER_BROKER_URL": NOBODY, "ASYNCWORKER_STATE_DIR": str(state_dir)}


@pytest.fixture
def a_run(state_dir: Path) -> str:
    """A run with a name, of a task that no app has."""
    column = {"name": "x", "values": [1]}
    request = {
        "task": "shop.restock",
        "partial": {},
        "source": {"kind": "product", "columns": [column]},
        "options": {"name": "spring stock"},
    }

    async def begin() -> None:
        store = await open_store(f"sqlite+aiosqlite:///{state_dir / 'store.sqlite'}")
        await store.begin_run(
            RunRequest(
                run_id=ID,
                task="shop.restock",
                fingerprint="f.s",
                total=17_000,
                request=json.dumps(request).encode(),
                started_at=datetime.now(UTC),
            )
        )
        await store.close()

    asyncio.run(begin())
    return ID


AWAY = "the broker at redis://:***@127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("top", "--once"), AWAY),
        (("limits", "list"), AWAY),
        (("limits", "set", "api", "3"), AWAY),
        (("runs", "resume", ID), AWAY),
        (("runs", "show", "nobody"), "no run 'nobody' in the store"),
        (("dead", "show", "nobody"), "no dead task 'nobody' in the store"),
        (("dead", "replay", "nobody"), "no dead task 'nobody' in the store"),
        (("runs", "-A", "no.such", "list"), "no Celery app 'no.such'"),
        (("runs", "list", "-A", "no.such"), "no Celery app 'no.such'"),
        (("health",), "ASYNCWORKER_HEALTH_FILE is not set"),
        (("dev", "no_such_module"), "cannot import no_such_module"),
    ],
)
@pytest.mark.promise("command-fails-in-one-line")
def test_what_a_user_can_mend_is_told_in_one_line(
    environment: dict[str, str], a_run: str, arguments: tuple[str, ...], said: str
) -> None:
    ended = asyncworker(*arguments, env=environment)
    assert ended.returncode in (1, 2), ended
    line = ended.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert said in line
    assert "Traceback" not in ended.stderr
    assert "s3cret" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "url", ["redi://:s3cret@h/0", "redis://:s3cret@h:port/0", "redis://h/0?password=s3cret", "redis://:s3cret@h/0?db=x"]
)
@pytest.mark.parametrize("setting", ["ASYNCWORKER_BROKER_URL", "ASYNCWORKER_LIMITS_URL"])
def test_a_url_of_limits_that_cannot_be_is_told_without_a_traceback(
    environment: dict[str, str], setting: str, url: str
) -> None:
    for arguments in (("limits", "list"), ("limits", "set", "api", "3")):
        ended = asyncworker(*arguments, env=environment | {setting: url})
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in ended.stderr
        assert "s3cret" not in ended.stdout + ended.stderr


def test_sentinels_without_a_master_are_told_in_one_line(environment: dict[str, str]) -> None:
    url = "sentinel://:s3cret@127.0.0.1:1;sentinel://:s3cret@127.0.0.1:1"
    ended = asyncworker("top", "--once", env=environment | {"ASYNCWORKER_BROKER_URL": url})
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "master_name" in line
    assert "s3cret" not in line


@pytest.mark.parametrize("url", ["redi://:s3cret@h/0", "redis://:s3cret@h:port/0"])
@pytest.mark.parametrize("arguments", [("top", "--once"), ("runs", "resume", ID)])
def test_a_broker_url_that_cannot_be_is_told(
    environment: dict[str, str], a_run: str, arguments: tuple[str, ...], url: str
) -> None:
    ended = asyncworker(*arguments, env=environment | {"ASYNCWORKER_BROKER_URL": url})
    (line,) = ended.stderr.splitlines()
    assert line.startswith(("Error: broker_url is 'redi", "Error: result_backend is 'redi"))
    assert ended.returncode == 1
    assert "s3cret" not in line


@pytest.mark.parametrize(
    "url", ["postgresql+asyncpg://u:s3cret@127.0.0.1:1/d", "nothing//u:s3cret@h", "sqlite+aiosqlite:////dev/null/a/b"]
)
@pytest.mark.parametrize("arguments", [("runs", "list"), ("dead", "list")])
def test_a_store_that_cannot_be_reached_is_told(
    environment: dict[str, str], arguments: tuple[str, ...], url: str
) -> None:
    ended = asyncworker(*arguments, env=environment | {"ASYNCWORKER_STORE_URL": url})
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: store")
    assert ended.returncode == 1
    assert "s3cret" not in line


def test_doctor_names_what_is_away_without_its_password(environment: dict[str, str]) -> None:
    for url in (NOBODY, "redi://:s3cret@h/0"):
        ended = asyncworker("doctor", "--timeout", "30", env=environment | {"ASYNCWORKER_BROKER_URL": url})
        assert ended.returncode == 1
        assert "broken   broker: " in ended.stdout
        assert "s3cret" not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr


def test_an_empty_store_is_no_error(environment: dict[str, str]) -> None:
    ended = asyncworker("runs", "list", env=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "no runs in the store\n")


def test_runs_have_their_names_and_those_of_other_apps_are_left_out_where_one_is_named(
    environment: dict[str, str], a_run: str
) -> None:
    listed = asyncworker("runs", "list", env=environment).stdout
    assert all(text in listed for text in (a_run, "spring stock", "shop.restock", "17,000"))
    for arguments in (("-A", APP, "list"), ("list", "-A", APP)):
        ended = asyncworker("runs", *arguments, env=environment)
        assert (ended.stdout, ended.stderr) == ("", "no runs in the store; --all shows those of other apps\n")
    assert a_run in asyncworker("runs", "-A", APP, "list", "--all", env=environment).stdout


def in_terminal(columns: int, *arguments: str, env: dict[str, str], until: Callable[[str], bool]) -> str:
    """Run the command on a terminal of that width; end it once its output is what it should be."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "asyncworker", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown, give_up_at_s = "", time.monotonic() + 120
        try:
            while not until(shown) and time.monotonic() < give_up_at_s:
                if select.select([ours], [], [], 1)[0]:
                    shown += os.read(ours, 65536).decode()
        except OSError:  # it has ended
            pass
        process.send_signal(signal.SIGINT)
        process.wait(120)
    os.close(ours)
    return shown


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_an_id_is_never_broken(environment: dict[str, str], a_run: str, columns: int) -> None:
    shown = in_terminal(columns, "runs", "list", env=environment, until=lambda text: "20" in text.partition(ID)[2])
    assert ID in shown
    assert "spring stock" in shown
    assert "17,000" in shown


@pytest.fixture
def a_letter(state_dir: Path) -> str:
    """A message that could not be read: nobody knows its task or queue."""

    async def bury() -> None:
        store = await open_store(f"sqlite+aiosqlite:///{state_dir / 'store.sqlite'}")
        letter = DeadLetter(
            task_id=f"message-{'a1b2' * 8}",
            task="",
            queue="",
            starts=0,
            dead_at=datetime.now(UTC),
            history=[],
            arguments=b"",
            reason="DecodeError: not a message",
            message=b"garbage",
        )
        await Deliveries(store).bury(letter)
        await store.close()

    asyncio.run(bury())
    return f"message-{'a1b2' * 8}"


@pytest.mark.parametrize("columns", [50, 80, 200])
def test_the_id_of_a_dead_letter_is_never_broken(environment: dict[str, str], a_letter: str, columns: int) -> None:
    shown = in_terminal(columns, "dead", "list", env=environment, until=lambda text: "not a message" in text)
    assert a_letter in shown
    assert "DecodeError: not a message" in shown


def test_a_dead_letter_without_a_queue_is_shown_without_one(environment: dict[str, str], a_letter: str) -> None:
    first = asyncworker("dead", "show", a_letter, env=environment).stdout.splitlines()[0]
    assert first.startswith(f"{a_letter}, given up at 20")


@pytest.mark.parametrize("columns", [40, 80])
def test_watch_shows_the_count_in_little_room(environment: dict[str, str], a_run: str, columns: int) -> None:
    shown = in_terminal(columns, "runs", "watch", ID, env=environment, until=lambda text: "0/17000" in text)
    assert "0/17000" in shown


def test_a_reader_that_has_enough_ends_it_without_a_word(environment: dict[str, str], a_run: str) -> None:
    command = [sys.executable, "-m", "asyncworker", "runs", "watch", "--interval", "0.1", ID]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("running")
        process.stdout.close()
        assert process.wait(120) == 141
        assert process.stderr.read() == ""


# -- the program itself ----------------------------------------------------------------------------------------------


def test_it_can_be_run_as_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "asyncworker", "--version"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert ended.stdout.startswith("asyncworker, version ")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_celery(option: str) -> None:
    code = (
        "import sys\nfrom asyncworker.__main__ import main\n"
        f"sys.argv[1:] = [{option!r}]\n"
        "try:\n    main()\nfinally:\n    print({'celery', 'kombu', 'sqlalchemy', 'asyncssh', 'rich'} & {*sys.modules})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "set()"


def test_help_of_all_commands_is_that_of_each() -> None:
    for name, text in COMMANDS.items():
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None and command.help is not None
        assert " ".join(command.help.split()).startswith(text), name


@pytest.mark.parametrize("module", ["click", "celery", "asyncworker.errors", "asyncworker.cli.runs", "rich.console"])
def test_ctrl_c_while_it_is_imported_leaves_no_traceback(module: str, environment: dict[str, str]) -> None:
    """The interrupt comes at the moment when that module is looked for."""
    code = (
        "import os, signal, sys, time\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from asyncworker.__main__ import main\n"
        "sys.argv[1:] = ['runs', 'list']\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
