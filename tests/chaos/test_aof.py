"""What the chaos runs read of a broker's append-only file: messages that were given to a worker, and never came."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import redis

from tests.chaos.history.aof import OPTIONS, taken_and_gone
from tests.servers.valkey import running_valkey


def message(task_id: str) -> str:
    return json.dumps({"headers": {"id": task_id}, "body": "Zm9v\r\n"})


def send(connection: redis.Redis, *task_ids: str) -> None:
    for task_id in task_ids:
        connection.lpush("celery", message(task_id))


def take(connection: redis.Redis) -> str:
    answer: Any = connection.brpop(["celery"], timeout=5)
    return str(json.loads(answer[1])["headers"]["id"])


def enter(connection: redis.Redis, task_id: str) -> None:
    connection.hset("unacked", f"tag of {task_id}", json.dumps([json.loads(message(task_id)), "", "celery"]))


def give_back(connection: redis.Redis, task_id: str) -> None:
    with connection.pipeline() as pipe:
        pipe.hdel("unacked", f"tag of {task_id}")
        pipe.rpush("celery", message(task_id))
        pipe.execute()


def test_it_tells_what_nobody_has_had(tmp_path: Path) -> None:
    with running_valkey(tmp_path, OPTIONS) as server:
        began_at_s = time.time()
        with server.connect() as one:
            send(one, "done", "entered", "back", "lost")
            assert [take(one) for _ in range(4)] == ["done", "entered", "back", "lost"]
            for task_id in ("done", "entered", "back"):
                enter(one, task_id)
            one.hdel("unacked", "tag of done")
            give_back(one, "back")
            send(one, "waits")
            assert taken_and_gone(tmp_path).keys() == {"lost"}
        server.kill()
        server.start()
        with server.connect() as other:
            assert take(other) == "back"
            found = taken_and_gone(tmp_path)
            assert found.keys() == {"lost", "back"}
            assert began_at_s - 1 <= found["lost"] <= found["back"] <= time.time()
            # A batch is entered before it leaves the queue.
            enter(other, "waits")
            other.ltrim("celery", 0, -2)
            send(other, "last")
            assert take(other) == "last"
            assert taken_and_gone(tmp_path).keys() == {"lost", "back", "last"}
