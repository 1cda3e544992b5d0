"""The one task that runs a fan-out: its message holds the target, the fixed arguments, the source and the options."""

from __future__ import annotations

import functools
import logging
import uuid
from typing import TYPE_CHECKING, Any, cast

import msgspec
from celery import shared_task
from celery.exceptions import Ignore
from kombu.utils.json import dumps

from asyncworker.errors import RunDrained, RunNotFound, RunTakenOver, SettingsError, SourceError
from asyncworker.iterate import (
    Drain,
    IterateOptions,
    RunOutcome,
    Source,
    SplitRun,
    execute_run,
    execute_split,
    make_options,
    source_from_wire,
)
from asyncworker.loop import current_job, off_loop_async
from asyncworker.resources import in_task_scope, scope_is_open
from asyncworker.settings import Settings, load_settings
from asyncworker.store import patiently, shared_store
from asyncworker.tasks.arguments import check_fan_out, check_source_call, check_sources
from asyncworker.tasks.calling import caller, opener
from asyncworker.tasks.delivery import delivery_of
from asyncworker.tasks.forgetting import forget_before_sending, forget_stored
from asyncworker.tasks.item_states import runs_with_item_states
from asyncworker.tasks.names import MESSAGE_HEADER, RUN_ITERATE, with_message_name
from asyncworker.tasks.partition_sender import partition_sender
from asyncworker.tasks.payloads import decode, encode
from asyncworker.tasks.progress_meta import ProgressMeta
from asyncworker.tasks.result import IterateEagerResult, IterateResult
from asyncworker.tasks.run_outcomes import report_outcomes_of
from asyncworker.tasks.state import clear_items
from asyncworker.tasks.stored_outcome import value_of
from asyncworker.tasks.task import AsyncTask
from asyncworker.tasks.task_result import TaskResult
from asyncworker.tasks.told import was_told
from asyncworker.worker.given_back import GivenBack
from asyncworker.worker.wellformed import LONGEST_ID

if TYPE_CHECKING:
    from asyncworker.store import RunHold, Store

__all__ = [
    "RunIterateTask",
    "drain_of_this_job",
    "run_here",
    "run_iterate",
    "run_of",
    "store_for_run",
]

logger = logging.getLogger(__name__)


class RunIterateTask(AsyncTask):
    """The fan-out as a Celery task; its id is the run's id."""

    abstract = True
    #: Its run is held in the store, item by item.
    holds_own_lease = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> IterateResult:
        """Return the result object of a run."""
        return IterateResult(task_id, app=self.app)

    @staticmethod
    async def has_begun(store: Store, request: dict[str, Any]) -> bool:
        """Return whether a delivery of a message has begun its run before."""
        try:
            message = await store.message_of(str(request["id"]))
        except RunNotFound:
            return False
        return message == str(request.get(MESSAGE_HEADER) or "")

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Send the fan-out to where its target would be sent."""
        self._check(args, kwargs, options)
        options = self._addressed(kwargs, options)
        if options.get("task_id"):
            forget_before_sending(self.AsyncResult(options["task_id"]))
        return self._named(super().apply_async(args, kwargs, **options), options)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> TaskResult:
        """Awaitable twin of `apply_async`."""
        self._check(args, kwargs, options)
        options = self._addressed(kwargs, options)
        if options.get("task_id"):
            await off_loop_async(forget_before_sending, self.AsyncResult(options["task_id"]))
        return cast(TaskResult, self._named(await super().aapply_async(args, kwargs, **options), options))

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run the fan-out here; its result has what one of a worker's has."""
        result = super().apply(*args, **kwargs)
        return IterateEagerResult.of_run(result, self.app)

    @staticmethod
    def _named(result: Any, options: dict[str, Any]) -> Any:
        """Have the result know its message: the outcome of an earlier one under the same id is not its own."""
        if isinstance(result, IterateResult):
            result.message = options["headers"][MESSAGE_HEADER]
        return result

    def _check(self, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        """Refuse arguments that the target does not take, where the target is known here.

        What follows another task is sent by a worker, which has nobody to raise to: the run itself is refused then.
        """
        if args or options.get("parent_id"):
            return
        try:
            target, fixed, source = self.app.tasks.get(kwargs["task"]), dict(kwargs["partial"]), kwargs["source"]
            iterated = None if source["kind"] == "rows" else [column["name"] for column in source["columns"]]
            tasks = [column["task"] for column in source["columns"] if column.get("task")]
            calls = [(self.app.tasks.get(each["task"]), each["args"], each["kwargs"]) for each in tasks]
            how = dict(kwargs["options"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return  # not what a fan-out is made of: the worker says so
        chosen = make_options(**how)
        if target is not None:
            check_fan_out(target, fixed, iterated, chosen)
        for task, its_args, its_kwargs in calls:
            if task is not None:
                check_source_call(task, its_args, its_kwargs)

    def _addressed(self, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
        if len(str(options.get("task_id") or "")) > LONGEST_ID:
            # No worker takes such a message, and its sender would wait for the result in vain.
            raise SettingsError(f"task_id has more than {LONGEST_ID} characters: {options['task_id']:.40}...")
        if not options.keys() & {"queue", "exchange", "routing_key"} and kwargs and "task" in kwargs:
            route = self.app.amqp.router.lookup_route(kwargs["task"]) or {}
            options = {**({"queue": route} if isinstance(route, str) else route), **options}
        return {**options, "headers": with_message_name(options.get("headers"))}


report_outcomes_of(RunIterateTask)


@shared_task(name=RUN_ITERATE, base=RunIterateTask, bind=True, acks_late=True, reject_on_worker_lost=True)
async def run_iterate(
    self: RunIterateTask,
    *previous: Any,
    task: str,
    partial: dict[str, Any],
    source: dict[str, Any] | None,
    options: dict[str, Any],
    resume: bool = False,
    force: bool = False,
    failed_only: bool = False,
) -> Any:
    """Run a fan-out to its end, from its checkpoint where it has one.

    Args:
        self: The task.
        *previous: In a chain, the result of the task before.
        task: The name of the task that each item runs.
        partial: Its fixed keyword arguments.
        source: The wire form of the source.
        options: The wire form of :class:`IterateOptions`.
        resume: Go on from the checkpoint of a run that has ended, too.
        force: Take it from whoever runs it.
        failed_only: Of a complete run, run the items that failed, and no others.

    Returns:
        The run's progress as a mapping; with ``results="inline"`` the list of values in the order of the source.
    """
    source = _with_previous(source, previous)
    request = {"task": task, "partial": partial, "source": source, "options": options}
    delivery = delivery_of(self.request)
    settings = load_settings(conf=self.app.conf)
    drain = drain_of_this_job(settings)
    store = await store_for_run(settings, drain, str(self.request.id))
    run = run_of(self.app, str(self.request.id), request, store, settings)
    from asyncworker.store import keep_house  # which imports SQLAlchemy, where no store was opened yet

    await keep_house(settings)
    how: dict[str, Any] = {
        "request": dumps({**request, "delivery": delivery}).encode(),
        "message": str(getattr(self.request, MESSAGE_HEADER, None) or ""),
        "redelivered": bool((self.request.delivery_info or {}).get("redelivered")),
        "resume": resume,
        "force": force,
        "failed_only": failed_only,
        "drain": drain,
        "begun": functools.partial(_forget_earlier_outcome, self),
    }
    try:
        async with ProgressMeta(self) as meta:
            if run.options.partitions > 1:
                outcome = await execute_split(run, partition_sender(self), observe=meta.observe, **how)
            else:
                outcome = await run.execute_whole(observe=meta.observe, **how)
    except RunDrained as exc:
        raise GivenBack(str(exc), requeue=True) from exc
    except RunTakenOver as exc:
        # Acknowledged, it could be the last delivery that the broker has: that of the holder may have been lost with
        # its connection, and kombu's Redis transport knows both by one tag. Delivered again, it waits for the holder.
        logger.warning("%s; its outcome is reported there", exc)
        raise GivenBack(str(exc), requeue=True) from exc
    if outcome.recalled and await was_told(self, ok=outcome.ok, within_s=settings.lease_s, drain=drain):
        logger.info("run %s was finished by another delivery of it", outcome.progress.run_id)
        raise Ignore("finished by another delivery")
    if outcome.ok:
        await clear_items(run.run_id, settings, current_job.get())
    outcome.raise_for_failures()
    return value_of(outcome, run.options)


async def _forget_earlier_outcome(task: RunIterateTask, hold: RunHold) -> None:
    """Delete the outcome of an earlier message under the same id, which would pass for that of the run that begins."""
    if not hold.again or task.ignore_result or task.request.ignore_result:
        return
    try:
        await off_loop_async(forget_stored, task.app, str(task.request.id))
    except Exception as exc:
        logger.warning("run %s: the result of an earlier run cannot be deleted: %r", hold.run_id, exc)


async def store_for_run(settings: Settings, drain: Drain, run_id: str) -> Store:
    """Open the process's store; one that is away is waited for, unless the worker ends meanwhile.

    Raises:
        GivenBack: The worker ends; another one is to begin the run.
        StoreError: The store is away for longer than ``store_patience_s``.
    """
    tried = False

    async def open_it() -> Store:
        nonlocal tried
        if tried and drain.requested:
            raise GivenBack(f"run {run_id}: this worker ends before the store is back", requeue=True)
        tried = True
        return await shared_store(settings)

    return await patiently(open_it, patience_s=settings.store_patience_s, what=f"opening the store for run {run_id}")


def run_of(app: Any, run_id: str, request: dict[str, Any], store: Store, settings: Settings) -> SplitRun:
    """Make of a request what all who work on its run have in common."""
    task, partial = request["task"], request["partial"]
    source = source_from_wire(request["source"], opener(app), payloads=store.payloads, decode=decode)
    options = make_options(**request["options"])
    # Who has sent it may know no more of the task than its name.
    check_fan_out(app.tasks[task], partial, source.names, options)
    check_sources(app, source)
    return SplitRun(
        call=caller(app.tasks[task], partial, source),
        source=source,
        options=with_limits(options, app.tasks[task], partial),
        store=store,
        run_id=run_id,
        task=task,
        fingerprint=source.fingerprint(dumps([task, partial], sort_keys=True).encode()),
        lease_s=settings.lease_s,
        encode=encode,
        decode=decode,
    )


def drain_of_this_job(settings: Settings) -> Drain:
    """Return what asks this job to stop early."""
    drain = Drain(settings.drain_grace_s)
    job = current_job.get()
    if job is not None:
        job.on_drain = drain.request
        if job.draining:
            drain.request()
    return drain


async def run_here(task: AsyncTask, source: Source, options: IterateOptions, *, fixed: dict[str, Any]) -> RunOutcome:
    """Run a fan-out on the running loop, in memory."""
    source.open_tasks_with(opener(task.app))
    run_id = uuid.uuid4().hex
    running = execute_run(
        caller(task, fixed, source),
        source,
        with_limits(msgspec.structs.replace(options, results="inline"), task, fixed),
        store=None,
        run_id=run_id,
        task=task.name,
        fingerprint="",
    )
    try:
        return await (running if scope_is_open("task") else in_task_scope(running))
    finally:
        # It cannot be resumed.
        for each in [each for each in runs_with_item_states if each.endswith(f"#{run_id}")]:
            await clear_items(each, load_settings(conf=task.app.conf), current_job.get())


def with_limits(options: IterateOptions, task: Any, fixed: dict[str, Any]) -> IterateOptions:
    """Return the options with the task's own limits among them; keys that are the same for all items are filled in."""
    uses = dict.fromkeys([*getattr(task, "limits", ()), *options.limits])
    return msgspec.structs.replace(options, limits=tuple(use.fixed(fixed) for use in uses)) if uses else options


def _with_previous(source: dict[str, Any] | None, previous: tuple[Any, ...]) -> dict[str, Any]:
    """Put the previous task's result in the place that ``previous_result`` holds."""
    if source is None:
        raise SourceError("the fan-out came without its source: an iterator cannot be linked; pass a list or a task")
    if not previous:
        return source
    columns = [
        {"name": column["name"], **_literal(previous[0])} if column.get("previous") else column
        for column in source["columns"]
    ]
    return {**source, "columns": columns}


def _literal(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"pairs": [list(pair) for pair in value.items()]}
    if isinstance(value, list | tuple):
        return {"values": list(value)}
    raise SourceError(f"the previous result is {value!r:.100}: expected a list or a dict to iterate over")
