"""One demo, from the first server to the last checksum."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from asyncworker.cli.demo_files import compare, write_files
from asyncworker.cli.demo_folder import PAUSE_VARIABLE, DemoFolder, DemoRecord
from asyncworker.cli.demo_view import DemoView, Summary
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.cli.environment import celery_command, client_variables, use_variables
from asyncworker.cli.processes import Child
from asyncworker.private_files import make_private_folder

if TYPE_CHECKING:
    from asyncworker import IterateResult, Progress

__all__ = ["DemoRun"]

CONCURRENCY = 256

#: With --crash the first worker takes so few files at once that it needs this many rounds, and rests in each: a moment
#: half-way that can be hit, on a slow machine and on a fast one.
CRASH_ROUNDS = 20
CRASH_PAUSE_S = 0.25

_START_S = 60.0
_POLL_S = 0.05
_SHOWN_FAILURES = 3


class DemoRun:
    """The servers, the worker and the fan-out of one demo.

    Args:
        folder: The work folder, held by this process.
        view: Where to say what happens.
        files: How many files.
        stack: Ends the children, in reverse order, however the demo ends.
    """

    def __init__(self, folder: DemoFolder, view: DemoView, files: int, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._view = view
        self._files = files
        self._stack = stack

    def start(self, *, slowed: bool) -> None:
        """Start the broker, the SFTP server and the worker, and make the files meanwhile."""
        folder = self._folder
        folder.forget_broker()
        folder.server_file.unlink(missing_ok=True)
        for needed in (folder.source, folder.received, folder.keys, folder.state, folder.logs):
            make_private_folder(needed, tighten=True)
        self._stack.callback(folder.sweep)  # runs when no worker writes any more
        folder.sweep()
        broker = self._stack.enter_context(EmbeddedServer(folder.broker, share=False))
        use_variables(client_variables(broker, folder.state) | {"ASYNCWORKER_INCLUDE": "asyncworker.cli.demo_tasks"})
        self._server = self._start_server()
        self._worker = self._start_worker("worker-1", slowed=slowed)
        # Only now, since the default app reads the environment when it is made; and while the worker starts.
        importlib.import_module("asyncworker.cli.demo_tasks")
        with self._view.bar("making files", self._files, lines=1) as update:
            for number in write_files(folder.source, self._files):
                update(number + 1)
        self._wait_for_server()
        self._wait_for_worker()

    def run(self, former: DemoRecord | None, *, crash: bool) -> bool:
        """Fetch everything, check every byte, show the table; return whether all files are there and right."""
        result, before = self._begin(former, crash=crash)
        began_at = time.monotonic()
        attempt = before.attempt + 1 if before is not None and before.state != "done" else 1
        with self._view.bar("fetching", self._files) as update:
            if crash and before is None:
                attempt = self._crash(result, update)
            progress = self._watch(result, update, attempt=attempt)
        seconds = time.monotonic() - began_at
        # Nothing runs any more: a warm shutdown waits for nothing, and so is the quicker one.
        self._worker.stop_signal = signal.SIGTERM
        for failure in result.errors()[:_SHOWN_FAILURES]:
            self._view.say(f"failed: {failure}")
        if progress.error:
            self._view.say(f"the run {progress.state}: {progress.error}")
        found = compare(self._folder.received, self._folder.source, self._files)
        self._view.say(str(found))
        self._view.table(
            Summary(
                files=found.same,
                size_bytes=found.same_bytes,
                seconds=seconds,
                fetched=progress.done - (before.done if before is not None else 0),
                resumed=progress.resumed,
                failed=progress.failed,
            )
        )
        if crash and before is None:
            self._view.say("seconds and files/s include the slowed first half, the kill and the start of a new worker")
        if progress.state == "done" and not found.complete:
            # Someone else has changed the files: nothing is left to continue, so the next demo begins afresh.
            self._folder.record_file.unlink()
        return found.complete and progress.state == "done"

    def _begin(self, former: DemoRecord | None, *, crash: bool) -> tuple[IterateResult, Progress | None]:
        """Send the run, or send an unfinished one again; the second value is how far that one had come."""
        # Not at the top of the file: see start().
        from asyncworker import IterateResult
        from asyncworker.cli.demo_tasks import fetch, list_files

        folder = str(self._folder.root)
        if former is not None:
            result = IterateResult(former.run_id)  # of the current app, which importing the tasks has made
            self._stack.callback(_let_go, result)
            before = result.progress()
            if before.attempt:  # else no worker has ever seen it
                begun = former.started_at.astimezone()
                self._view.say(
                    f"continuing the run of {begun:%Y-%m-%d %H:%M:%S}: {before.done:,} of {self._files:,} done"
                )
                return result if before.state == "done" else result.resume(force=True), before
        concurrency = max(1, self._files // CRASH_ROUNDS) if crash else CONCURRENCY
        run = (
            fetch.partial(folder=folder)
            .options(concurrency=min(concurrency, CONCURRENCY), key="path", retries=2)
            .iterate(path=list_files.s(folder))
        )
        record = DemoRecord(files=self._files, run_id=str(uuid.uuid4()), started_at=datetime.now(UTC))
        # Noted before it is sent: a run that was never sent is found out, one that was never noted would be lost.
        self._folder.save(record)
        result = run.apply_async(task_id=record.run_id)
        self._stack.callback(_let_go, result)
        return result, None

    def _crash(self, result: IterateResult, update: Callable[[int], None]) -> int:
        """Kill the worker half-way, start another, resume; return the number of the run's attempt to watch."""
        self._view.say(f"slowed for the show: the worker rests {CRASH_PAUSE_S} s before each file, until it is killed")
        progress = self._watch(result, update, until=self._files // 2)
        if progress.state != "running":
            return progress.attempt
        self._worker.kill()
        self._view.say(f"killed the worker, process {self._worker.pid}, at {progress.done:,} of {self._files:,} files")
        self._folder.sweep()
        self._worker = self._start_worker("worker-2", slowed=False)
        self._wait_for_worker()
        self._view.say(f"another worker, process {self._worker.pid}, resumes run {result.id}")
        result.resume(force=True)  # no other one runs it: it need not be waited for until that is certain
        return progress.attempt + 1

    def _watch(
        self, result: IterateResult, update: Callable[[int], None], *, attempt: int = 1, until: int | None = None
    ) -> Progress:
        """Show the run's progress until that attempt of it has ended, or until so many files are done."""
        while True:
            self._check_children()
            progress = result.progress()
            update(progress.done)
            # Before a worker has begun that attempt, the store still tells how the one before ended.
            begun = progress.attempt >= attempt
            if begun and (progress.ended or (until is not None and progress.done >= until)):
                return progress
            time.sleep(_POLL_S)

    def _start_server(self) -> Child:
        folder = self._folder
        arguments = {
            "--root": folder.source,
            "--keys": folder.keys,
            "--ready": folder.server_file,
            "--opened": folder.opened_log,
        }
        command = [sys.executable, "-m", "asyncworker.cli.sftp_server"]
        command += [str(part) for pair in arguments.items() for part in pair]
        return self._stack.enter_context(Child(command, log=folder.logs / "sftp-server.log"))

    def _start_worker(self, name: str, *, slowed: bool) -> Child:
        env = dict(os.environ)
        if slowed:
            env[PAUSE_VARIABLE] = str(CRASH_PAUSE_S)
        return self._stack.enter_context(
            Child(
                celery_command(sys.executable, name=f"demo-{name}@%h", loglevel="INFO"),
                env=env,
                log=self._folder.logs / f"{name}.log",
                # Celery's cold shutdown: a warm one would fetch the rest first.
                stop_signal=signal.SIGQUIT,
            )
        )

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._folder.server_file.exists():
            self._check_children()
            if time.monotonic() > deadline:
                raise _failed("the SFTP server does not get ready", self._server)
            time.sleep(_POLL_S)

    def _wait_for_worker(self) -> None:
        if not self._worker.wait_for_log(" ready.", _START_S):
            raise _failed("the worker does not get ready", self._worker)

    def _check_children(self) -> None:
        for name, child in (("worker", self._worker), ("SFTP server", self._server)):
            if child.returncode is not None:
                raise _failed(f"the {name} has ended with exit code {child.returncode}", child)


def _let_go(result: Any) -> None:
    # While the broker lives: a result that is collected later tries for long to reach it, to unsubscribe.
    result.backend.remove_pending_result(result)
    result.backend = None


def _failed(what: str, child: Child) -> click.ClickException:
    return click.ClickException(f"{what}; its log, {child.log_path}, ends with:\n{child.log_tail()}")
