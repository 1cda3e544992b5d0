"""Resources: declared as async generators, made when they are first used, closed when their scope ends."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Generic, TypeVar, cast, overload

from asyncworker.errors import ResourceCycle, ResourceError, SettingsError
from asyncworker.resources.annotations import annotated
from asyncworker.resources.making import Made, being_made, make
from asyncworker.resources.scopes import WIDTH, ScopeName, declared, lifetimes_of

__all__ = ["Resource", "resource", "resources_of", "use"]

T = TypeVar("T")

Make = Callable[..., AsyncIterator[T]]

#: Unless a resource says otherwise; a large model may take its time, and a flush at the end as well.
CONNECT_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 30.0

#: How many overrides are in force; where there are none, nothing is looked up.
_overridden = 0


class Resource(Generic[T]):
    """Something that is made once and used by many: see :func:`resource`, which makes it.

    Attributes:
        name: As the errors and the log call it.
        scope: How long one lives.
        generator: What makes it, yields it and closes it.
        retries: How often a making that failed is tried again.
        backoff_s: Before the first of these; later ones wait up to twice as long as the one before.
        connect_timeout_s: How long one attempt to make it may take.
        close_timeout_s: How long closing it may take.
        reported: A failure was logged, and it has not been made since.
        waits_for: What its making waits for.
    """

    def __init__(
        self,
        generator: Make[T],
        *,
        scope: ScopeName,
        retries: int,
        backoff_s: float,
        connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
        close_timeout_s: float | None = CLOSE_TIMEOUT_S,
    ) -> None:
        if not inspect.isasyncgenfunction(inspect.unwrap(generator)):
            raise SettingsError(
                f"{generator!r} cannot be a resource: expected an `async def` function that yields what it has made"
            )
        if scope not in WIDTH:
            raise SettingsError(f"scope is {scope!r}: expected one of {', '.join(WIDTH)}")
        self.name = f"{generator.__module__}.{generator.__qualname__}"
        self.scope = scope
        self.generator = generator
        self.retries = retries
        self.backoff_s = backoff_s
        for name, value in (("connect_timeout_s", connect_timeout_s), ("close_timeout_s", close_timeout_s)):
            if value is not None and not value > 0:
                raise SettingsError(f"{name} is {value!r}: expected seconds above 0, or None")
        self.connect_timeout_s = connect_timeout_s
        self.close_timeout_s = close_timeout_s
        self.reported = False
        self.waits_for: set[Resource[Any]] = set()
        self._stand_ins: list[Any] = []
        declared.add(scope)

    @property
    def filled(self) -> T:
        """The default of a parameter that is filled with it, so that a type checker asks no caller for it."""
        return cast(T, self)

    def __repr__(self) -> str:
        return f"<resource {self.name}>"

    @cached_property
    def needs(self) -> dict[str, Resource[Any]]:
        """The resources that its parameters ask for. Known once it is first made: others may be declared below it.

        Raises:
            ResourceError: One of them does not live as long as this one.
        """
        found = resources_of(self.generator)
        for needed in found.values():
            if WIDTH[needed.scope] < WIDTH[self.scope]:
                raise ResourceError(
                    f"resource {self.name} lives as long as the {self.scope} and cannot use {needed.name}, which lives "
                    f"as long as the {needed.scope}"
                )
        return found

    @contextmanager
    def override(self, stand_in: Any) -> Iterator[None]:
        """Have another thing used in its place within the block, in the whole process; for tests.

        Args:
            stand_in: The thing itself, or an async generator function or a resource that makes it. What depends on
                this resource is made anew with it.
        """
        global _overridden
        if inspect.isasyncgenfunction(stand_in):
            stand_in = Resource(stand_in, scope=self.scope, retries=0, backoff_s=0)
        self._stand_ins.append(stand_in)
        _overridden += 1
        try:
            yield
        finally:
            _overridden -= 1
            self._stand_ins.remove(stand_in)

    @property
    def overridden(self) -> bool:
        """Whether another thing is used in its place."""
        return bool(self._stand_ins)

    @property
    def stand_in(self) -> Any:
        """Replacement that is in use, if any."""
        return self._stand_ins[-1]

    def key(self) -> Any:
        """Return what it is kept under: another one for every set of overrides that it depends on."""
        if not _overridden:
            return self
        stand_ins = tuple(id(each.stand_in) for each in self._all_needs if each.overridden)
        return (self, stand_ins) if stand_ins else self

    @cached_property
    def _all_needs(self) -> tuple[Resource[Any], ...]:
        found: dict[Resource[Any], None] = {}
        to_look_at = [self]
        while to_look_at:
            for needed in to_look_at.pop().needs.values():
                if needed not in found:
                    found[needed] = None
                    to_look_at.append(needed)
        return tuple(found)


@overload
def resource(generator: Make[T], /) -> Resource[T]: ...
@overload
def resource(
    *,
    scope: ScopeName = "process",
    retries: int = 3,
    backoff_s: float = 0.2,
    connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
    close_timeout_s: float | None = CLOSE_TIMEOUT_S,
) -> Callable[[Make[T]], Resource[T]]: ...
def resource(
    generator: Make[T] | None = None,
    /,
    *,
    scope: ScopeName = "process",
    retries: int = 3,
    backoff_s: float = 0.2,
    connect_timeout_s: float | None = CONNECT_TIMEOUT_S,
    close_timeout_s: float | None = CLOSE_TIMEOUT_S,
) -> Resource[T] | Callable[[Make[T]], Resource[T]]:
    """Declare a resource: an async generator function that makes a thing, yields it once, and closes it.

    ::

        @resource
        async def http():
            async with httpx.AsyncClient() as client:
                yield client

        @app.task
        async def fetch(url, http: Annotated[httpx.AsyncClient, http]):
            return (await http.get(url)).text

    It is made on the event loop when it is first used, and shared by all who use it. All of it, from making to closing,
    runs in one asyncio task of its own, so that task groups and time limits around the ``yield`` work. It may ask for
    other resources in the same way as a task; they are closed in the reverse order of their making. One that ends by
    itself, as with a task group whose child fails, is made anew by whoever uses it next.

    What ends a task or an item, be it an error, a time limit, a revoke or a retry, is raised at the ``yield`` of the
    resources that were made for it, as in a context manager: ``async with engine.begin() as c: yield c`` rolls back;
    what must run in any case belongs into a ``finally``. What such a resource raises there, or while it closes after a
    success, is the outcome.

    Args:
        generator: The function.
        scope: One for the ``"process"``, which is closed when the worker ends; or one for each ``"task"`` or each
            ``"item"`` of a fan-out that uses it. A fan-out is one task. A call outside of either counts as one.
        retries: How often a making that failed is tried again before those who wait for it get a ``ResourceError``.
        backoff_s: How long to wait before the first of these; the wait doubles, at random.
        connect_timeout_s: How long one attempt may take, after what it needs is there; ``None``: as long as it wants.
        close_timeout_s: How long closing it may take; then it is cancelled, which is an error.

    Raises:
        SettingsError: It is no async generator function, or there is no such scope.
    """

    def declare(generator: Make[T]) -> Resource[T]:
        return Resource(
            generator,
            scope=scope,
            retries=retries,
            backoff_s=backoff_s,
            connect_timeout_s=connect_timeout_s,
            close_timeout_s=close_timeout_s,
        )

    return declare if generator is None else declare(generator)


async def use(resource: Resource[T]) -> T:
    """Return what a resource has made, making it where it is used for the first time.

    Raises:
        ResourceError: It could not be made, or no task or item, whose one it would be, is running here.
        ResourceCycle: It needs itself, by way of others.
    """
    if not isinstance(resource, Resource):
        raise ResourceError(f"{resource!r} is not a resource: declare it with @resource")
    if resource.overridden:
        stand_in = resource.stand_in
        if not isinstance(stand_in, Resource):
            value: T = stand_in
            return value
        resource = stand_in
    kept = lifetimes_of(resource.scope, f"resource {resource.name}")
    user = being_made()
    if user is None:
        made: Made[T] = await kept.use(resource.key(), lambda: make(resource, kept))
        return made.value
    _refuse_cycle(user, resource)
    user.waits_for.add(resource)
    try:
        made = await kept.use(resource.key(), lambda: make(resource, kept))
    finally:
        user.waits_for.discard(resource)
    return made.value


def resources_of(function: Callable[..., Any]) -> dict[str, Resource[Any]]:
    """Return the resources that a function's parameters are annotated with, by the parameter's name."""
    found = {}
    for name, metadata in annotated(function).items():
        for each in metadata:
            if isinstance(each, Resource):
                found[name] = each
    return found


def _refuse_cycle(user: Resource[Any], wanted: Resource[Any]) -> None:
    """Refuse to wait for what waits, directly or by way of others, for the one that would wait."""
    paths = [[user, wanted]]
    while paths:
        path = paths.pop()
        if path[-1] is user:
            raise ResourceCycle("resources need each other: " + " -> ".join(each.name for each in path))
        paths.extend([*path, further] for further in path[-1].waits_for)
