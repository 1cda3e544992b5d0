from __future__ import annotations

import pytest
from redis.exceptions import (
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from asyncworker.redis_refusals import RefusedForNow, refuses_for_now


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica. script: on @user_script:6."),
        OutOfMemoryError("Command # 1 (SETEX key 1 value) of pipeline caused error: command not allowed"),
        ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist"),
        ResponseError("Command # 2 (SET key value) of pipeline caused error: NOREPLICAS Not enough good replicas"),
        ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"),
        ResponseError("BUSY Redis is busy running a script."),
        ResponseError("Error running script (call to f_ab): @user_script:6: @user_script: 6: -OOM command not allowed"),
        RefusedForNow("as kombu is told it"),
    ],
)
def test_what_passes(error: Exception) -> None:
    assert refuses_for_now(error)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        ResponseError("BUSYGROUP Consumer Group name already exists"),
        ResponseError("Command # 1 (SET key : -OOM) of pipeline caused error: WRONGTYPE Operation against a key"),
        ResponseError("unknown command 'READONLY'"),
        NoPermissionError("this user has no permissions to run the 'evalsha' command"),
        NoScriptError("No matching script."),
        ConnectionError("Connection refused"),
        ValueError("OOM"),
    ],
)
def test_what_does_not(error: Exception) -> None:
    assert not refuses_for_now(error)
