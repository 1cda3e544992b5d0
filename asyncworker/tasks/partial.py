"""Building a fan-out: fixed arguments, options, a source; what comes out is a Celery signature."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import msgspec
from celery import Task
from celery.canvas import Signature, group

from asyncworker.errors import SourceError
from asyncworker.iterate import (
    IterateOptions,
    RunOutcome,
    Source,
    SourceMode,
    TaskSource,
    check_known_length,
    make_options,
    source_of,
    source_of_rows,
)
from asyncworker.loop import off_loop_async
from asyncworker.settings import load_settings
from asyncworker.tasks.arguments import check_fan_out, check_fixed, check_source_call, check_twice
from asyncworker.tasks.calling import check_result, check_source, check_target, source_of_signature
from asyncworker.tasks.names import RUN_ITERATE
from asyncworker.tasks.payloads import offload

if TYPE_CHECKING:
    from asyncworker.tasks.result import IterateResult
    from asyncworker.tasks.task import AsyncTask

    _Signature = Signature[Any]
else:
    _Signature = Signature

__all__ = ["IterateSignature", "Partial"]


class Partial:
    """A task with some keyword arguments fixed; immutable, so that one can be the start of several fan-outs."""

    def __init__(self, task: AsyncTask, fixed: Mapping[str, Any], options: IterateOptions | None = None) -> None:
        self._task = task
        self._fixed = dict(fixed)
        self._options = options or IterateOptions()

    def partial(self, /, **fixed: Any) -> Partial:
        """Fix more arguments; a name that is fixed already gets the new value.

        Raises:
            ArgumentError: The task has no such parameter.
        """
        check_fixed(self._task, fixed)
        return Partial(self._task, {**self._fixed, **fixed}, self._options)

    def options(self, **options: Any) -> Partial:
        """Say how the fan-out runs; the fields of :class:`asyncworker.IterateOptions`, and their defaults, apply.

        Exception classes are given to ``retry_on`` and ``fail_on`` as classes.

        Raises:
            SettingsError: An option is unknown or its value not allowed: names it, the value, what is allowed.
        """
        given = {name: getattr(self._options, name) for name in self._options.__struct_fields__}
        return Partial(self._task, self._fixed, make_options(**{**given, **options}))

    def iterate(self, /, *, mode: SourceMode = "product", **sources: Any) -> IterateSignature:
        """Build the fan-out: one message, one task that runs an item for each value of the source.

        Args:
            mode: With several keywords, ``"product"`` is every combination, the last keyword changing fastest;
                ``"zip"`` pairs them up, and unequal lengths raise.
            **sources: For each argument that is iterated: a list, range, dict (its pairs), iterator, generator, async
                generator (``.run()`` only), the signature of a task that yields or returns the values (it is run on the
                worker, lazily where it is an async generator), or ``asyncworker.previous_result`` in a chain.

        Raises:
            SourceError: A source that cannot be iterated.
            ArgumentError: The items could not be called: an argument that the task does not take, that is missing, or
                that is fixed and iterated at once; a ``key`` that is not iterated.
        """
        if not sources:
            raise SourceError(f"{self._task.name}: iterate() needs at least one keyword to iterate over")
        check_fan_out(self._task, self._fixed, list(sources), self._options)
        columns = {name: _task_source(name, value) for name, value in sources.items()}
        return self._signature(source_of(columns, mode=mode))

    def iterate_kwargs(self, rows: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]) -> IterateSignature:
        """Build a fan-out over rows: each item's own keyword arguments, as a mapping.

        Args:
            rows: An iterable of them, sync or async, or the signature of a task that yields or returns them. A row
                that is not what the task takes fails its item, which is not tried again.
        """
        check_fan_out(self._task, self._fixed, None, self._options)
        return self._signature(source_of_rows(_task_source("rows", rows)))

    def expand(self, /, *, mode: SourceMode = "product", **sources: Iterable[Any]) -> group:
        """Build a group instead: one message an item, spread over all workers, at the price of a message each.

        Sources are literal; the group's results come in their order.

        Raises:
            ArgumentError: An argument that the task does not take, or that is fixed and iterated at once. One that is
                missing is what the task before gives in a chain; else Celery refuses it when the group is sent.
        """
        check_twice(self._task, self._fixed, sources)
        check_fixed(self._task, sources)
        names = list(sources)
        if mode == "zip":
            rows: Iterable[tuple[Any, ...]] = zip(*sources.values(), strict=True)
        else:
            rows = itertools.product(*sources.values())
        return group(self._task.s(**self._fixed, **dict(zip(names, row, strict=True))) for row in rows)

    def _signature(self, source: Source) -> IterateSignature:
        check_target(self._task, self._options)
        _read_once(source)
        if self._options.partitions > 1 and any(isinstance(each.values, TaskSource) for each in source.columns):
            check_known_length(source, self._options.partitions)
        return IterateSignature(self._task, self._fixed, source, self._options)


class IterateSignature(_Signature):
    """A fan-out as a Celery signature: ``delay``, ``apply_async``, chain, group and chord take it.

    Its result is an :class:`asyncworker.IterateResult`.
    """

    def __init__(self, task: AsyncTask, fixed: Mapping[str, Any], source: Source, options: IterateOptions) -> None:
        super().__init__(
            RUN_ITERATE,
            kwargs={
                "task": task.name,
                "partial": dict(fixed),
                # An iterator is read once, by whoever comes first: run() here, or the message.
                "source": None if source.one_shot else source.to_wire(),
                "options": msgspec.to_builtins(options),
            },
            app=task.app,
        )
        # Not plain attributes: a signature is a dictionary that travels.
        self.__dict__["_local"] = (task, source, options)

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> IterateResult:
            """Send the fan-out."""

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Copy the signature, as Celery's canvas does; a source that is an iterator is read, a long one put aside."""
        self._read_source()
        return super().clone(args, kwargs, **options)

    def apply_async(self, args: Any = None, kwargs: Any = None, route_name: str | None = None, **options: Any) -> Any:
        """Send the fan-out; a source that is an iterator is read to its end first, and a long one put aside."""
        self._read_source()
        return super().apply_async(args, kwargs, route_name, **options)

    async def adelay(self) -> IterateResult:
        """Send the fan-out without holding up the running loop."""
        await off_loop_async(self._read_source)
        task: AsyncTask = self.type
        return cast("IterateResult", await task.aapply_async(self.args, self.kwargs, **self.options))

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the fan-out here and now, as Celery's own, with its checkpoint in the store."""
        self._read_source()
        return super().apply(args, kwargs, **options)

    @overload
    async def run(self, *, collect: Literal[False] = False) -> list[Any]: ...

    @overload
    async def run(self, *, collect: Literal[True]) -> RunOutcome: ...

    async def run(self, *, collect: bool = False) -> list[Any] | RunOutcome:
        """Run the fan-out here, on the running loop: no broker, no worker, no checkpoint.

        Args:
            collect: Return the whole outcome, whatever has failed: its ``results`` are ``(index, value)`` of the items
                that are done, and ``failures`` and ``exceptions`` the first 20 of the others.

        Returns:
            The values in the order of the source, without those of skipped items.

        Raises:
            SourceError: The source can be read only once, and was.
            Exception: The one failure, or ``ItemErrors`` with all of them, once every item has run.
        """
        from asyncworker.tasks.run_iterate import run_here

        self._use_source()
        outcome: RunOutcome = await run_here(*self.__dict__["_local"], fixed=self.kwargs["partial"])
        if collect:
            return outcome
        outcome.raise_for_failures()
        return [value for _, value in sorted(outcome.results or [], key=lambda pair: pair[0])]

    def _use_source(self) -> None:
        """Note that the source is read; one that can be read only once is refused the second time."""
        source: Source = self.__dict__["_local"][1]
        _read_once(source)
        if source.one_shot and self.__dict__.get("_used"):
            raise SourceError(f"{source.name} can be read only once, and was: give a list, or build the fan-out anew")
        self.__dict__["_used"] = True

    def _read_source(self) -> None:
        """Make the message ready: read a source that is an iterator, put a long one aside."""
        task, _, options = self.__dict__["_local"]
        check_result(task, options)
        if self.kwargs["source"] is None:
            self._use_source()
            self.kwargs["source"] = self.__dict__["_local"][1].to_wire()
        if not self.__dict__.get("_offloaded"):
            settings = load_settings(conf=self.app.conf)
            self.kwargs["source"] = offload(self.kwargs["source"], settings)
            self.__dict__["_offloaded"] = True


def _read_once(source: Source) -> None:
    """Refuse a generator that somebody has read already: it would be a source of no items."""
    for column in source.columns:
        if inspect.isgenerator(column.values) and column.values.gi_frame is None:
            raise SourceError(f"{column.label} was read to its end already, or closed: make a new one, or give a list")
        if inspect.isasyncgen(column.values) and column.values.ag_frame is None:
            raise SourceError(f"{column.label} was read to its end already, or closed: make a new one, or give a list")


def _task_source(name: str, value: Any) -> Any:
    if isinstance(value, Task):
        raise SourceError(f"{name} is the task {value.name} itself: give its signature, {name}=that_task.s(...)")
    if isinstance(value, TaskSource):
        check_source(value.task)
    if not isinstance(value, Signature):
        return value
    source = source_of_signature(value)
    if (task := vars(value).get("_type")) is not None:
        check_source_call(task, source.args, source.kwargs)
    return source
