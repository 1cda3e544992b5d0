"""Put a whole file in place of another one, so that at every step one of the two is there, or can be brought back.

Where the server offers ``posix-rename@openssh.com``, that is one request. A rename of version 3 replaces nothing
(draft-ietf-secsh-filexfer-02, section 6.5): there the old file is moved aside, the new one renamed, and the old one
removed last; if the new one cannot be renamed, the old one is moved back. A server that answers "permission denied"
has nothing touched.

Each procedure is a generator: it yields a request and gets its answer. :class:`Procedure` runs one on a session with
callbacks, :class:`ProcedureJob` as a job of the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
from collections.abc import Callable, Generator
from functools import partial

from msgspec import Struct

from asyncworker.errors import SFTPConnectionLost, SFTPError, SFTPFileNotFound
from asyncworker.sftp import packets
from asyncworker.sftp.names import remote_text
from asyncworker.sftp.packets import Attributes, Status
from asyncworker.sftp.protocol import Answer, Owner, SFTPProtocol
from asyncworker.sftp.session import Released, Session, refusal
from asyncworker.sftp.temporary_names import aside_name

__all__ = ["Doubt", "Outcome", "Placing", "Procedure", "ProcedureJob", "Send", "Steps", "log_kept", "put_back"]

logger = logging.getLogger(__name__)

#: Sends one request with this callback and this owner.
Send = Callable[[Callable[[Answer], None], Owner], None]
Steps = Generator[Send, Answer, "Outcome"]

#: How often to give way to another writer of the same file.
_ROUNDS = 8
#: Refusals of a rename that moving the old file aside would not change.
_FINAL = (packets.NO_SUCH_FILE, packets.PERMISSION_DENIED, packets.UNSUPPORTED)


class Outcome(Struct, frozen=True):
    """How a procedure ended.

    Attributes:
        status: OK: the file is in place; else the refusal.
        kept: Paths of files that were there before, where they could be neither moved back nor removed.
    """

    status: Status
    kept: tuple[bytes, ...] = ()

    def error(self, action: str, address: str, path: str) -> SFTPError:
        """Make the error of a refusal; it names what was kept."""
        error = refusal(self.status, action, address, path)
        if not self.kept:
            return error
        message = f"{error}; the file that was there is kept as {_shown(self.kept)}"
        # A file that is not found is looked for again, and this would be forgotten.
        kind = SFTPError if isinstance(error, SFTPFileNotFound) else type(error)
        return kind(message, host=address, path=path)


class Placing:
    """The procedure that gives ``whole`` the name ``goal``.

    Args:
        protocol: Of the session on which it runs.
        whole: Path of the new file.
        goal: Path that it gets; a file or a link there is replaced, a folder is not.

    Attributes:
        aside: Where the old file is, or may be, while it is neither in its place nor removed; what stays there when the
            steps are over, because the connection was lost, is for :func:`put_back`.
    """

    def __init__(self, protocol: SFTPProtocol, whole: bytes, goal: bytes) -> None:
        self.aside: bytes | None = None
        self._protocol = protocol
        self._whole = whole
        self._goal = goal
        self._kept: tuple[bytes, ...] = ()

    def steps(self) -> Steps:
        """All of it."""
        in_one_step = self._protocol.renames_over
        refused = yield partial(self._protocol.rename, self._whole, self._goal)
        return (yield from self.steps_after(refused, in_one_step))

    def steps_after(self, answer: Status, in_one_step: bool) -> Steps:
        """Return what follows the first rename.

        Args:
            answer: To :meth:`SFTPProtocol.rename`.
            in_one_step: Whether that was a rename which replaces.
        """
        if in_one_step and answer.code == packets.UNSUPPORTED:  # offered, and not there
            self._protocol.forget_renames_over()
            answer = yield self._rename(self._whole, self._goal)
        elif in_one_step:
            return Outcome((yield from self._with_reason(answer)))
        for _ in range(_ROUNDS):
            if answer.code == packets.OK or answer.code in _FINAL:
                break
            there = yield partial(self._protocol.lstat, self._goal)
            if isinstance(there, Status):
                if there.code != packets.NO_SUCH_FILE:
                    break
                again = yield self._rename(self._whole, self._goal)  # another writer may have moved it aside
                if again.code == answer.code:
                    still = yield partial(self._protocol.lstat, self._goal)
                    if isinstance(still, Status):  # it is not for a file that is there that the server refuses
                        break
                answer = again
                continue
            if (yield from self._is_folder(there)):
                return Outcome((yield from self._with_reason(answer)), self._kept)
            ended = yield from self._swap()
            if isinstance(ended, Outcome):
                return ended
            answer = ended
        return Outcome(answer, self._kept)

    def _with_reason(self, answer: Status) -> Generator[Send, Answer, Status]:
        """Return a refusal; it says so if a folder has that name: version 3 has no status for that."""
        if answer.code != packets.FAILURE or answer.message.lower() not in ("", "failure"):
            return answer
        there = yield partial(self._protocol.lstat, self._goal)
        if isinstance(there, Status) or not there.is_dir:
            return answer
        return Status(answer.code, "a folder of that name is there")

    def _swap(self) -> Generator[Send, Answer, Outcome | Status]:
        """Move the old file aside and the new one in its place; returns a Status for another round."""
        folder, slash, name = self._goal.rpartition(b"/")
        self.aside = aside = folder + slash + aside_name(name)
        moved = yield self._rename(self._goal, aside)
        if moved.code != packets.OK:
            self.aside = None
            if moved.code == packets.NO_SUCH_FILE:  # another writer has moved it aside
                answer: Status = yield self._rename(self._whole, self._goal)
                return answer
            return Outcome(moved, self._kept)
        answer = yield self._rename(self._whole, self._goal)
        if answer.code == packets.OK:
            with contextlib.suppress(SFTPConnectionLost):  # it is in place, whatever becomes of the old one
                yield from self._remove(aside)
            return Outcome(answer, self._kept)
        back = yield self._rename(aside, self._goal)
        if back.code == packets.OK:
            self.aside = None
            return Outcome(answer, self._kept)
        there = yield partial(self._protocol.lstat, self._goal)
        if isinstance(there, Status):
            self.aside = None
            if back.code == packets.NO_SUCH_FILE and (yield from _has_gone(self._protocol, aside)):
                return Outcome(answer, self._kept)  # another run has put it back, or has replaced it
            return Outcome(answer, (*self._kept, aside))
        if not (yield from _is_there(self._protocol, self._goal)):
            self.aside = None
            return Outcome(answer, (*self._kept, aside))
        # Another writer has put a whole file there, which replaces the one that was moved aside.
        yield from self._remove(aside)
        return answer

    def _remove(self, aside: bytes) -> Generator[Send, Answer, None]:
        removed = yield partial(self._protocol.remove, aside)
        self.aside = None
        if removed.code not in (packets.OK, packets.NO_SUCH_FILE):
            self._kept += (aside,)

    def _is_folder(self, there: Attributes) -> Generator[Send, Answer, bool]:
        if there.mode is not None and stat.S_IFMT(there.mode):
            return there.is_dir
        opened = yield partial(self._protocol.opendir, self._goal)  # a rename would move a folder aside as well
        if isinstance(opened, Status):
            return False
        yield partial(self._protocol.close, opened)
        return True

    def _rename(self, old: bytes, new: bytes) -> Send:
        return partial(self._protocol.rename_plain, old, new)


def log_kept(address: str, goal: bytes, kept: tuple[bytes, ...]) -> None:
    """Log that a file was replaced, and that the server would not remove the one before it."""
    logger.warning(
        "%s: %s was replaced; the file that was there cannot be removed, and is kept as %s",
        address, remote_text(goal), _shown(kept),
    )  # fmt: skip


def put_back(protocol: SFTPProtocol, aside: bytes, goal: bytes) -> Steps:
    """Return the steps that bring a file back after the connection was lost while it was moved aside.

    If there is a file under its name again, what is aside was replaced by that and is removed.
    """
    answer = Status(packets.NO_SUCH_FILE)
    for _ in range(_ROUNDS):
        there = yield partial(protocol.lstat, goal)
        if not isinstance(there, Status):
            if not (yield from _is_there(protocol, goal)):
                return Outcome(Status(packets.FAILURE, "there may be no file of that name"), (aside,))
            answer = yield partial(protocol.remove, aside)
            break
        if there.code != packets.NO_SUCH_FILE:
            return Outcome(there, (aside,))
        answer = yield partial(protocol.rename_plain, aside, goal)
        if answer.code in (packets.OK, *_FINAL):
            break
    if answer.code == packets.OK or (answer.code == packets.NO_SUCH_FILE and (yield from _has_gone(protocol, aside))):
        return Outcome(Status(packets.OK))
    return Outcome(answer, (aside,))


def _is_there(protocol: SFTPProtocol, path: bytes) -> Generator[Send, Answer, bool]:
    """Return whether a file exists for certain: some servers answer LSTAT from a cache."""
    opened = yield partial(protocol.open, path)
    if isinstance(opened, Status):
        return False
    yield partial(protocol.close, opened)
    return True


def _has_gone(protocol: SFTPProtocol, path: bytes) -> Generator[Send, Answer, bool]:
    """Return whether nothing has that name; "no such file" from a rename may mean either name."""
    there = yield partial(protocol.lstat, path)
    return isinstance(there, Status) and there.code == packets.NO_SUCH_FILE


def _shown(paths: tuple[bytes, ...]) -> str:
    return ", ".join(map(remote_text, paths))


class Doubt:
    """Record that an earlier try may have put its file in place: its connection was lost before the answer."""

    __slots__ = ("raised",)

    def __init__(self) -> None:
        self.raised = False

    def error(self, error: Exception) -> Exception:
        """Return the error of a later try; it says so if there is that doubt."""
        if not self.raised or not isinstance(error, SFTPError) or isinstance(error, SFTPConnectionLost):
            return error
        message = f"{error}; an earlier try, whose connection was lost, may have put the file in place"
        return type(error)(message, host=error.host, path=error.path)


class Procedure:
    """Runs steps on one session, one request after the other; owner of all of them.

    Args:
        steps: What is to be done.
        on_end: Called with the outcome.
        on_lost: Called instead if an answer will never come.
    """

    __slots__ = ("_on_end", "_on_lost", "_steps")

    def __init__(self, steps: Steps, on_end: Callable[[Outcome], None], on_lost: Callable[[Exception], None]) -> None:
        self._steps = steps
        self._on_end = on_end
        self._on_lost = on_lost

    def start(self) -> None:
        """Send the first request."""
        self._next(None)

    def _next(self, answer: Answer) -> None:
        try:
            send = self._steps.send(answer)
        except StopIteration as end:
            self._on_end(end.value)
            return
        try:
            send(self._next, self)
        except SFTPConnectionLost as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Take that no answer will come."""
        try:
            self._steps.throw(error)
        except StopIteration as end:
            self._on_end(end.value)
        except Exception as problem:
            self._on_lost(problem)
        else:  # a session that is over answers nothing
            self._steps.close()
            self._on_lost(error)


class ProcedureJob:
    """A procedure as a job of the pool. Once it has begun, it runs to its end, whether anybody waits or not.

    Args:
        make: Makes the steps for the protocol of the session.
        on_released: Called once, when the slot on the session is free again.
        on_end: Called once it has begun and is over, whether with an outcome or because an answer will never come.
    """

    def __init__(
        self,
        make: Callable[[SFTPProtocol], Steps],
        on_released: Released,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._make = make
        self._on_released = on_released
        self._on_end = on_end
        self._session: Session | None = None

    def start(self, session: Session) -> None:
        """Begin."""
        self._session = session
        Procedure(self._make(session.protocol), self._ended, self._lost).start()

    def fail(self, error: Exception) -> None:
        """Take that it will not come to its end."""
        if not self.future.done():
            self.future.set_exception(error)
        self._release()

    def abandon(self) -> None:
        """Nobody waits any more."""
        self.future.cancel()

    def _lost(self, error: Exception) -> None:
        self._on_end()
        self.fail(error)

    def _ended(self, outcome: Outcome) -> None:
        self._on_end()
        if not self.future.done():
            self.future.set_result(outcome)
        self._release()

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._on_released(session, self)
