"""An SFTP server on a tree in memory, with a switch for each way in which a server may misbehave.

    hostile = Hostile(refuse={"RENAME": PERMISSION_DENIED}, without=("posix-rename",))
    hostile.tree.write("/in/a", b"content")
    with running_hostile_server(tmp_path, hostile) as server:
        ...
    assert hostile.count("RENAME") == 1
    assert hostile.open_handles == []

`Switches` lists all of them. They may be changed while the server runs, from any thread.
"""

from tests.servers.sftp_hostile.attributes import (
    Stat,
    claim_size,
    without_attributes,
    without_type_bits,
)
from tests.servers.sftp_hostile.hostile import Hostile, running_hostile_server
from tests.servers.sftp_hostile.requests import Request
from tests.servers.sftp_hostile.switches import Switches
from tests.servers.sftp_hostile.tree import (
    BAD_MESSAGE,
    EOF,
    FAILURE,
    NO_SUCH_FILE,
    OK,
    PERMISSION_DENIED,
    UNSUPPORTED,
    Refused,
    Tree,
)

__all__ = [
    "BAD_MESSAGE",
    "EOF",
    "FAILURE",
    "NO_SUCH_FILE",
    "OK",
    "PERMISSION_DENIED",
    "UNSUPPORTED",
    "Hostile",
    "Refused",
    "Request",
    "Stat",
    "Switches",
    "Tree",
    "claim_size",
    "running_hostile_server",
    "without_attributes",
    "without_type_bits",
]
