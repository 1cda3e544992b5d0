"""The tasks of both sides: canvas, retries, outcomes. No postponed annotations: pydantic reads them."""

from typing import Any

from celery import Task, chain, current_task, group, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from pydantic import BaseModel

from tests.parity.app import SIDE, app, declare, pause, wait_for_gate
from tests.parity.recording import RecordedTask, body_note, note, shown


class OddError(Exception):
    """An exception with more than a message."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(code, what)


class Point(BaseModel):
    x: int


async def add(x: int, y: int) -> int:
    await pause(0)
    return x + y


async def total(numbers: list[Any]) -> Any:
    await pause(0)
    return sum(numbers)


async def fail(kind: str = "key", *args: Any) -> None:
    await pause(0)
    if kind == "key":
        raise KeyError("on purpose")
    if kind == "odd":
        raise OddError(7, "odd")
    try:
        raise KeyError("the cause")
    except KeyError as exc:
        raise ValueError("with a cause") from exc


async def gate(name: str) -> str:
    body_note("begun")
    await wait_for_gate(name)
    return name


async def request_of(self: Any, *keys: str) -> Any:
    await pause(0)
    request = self.request
    body_note("request", current=current_task.request.id == request.id, **{key: getattr(request, key) for key in keys})
    return "told"


async def routed(self: Any) -> Any:
    await pause(0)
    return self.request.delivery_info["routing_key"]


async def ignored() -> None:
    await pause(0)
    raise Ignore("not now")


async def rejected(self: Any, requeue: bool) -> str:
    await pause(0)
    redelivered = bool(self.request.delivery_info.get("redelivered"))
    body_note("run", redelivered=redelivered)
    if not redelivered:
        raise Reject("not wanted", requeue=requeue)
    return "second time"


async def own_state(self: Any) -> str:
    await pause(0)
    body_note("state", state=app.backend.get_state(self.request.id))
    return "done"


async def unencodable() -> Any:
    await pause(0)
    return object()


async def quits() -> None:
    await pause(0)
    raise SystemExit(3)


for body, options in (
    (add, {}),
    (total, {}),
    (fail, {}),
    (gate, {}),
    (request_of, {"bind": True}),
    (routed, {"bind": True}),
    (ignored, {}),
    (unencodable, {}),
    (quits, {}),
    (rejected, {"bind": True, "acks_late": True}),
    (own_state, {"bind": True, "track_started": True}),
):
    declare(body, name=f"parity.{body.__name__}", **options)

declare(fail, name="parity.throws", throws=(KeyError,))
declare(add, name="parity.no_result", ignore_result=True)
declare(fail, name="parity.errors_only", ignore_result=True, store_errors_even_if_ignored=True)
declare(add, name="parity.limited", rate_limit="2/s")
declare(gate, name="parity.gate_late", acks_late=True)
declare(add, name="parity.once", acks_late=True)
declare(add, name="parity.shared", decorate=shared_task)


# -- links ---------------------------------------------------------------------------------------------------------


async def on_error(request: Any, exc: BaseException, traceback: Any) -> str:
    await pause(0)
    # Called in the place of the failed task, and no task of its own.
    told = {"exc": shown(exc), "traceback": bool(traceback), "own_id": current_task.request.id}
    note("body", request.id, request.root_id, request.retries, "errback", **told)
    return "handled"


async def on_error_old(task_id: str) -> str:
    await pause(0)
    body_note("old errback", of=task_id)
    return "handled"


async def on_error_bound(self: Any, task_id: str) -> str:
    await pause(0)
    body_note("bound errback", of=task_id)
    return "handled"


declare(on_error, name="parity.on_error")
declare(on_error_old, name="parity.on_error_old")
declare(on_error_bound, name="parity.on_error_bound", bind=True)


# -- replacing, and sending from the body --------------------------------------------------------------------------


async def replaced(self: Any, how: str) -> None:
    await pause(0)
    one = app.signature("parity.add", (1, 2))
    if how == "one":
        raise self.replace(one)
    if how == "chain":
        raise self.replace(chain(one, app.signature("parity.add", (10,)), app=app))
    raise self.replace(group([one, app.signature("parity.add", (3, 4))], app=app))


async def sends(self: Any) -> str:
    await pause(0)
    mark = self.request.id
    app.signature("parity.add", (1, 1)).apply_async(task_id=f"{mark}-child")
    app.signature("parity.add", (2, 2)).apply_async(task_id=f"{mark}-stranger", add_to_parent=False)
    return "sent"


async def grows(self: Any, x: int) -> int:
    await pause(0)
    self.add_to_chord(app.signature("parity.add", (x, 100)).set(task_id=f"{self.request.id}-more"))
    return x


for body in (replaced, sends, grows):
    declare(body, name=f"parity.{body.__name__}", bind=True)


# -- retries -------------------------------------------------------------------------------------------------------


async def retries(self: Any, how: str) -> Any:
    await pause(0)
    tried = self.request.retries
    body_note("try", how=how, eta=bool(self.request.eta))
    if how == "countdown" and tried < 2:
        raise self.retry(countdown=0.3)
    if how == "exc":
        raise self.retry(countdown=0.2, exc=OddError(tried, "still"), max_retries=1)
    if how == "no exc":
        raise self.retry(countdown=0.2, max_retries=1)
    if how == "args" and not tried:
        raise self.retry(args=("changed",), countdown=0.2)
    if how == "not thrown" and not tried:
        self.retry(countdown=0.2, throw=False)
        return "returned"
    if how == "in handler" and not tried:
        try:
            raise KeyError("handled")
        except KeyError as exc:
            raise self.retry(countdown=0.2) from exc
    return [how, tried]


async def autoretries(self: Any, times: int) -> int:
    await pause(0)
    if self.request.retries < times:
        raise OddError(self.request.retries, "again")
    return int(self.request.retries)


declare(retries, name="parity.retries", bind=True)
declare(
    autoretries,
    name="parity.backoff",
    bind=True,
    autoretry_for=(OddError,),
    retry_backoff=True,
    retry_jitter=False,
    max_retries=5,
)
declare(
    autoretries,
    name="parity.jitter",
    bind=True,
    autoretry_for=(OddError,),
    retry_backoff=1,
    retry_backoff_max=2,
    retry_jitter=True,
    max_retries=1,
)
declare(
    autoretries,
    name="parity.not_for_odd",
    bind=True,
    autoretry_for=(Exception,),
    dont_autoretry_for=(OddError,),
)


# -- limits --------------------------------------------------------------------------------------------------------


async def soft(catch: bool) -> str:
    try:
        await pause(20)
    except SoftTimeLimitExceeded as exc:
        body_note("soft", args=repr(exc.args))
        if not catch:
            raise
        await pause(0.01)
        return "cleaned up"
    return "never"


async def long() -> str:
    body_note("begun")
    await pause(20)
    return "never"


declare(soft, name="parity.soft", soft_time_limit=0.5)
declare(soft, name="parity.soft_and_hard", soft_time_limit=0.4, time_limit=10)
declare(long, name="parity.hard", time_limit=1)
declare(long, name="parity.long")


# -- classes -------------------------------------------------------------------------------------------------------


class Calling(RecordedTask):
    """Has set-up and clean-up of its own around the body, as users of prefork write it."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        body_note("before call", direct=self.request.called_directly)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            body_note("after call")


class Counted(RecordedTask):
    """Tasks with a request class of their own."""

    abstract = True
    Request = "tests.parity.recording:CountedRequest"


declare(add, name="parity.calling", base=Calling)
declare(fail, name="parity.calling_fail", base=Calling)
declare(add, name="parity.counted", base=Counted)
declare(fail, name="parity.counted_fail", base=Counted)
declare(retries, name="parity.counted_retries", base=Counted, bind=True)
declare(long, name="parity.counted_hard", base=Counted, acks_late=True, time_limit=1)
declare(gate, name="parity.counted_gate", base=Counted, acks_late=True)


async def move(point: Point) -> Point:
    await pause(0)
    return Point(x=point.x + 1)


declare(move, name="parity.pydantic", pydantic=True)

assert issubclass(app.Task, Task), SIDE
