"""``install(app)``: a user's own app, eagerly, in a worker of its own, and what is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import asyncworker
from asyncworker.cli.embedded import EmbeddedServer
from asyncworker.errors import SettingsError
from tests.integration import own_app
from tests.servers.worker import ROOT, Worker

APP = "tests.integration.own_app"


@pytest.mark.promise("own-app-stays")
def test_in_a_worker(worker: Callable[..., Worker], client: Celery) -> None:
    node = worker(None, "--without-mingle", app=APP)

    def run(name: str, *args: Any) -> tuple[str, Any]:
        result = client.send_task(name, args, queue="own")
        return result.id, result.get(timeout=120)

    assert run("own.async", 1)[1] == 2
    assert run("own.sync", 1)[1] == 3
    task_id, value = run("own.class", 1)
    assert value == ["hello", task_id, 1]
    task_id, value = run("own.derived", 1)
    assert value == ["hello", task_id, 2]
    task_id, value = run("own.bound", 1)
    assert value == ["hello", task_id, 1]
    assert run("own.calling", 1)[1] == {"called": 1}
    inspected = client.control.inspect(timeout=60, limit=1)
    assert {"own.async", "own.sync", "own.class"} <= set(inspected.registered()[node.name])
    client.control.shutdown()
    assert node.wait() == 0


def test_the_celery_program_finds_modules_in_the_working_directory(
    worker: Callable[..., Worker], client: Celery, tmp_path: Path
) -> None:
    (tmp_path / "a_shop.py").write_text(
        "from asyncworker import app\n\n@app.task\nasync def restock(sku):\n    return sku + ' is back'\n"
    )
    # Unlike `python -m celery`, it does not have that folder on its path.
    program = [str(Path(sys.executable).parent / "celery")]
    worker("a_shop", "--without-mingle", cwd=tmp_path, program=program)
    assert client.send_task("a_shop.restock", ("A-17",)).get(timeout=120) == "A-17 is back"


def test_a_stock_pool_runs_async_tasks_too(worker: Callable[..., Worker], client: Celery) -> None:
    """Going back is possible: under prefork each async task is run to its end, one a process."""
    worker(None, "--without-mingle", "-P", "solo", app=APP)
    assert client.send_task("own.async", (1,), queue="own").get(timeout=120) == 2


def test_eager_outside_a_loop() -> None:
    assert own_app.an_async_task.apply((1,)).get() == 2
    result = own_app.bound.apply((1,))
    assert result.get() == ["hello", result.id, 1]
    assert own_app.app.tasks["own.derived"].apply((2,)).get()[2] == 4
    with pytest.raises(TypeError):
        own_app.an_async_task.apply(("no",)).get()


async def test_eager_inside_a_running_loop_and_awaited_directly() -> None:
    assert own_app.an_async_task.apply((1,)).get() == 2
    assert await own_app.an_async_task(1) == 2


async def test_always_eager() -> None:
    own_app.app.conf.task_always_eager = True
    try:
        assert own_app.an_async_task.delay(1).get() == 2
        chained = own_app.an_async_task.s(1) | own_app.an_async_task.s()
        assert chained.delay().get() == 3
    finally:
        own_app.app.conf.task_always_eager = False


def test_eager_inside_our_own_loop() -> None:
    from asyncworker.loop import get_loop_thread

    async def in_a_child_task() -> Any:
        return await asyncio.gather(asyncio.create_task(self_applied()))

    async def self_applied() -> Any:
        return own_app.an_async_task.apply((1,)).get()

    assert get_loop_thread().run(in_a_child_task()) == [2]


# -- what is refused ---------------------------------------------------------------------------------------------


def test_a_module_that_does_not_exist() -> None:
    with pytest.raises(SettingsError, match=r"no module 'no\.such\.module'"):
        asyncworker.install(Celery("other", set_as_current=False), include=["no.such.module"])


def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCWORKER_SYNC_THREADS", "0")
    with pytest.raises(SettingsError, match=r"ASYNCWORKER_SYNC_THREADS is '0'.*>= 1"):
        asyncworker.install(Celery("other", set_as_current=False))


def celery(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ASYNCWORKER_", "CELERY_"))}
    return subprocess.run(
        [sys.executable, "-m", "celery", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )


BAD_OPTIONS = {
    "prefork by name": (("-P", "prefork"), "asyncworker: -P prefork means, to Celery, the pool of the app"),
    "tasks a process": (("--max-tasks-per-child", "5"), "asyncworker: --max-tasks-per-child needs --processes"),
    "memory a process": (("--max-memory-per-child", "5"), "asyncworker: --max-memory-per-child needs --processes"),
    "less than none": (("-c", "-5"), "asyncworker: --concurrency is -5: expected 1 or more"),
    "none": (("-c", "0"), "asyncworker: --concurrency is 0: expected 1 or more"),
    "no limit of time": (("--soft-time-limit", "nan"), "asyncworker: --soft-time-limit is nan: expected a finite"),
    "no folder of a pid file": (
        ("--pidfile", "/no/such/pid", "--detach"),
        "asyncworker: --pidfile is '/no/such/pid': there is no folder '/no/such'",
    ),
    "no folder of a log": (
        ("-f", "/no/such/log", "--processes", "2"),
        "asyncworker: --logfile is '/no/such/log': there is no folder '/no/such'",
    ),
    "no folder of a detached log": (
        ("--logfile", "/no/such/log", "--detach"),
        "asyncworker: --logfile is '/no/such/log': there is no folder '/no/such'",
    ),
    "no folder of revoked ids": (
        ("-S", "/no/such/ids"),
        "asyncworker: --statedb is '/no/such/ids': there is no folder '/no/such'",
    ),
    "processes of another pool": (("--processes", "2", "-P", "solo"), "asyncworker: --processes is for asyncworker's"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_an_option_that_would_have_no_effect_is_refused(case: str, unused_tcp_port: int) -> None:
    arguments, message = BAD_OPTIONS[case]
    broker = {"ASYNCWORKER_BROKER_URL": f"redis://127.0.0.1:{unused_tcp_port}/0"}
    ended = celery("-A", "asyncworker", "worker", *arguments, **broker)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(message), ended.stderr
    assert "Traceback" not in ended.stderr


BAD_URLS = {
    "no such kind": ("redi://:s3cret@h/0", "asyncworker: broker_url is 'redi://:***@h/0': not one that Celery knows"),
    "no port": ("redis://:s3cr/et@h:port/0", "asyncworker: broker_url is 'redis://:***@h:port/0': not one that"),
    "no end of a host": ("redis://:s3cret@[h/0", "asyncworker: broker_url is 'redis://:***@[h/0': not one that Celery"),
    "no client": ("sqs://k:s3cret@h", "asyncworker: broker_url is 'sqs://k:***@h': not one that Celery knows: "),
    "nobody": ("redis://:s3cret@127.0.0.1:1/0", "asyncworker: no broker answers at redis://:***@127.0.0.1:1/0 within"),
}


@pytest.mark.parametrize("case", BAD_URLS)
def test_a_broker_that_cannot_be_is_told_in_one_line_without_its_password(case: str) -> None:
    url, message = BAD_URLS[case]
    ended = celery("-A", "asyncworker", "worker", ASYNCWORKER_BROKER_URL=url, ASYNCWORKER_BROKER_WAIT_S="0.2")
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(message), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "s3c" not in ended.stderr + ended.stdout


def test_an_app_that_wants_to_wait_for_its_broker_waits(
    worker: Callable[..., Worker], tmp_path: Path, unused_tcp_port: int
) -> None:
    conf = {"CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP": True, "CELERY_WORKER_PROC_ALIVE_TIMEOUT": 60}
    (tmp_path / "mine.py").write_text(OWN_APP.format(conf=conf))
    env = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "ASYNCWORKER_BROKER_URL": f"redis://127.0.0.1:{unused_tcp_port}/0",
        "ASYNCWORKER_BROKER_WAIT_S": "0.1",
    }
    node = worker(None, app="mine", env=env, ready=False)
    node.wait_for_log("Trying again in")
    assert node.returncode is None
    assert "worker_proc_alive_timeout = 60 has no effect with asyncworker's pool" in node.log()


BAD_STARTS = {
    "no module": ({"ASYNCWORKER_INCLUDE": "no.such"}, "asyncworker: no module 'no.such' (ASYNCWORKER_INCLUDE"),
    "a module that fails": (
        {"ASYNCWORKER_INCLUDE": "tests.integration.broken_tasks"},
        "asyncworker: cannot import 'tests.integration.broken_tasks': RuntimeError: broken on purpose (at ",
    ),
    "a wrong setting": ({"ASYNCWORKER_CONCURRENCY": "many"}, "asyncworker: ASYNCWORKER_CONCURRENCY is 'many'"),
    "an unknown setting": ({"ASYNCWORKER_CONCURENCY": "1"}, "asyncworker: ASYNCWORKER_CONCURENCY: no such setting"),
    "fast locals": ({"USE_FAST_LOCALS": "1"}, "asyncworker: USE_FAST_LOCALS is set"),
    "no such result backend": (
        {"ASYNCWORKER_RESULT_URL": "zzz://u:s3cret@h"},
        "asyncworker: result_backend is 'zzz://u:***@h': not one that Celery knows",
    ),
    "no end of a host": (
        {"ASYNCWORKER_RESULT_URL": "redis://:s3cret@[h/0"},
        "asyncworker: result_backend is 'redis://:***@[h/0': not one that Celery knows",
    ),
    "no port": (
        {"ASYNCWORKER_RESULT_URL": "redis://:s3cret@h:port/0"},
        "asyncworker: result_backend is 'redis://:***@h:port/0': not one that Celery knows",
    ),
    "no database": ({"ASYNCWORKER_STORE_URL": "zzz://u:s3cret@h/d"}, "asyncworker: store_url is 'zzz://u:***@h/d': "),
    "no driver": (
        {"ASYNCWORKER_STORE_URL": "mysql+aiomysql://u:s3cret@h/d"},
        "asyncworker: store_url is 'mysql+aiomysql://u:***@h/d': ModuleNotFoundError",
    ),
    "no async driver": (
        {"ASYNCWORKER_STORE_URL": "sqlite:////s3cret"},
        "asyncworker: store_url is 'sqlite:////s3cret': its",
    ),
    "no store": ({"ASYNCWORKER_PAYLOAD_URL": "zzz://u:s3cret@h"}, "asyncworker: payload_url is 'zzz://u:***@h': "),
    "a payload folder below a file": ({"ASYNCWORKER_PAYLOAD_URL": f"{__file__}/x"}, "asyncworker: payload_url is "),
    "a payload folder that is a file": ({"ASYNCWORKER_PAYLOAD_URL": __file__}, "asyncworker: payload_url is "),
    "a mistyped payload URL": ({"ASYNCWORKER_PAYLOAD_URL": "s3:/bucket"}, "asyncworker: payload_url is 's3:/bucket': "),
    "a payload folder of another host": (
        {"ASYNCWORKER_PAYLOAD_URL": "file://host/folder"},
        "asyncworker: payload_url is 'file://host/folder': ",
    ),
    "no Redis for limits": (
        {"ASYNCWORKER_LIMITS_URL": "http://u:s3cret@h"},
        "asyncworker: limits_url is 'http://u:***@h': cluster-wide limits are kept on Redis",
    ),
    "no broker": ({"ASYNCWORKER_BROKER_WAIT_S": "0.2"}, "asyncworker: no broker answers at redis://"),
}


@pytest.mark.parametrize("case", BAD_STARTS)
def test_a_worker_that_cannot_start_says_why_in_one_line(case: str, unused_tcp_port: int) -> None:
    env, message = BAD_STARTS[case]
    broker = {"ASYNCWORKER_BROKER_URL": f"redis://127.0.0.1:{unused_tcp_port}/0"}
    ended = celery("-A", "asyncworker", "worker", **broker, **env)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(message), ended.stderr
    assert "Traceback" not in ended.stderr


OWN_APP = """
import asyncworker, celery

app = asyncworker.install(celery.Celery("mine"))
app.config_from_object({conf!r}, namespace="CELERY")


@app.task(name="mine.where")
async def where():
    from asyncworker.settings import load_settings

    return [app.conf.worker_concurrency, load_settings(conf=app.conf).sync_threads]
"""


def test_a_misspelt_key_of_the_configuration_ends_a_worker_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_APP.format(conf={"CELERY_ASYNCWORKER_CONCURENCY": 3}))
    ended = celery("-A", "mine", "worker", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1] == (
        "asyncworker: CELERY_ASYNCWORKER_CONCURENCY: no such setting; did you mean CELERY_ASYNCWORKER_CONCURRENCY?"
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ASYNCWORKER_CONCURENCY", "3", "no such setting; did you mean ASYNCWORKER_CONCURRENCY?"),
        ("ASYNCWORKER_CONCURRENCY", "many", "ASYNCWORKER_CONCURRENCY is 'many'"),
        ("ASYNCWORKER_INCLUDE", "nowhere", "no module 'nowhere'"),
    ],
)
def test_a_wrong_variable_ends_the_celery_command_of_an_own_app_in_one_line(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(OWN_APP.format(conf={}))
    for command in (("worker",), ("inspect", "ping")):
        ended = celery("-A", "mine", *command, PYTHONPATH=f"{tmp_path}:{ROOT}", **{variable: value})
        assert ended.returncode == 1
        assert ended.stderr.strip().splitlines()[-1].startswith("asyncworker: ")
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_worker_beside_a_service_of_its_name_has_the_settings_of_its_configuration(
    worker: Callable[..., Worker], valkey: EmbeddedServer, client: Celery, tmp_path: Path
) -> None:
    conf = {
        "CELERY_ASYNCWORKER_BROKER_URL": valkey.broker_url,
        "CELERY_ASYNCWORKER_RESULT_URL": valkey.result_url,
        "CELERY_ASYNCWORKER_CONCURRENCY": 3,
        "CELERY_ASYNCWORKER_SYNC_THREADS": 2,
    }
    (tmp_path / "mine.py").write_text(OWN_APP.format(conf=conf))
    links = {"ASYNCWORKER_SERVICE_HOST": "10.0.0.7", "ASYNCWORKER_PORT": "tcp://10.0.0.7:80"}
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "ASYNCWORKER_BROKER_URL": "", "ASYNCWORKER_RESULT_URL": ""} | links
    worker(None, "--without-mingle", app="mine", env=env)
    assert client.send_task("mine.where").get(timeout=120) == [3, 2]


def test_the_loop_thread_is_one_a_process() -> None:
    own_app.an_async_task.apply((1,))
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("asyncworker-loop") == 1


def test_the_package_can_be_run_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from asyncworker import app\n\n@app.task\nasync def hello(): return 'hi'\n")
    ended = subprocess.run(
        [sys.executable, "-c", "import mine; print(mine.hello.apply().get())"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.stdout.strip() == "hi", ended.stderr


def test_a_process_that_gevent_has_patched_is_refused() -> None:
    code = "from gevent import monkey; monkey.patch_all(); import asyncworker; asyncworker.app"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode != 0
    assert "SettingsError: this process is patched by gevent" in ended.stderr
