"""Provisional states of a task: none of them replaces an outcome that was stored since the attempt started."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.states import READY_STATES

from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.worker import provisional
from asyncworker.worker.provisional import ProvisionalState, stored

PROVISIONAL = ("RECEIVED", "STARTED", "PROGRESS", "RETRY", "WAITING", "OF THE TASK ITSELF")
OUTCOMES = {"SUCCESS": 1, "FAILURE": ValueError("it failed"), "REVOKED": ValueError("it was revoked")}


class Request:
    """As much of a request as a result tells of."""

    _children = None
    children: tuple[Any, ...] = ()
    group = None
    parent_id = None


@pytest.fixture(params=["redis", "filesystem", "database", "cache"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celery[Any]]:
    """An app for each kind of result backend."""
    if request.param == "redis":
        url = request.getfixturevalue("valkey").result_url
    elif request.param == "database":
        url = f"db+sqlite:///{tmp_path}/results.sqlite"
    else:
        url = {"filesystem": f"file://{tmp_path}", "cache": "cache+memory://"}[request.param]
    with Celery("results", backend=url, set_as_current=False) as app:
        yield app
        app.AsyncResult("one").forget()  # the cache in memory is the process's


@pytest.fixture
def on_redis(valkey: EmbeddedServer) -> Iterator[Celery[Any]]:
    with Celery("results", backend=valkey.result_url, set_as_current=False) as app:
        yield app


def now() -> datetime:
    return datetime.now(UTC)


def state(name: str, started_at: datetime | None, **changes: Any) -> ProvisionalState:
    result = ValueError("once more") if name == "RETRY" else {"done": 1}
    given = {"task_id": "one", "state": name, "result": result, "request": Request(), **changes}
    return ProvisionalState(started_at=started_at, **given)


def state_of(app: Celery[Any]) -> str:
    return str(app.backend.get_task_meta("one", cache=False)["status"])


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", PROVISIONAL)
@pytest.mark.promise("no-state-replaces-an-outcome")
def test_an_outcome_that_came_since_is_not_replaced(app: Celery[Any], name: str, outcome: str) -> None:
    started_at = now()
    app.backend.store_result("one", OUTCOMES[outcome], outcome)
    assert not state(name, started_at).store(app.backend)
    assert state_of(app) == outcome


@pytest.mark.parametrize("name", PROVISIONAL)
@pytest.mark.promise("no-state-replaces-an-outcome")
def test_a_delivery_that_came_again_replaces_no_outcome(app: Celery[Any], name: str) -> None:
    app.backend.store_result("one", OUTCOMES["FAILURE"], "FAILURE")
    assert not state(name, None).store(app.backend)
    assert state_of(app) == "FAILURE"


@pytest.mark.parametrize("name", PROVISIONAL)
def test_a_task_that_is_sent_anew_under_its_id_replaces_the_outcome_of_the_last_sending(
    app: Celery[Any], name: str
) -> None:
    app.backend.store_result("one", OUTCOMES["FAILURE"], "FAILURE")
    assert state(name, now() + timedelta(seconds=1)).store(app.backend)
    assert state_of(app) == name


def test_provisional_states_replace_each_other(app: Celery[Any]) -> None:
    started_at = now()
    for name in PROVISIONAL:
        assert state(name, started_at).store(app.backend)
        assert state_of(app) == name
    for outcome in ("FAILURE", "SUCCESS"):
        app.backend.store_result("one", OUTCOMES[outcome], outcome)
        assert state_of(app) == outcome


@pytest.mark.parametrize("method", ["store_result", "mark_as_started", "mark_as_retry"])
def test_each_method_of_a_backend_that_stores_a_provisional_state_is_known(method: str) -> None:
    given: dict[str, tuple[Any, ...]] = {
        "store_result": ("one", {}, "PROGRESS"),
        "mark_as_started": ("one",),
        "mark_as_retry": ("one", ValueError("once more")),
    }
    found = ProvisionalState.of_call(method, given[method], {})
    assert found is not None
    assert found.state not in READY_STATES


@pytest.mark.parametrize("outcome", sorted(READY_STATES))
def test_an_outcome_is_no_provisional_state(outcome: str) -> None:
    assert ProvisionalState.of_call("store_result", ("one", 1, outcome), {}) is None


def test_an_outcome_that_comes_between_look_and_write_stays(
    on_redis: Celery[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started_at = now()
    looks = []

    def look(backend: Any, task_id: str) -> bytes:
        document = stored(backend, task_id)
        if not looks:
            backend.store_result("one", OUTCOMES["FAILURE"], "FAILURE")
        looks.append(document)
        return document

    monkeypatch.setattr(provisional, "stored", look)
    assert not state("PROGRESS", started_at).store(on_redis.backend)
    assert state_of(on_redis) == "FAILURE"
    assert len(looks) == 2


def test_what_is_stored_without_end_between_look_and_write_is_given_up(
    on_redis: Celery[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def look(backend: Any, task_id: str) -> bytes:
        nonlocal looks
        looks += 1
        document = stored(backend, task_id)
        backend.store_result("one", {"done": looks}, "PROGRESS")
        return document

    monkeypatch.setattr(provisional, "stored", look)
    assert not state("STARTED", now()).store(on_redis.backend)
    assert looks == provisional.MAX_LOOKS


@pytest.mark.parametrize("before", ["FAILURE", "SUCCESS"])
def test_a_retry_of_an_overtaken_attempt_does_not_replace_the_outcome_that_it_saw(
    on_redis: Celery[Any], before: str
) -> None:
    started_at = now()
    on_redis.backend.store_result("one", OUTCOMES[before], before)
    seen = stored(on_redis.backend, "one")
    assert not state("RETRY", started_at, seen=seen).store(on_redis.backend)
    assert state_of(on_redis) == before


def test_a_retry_replaces_only_what_was_stored_before_it(on_redis: Celery[Any], valkey: EmbeddedServer) -> None:
    on_redis.conf.result_expires = 100
    backend: Any = on_redis.backend
    with redis.Redis.from_url(valkey.redis_url.replace("db=0", "db=1")) as store:
        heard = store.pubsub(ignore_subscribe_messages=True)
        heard.subscribe("celery-task-meta-one")
        for error in ("once", "twice"):
            seen = stored(backend, "one")
            for text, is_first in ((error, True), ("repeated", False)):
                retry = state("RETRY", now(), result=ValueError(text), traceback="a traceback", seen=seen)
                assert retry.store(backend) == is_first
            found = on_redis.AsyncResult("one")
            assert (found.state, str(found.result), found.traceback) == ("RETRY", error, "a traceback")
            assert 0 < store.ttl("celery-task-meta-one") <= 100
        messages = [message for _ in range(6) if (message := heard.get_message(timeout=0.2))]
        assert len(messages) == 2
        heard.close()


def test_a_redis_without_scripts_is_asked_just_before(valkey: EmbeddedServer) -> None:
    started_at = now()
    with redis.Redis.from_url(valkey.redis_url) as server:
        server.acl_setuser("noscripts", enabled=True, nopass=True, categories=["+@all", "-@scripting"], keys=["*"])
        server.execute_command("ACL", "SETUSER", "noscripts", "allchannels")
    try:
        url = valkey.result_url
        with Celery("results", backend=url, set_as_current=False) as app:
            backend: Any = app.backend
            backend.connparams.update(username="noscripts", password="any")
            assert state("STARTED", started_at).store(backend)
            backend.store_result("one", OUTCOMES["FAILURE"], "FAILURE")
            assert not state("PROGRESS", started_at).store(backend)
            assert state_of(app) == "FAILURE"
    finally:
        with redis.Redis.from_url(valkey.redis_url) as server:
            server.acl_deluser("noscripts")
