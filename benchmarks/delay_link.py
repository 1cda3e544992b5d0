"""A slow road on one machine: a network namespace that is reached through a link with a delay.

A process holds both ends of the link, two TUN devices, and hands on each packet when its time has come. The kernel's
own TCP runs on both sides, with its windows and its slow start; segments cross in pieces of up to 64 KB (TSO), so that
one Python process keeps up with them. What it can carry at most is measured by :func:`capacity`, to be printed beside
what runs through it. Wants root, Linux and ``ip``; the addresses are of the range that is set aside for benchmarks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asyncworker.processes import Child

__all__ = ["DelayLink", "MissingLink", "capacity", "running_link"]

#: RFC 2544, appendix C.2.2. Two addresses, and nothing else: a wider route could hide a machine that is really there.
_NEAR, _FAR = "198.18.201.1", "198.18.201.2"

# linux/if_tun.h, linux/sched.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x1, 0x2
_CLONE_NEWNET = 0x40000000

_PACKET_BYTES = 70_000
_PACKETS_AT_ONCE = 64
_READY = "the link is up"
_PROBE_BYTES = 64 * 1024 * 1024


class MissingLink(Exception):
    """This machine cannot have such a link."""


@dataclass(frozen=True)
class DelayLink:
    """A link that is up.

    Attributes:
        host: The address of the far side.
        enter: A command's first words, so that it runs on the far side.
    """

    host: str
    enter: tuple[str, ...]


@contextlib.contextmanager
def running_link(folder: Path, round_trip_s: float) -> Iterator[DelayLink]:
    """Have a link while the block runs.

    Raises:
        MissingLink: Says what it lacks.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise MissingLink("the delay link wants Linux and root")
    if not Path("/dev/net/tun").exists():
        raise MissingLink("the delay link wants /dev/net/tun")
    enter = shutil.which("nsenter")
    if shutil.which("ip") is None or enter is None:
        raise MissingLink("the delay link wants the programs ip and nsenter (Debian: iproute2, util-linux)")
    if _is_routed(_FAR):
        raise MissingLink(f"{_FAR} is in use here already, by a network or by another benchmark")
    command = [sys.executable, str(Path(__file__).resolve()), str(round_trip_s / 2)]
    root = Path(__file__).resolve().parents[1]
    with Child(command, log=folder / "link.log", env={**os.environ, "PYTHONPATH": str(root)}) as child:
        if not child.wait_for_log(_READY, 10.0):
            raise MissingLink(f"the delay link did not start: {child.log_tail(1)}")
        yield DelayLink(_FAR, (enter, f"--net=/proc/{child.pid}/ns/net"))


def capacity(link: DelayLink) -> tuple[float, float]:
    """Return the round trip in seconds, and the bytes a second that one TCP stream of zeros gets from the far side."""
    program = (
        "import socket;"
        f"s=socket.create_server(({link.host!r},0));print(s.getsockname()[1],flush=True);"
        f"c=s.accept()[0];c.sendall(bytes({_PROBE_BYTES}));c.close()"
    )
    command = [*link.enter, sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        began_at = time.perf_counter()
        with socket.create_connection((link.host, port), timeout=30) as stream:
            connected_at = time.perf_counter()
            received = 0
            while data := stream.recv(1 << 20):
                received += len(data)
        ended_at = time.perf_counter()
    return connected_at - began_at, received / (ended_at - connected_at)


# -- the process of the link ------------------------------------------------------------------------------------------


class _Way:
    """One direction: read from one device, written to the other when it is due."""

    def __init__(self, source: int, goal: int, delay_s: float) -> None:
        self._source = source
        self._goal = goal
        self._delay_s = delay_s
        self._packets: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """Read what is there."""
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(self._source, _PACKET_BYTES)
            except BlockingIOError:
                return
            self._packets.append((time.monotonic() + self._delay_s, packet))

    def hand_on(self) -> None:
        """Write what is due."""
        packets, now = self._packets, time.monotonic()
        while packets and packets[0][0] <= now:
            try:
                os.write(self._goal, packets[0][1])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EIO):  # a packet that the device does not take is lost
                    raise
            packets.popleft()

    def wait_s(self) -> float | None:
        """How long until something is due."""
        return max(0.0, self._packets[0][0] - time.monotonic()) if self._packets else None


def _is_routed(address: str) -> bool:
    """Whether the kernel knows that address by more than its default route."""
    found = subprocess.run(["ip", "route", "show", "to", "match", address], capture_output=True, text=True, check=True)
    return any(not line.startswith("default") for line in found.stdout.splitlines())


def _device(name: str, address: str, peer: str) -> int:
    """Make a TUN device in the namespace of this thread, and bring it up."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    for arguments in (
        ["addr", "add", f"{address}/32", "peer", f"{peer}/32", "dev", name],
        ["link", "set", name, "up", "txqueuelen", "10000"],
        ["link", "set", "lo", "up"],
    ):
        subprocess.run(["ip", *arguments], check=True)
    return descriptor


def main() -> None:
    """Carry packets until killed: ``delay_link.py SECONDS_ONE_WAY``."""
    delay_s = float(sys.argv[1])
    near = _device("slow-near", _NEAR, _FAR)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    far = _device("slow-far", _FAR, _NEAR)
    there, back = _Way(near, far, delay_s), _Way(far, near, delay_s)
    print(_READY, flush=True)
    while True:
        waits = [wait for wait in (there.wait_s(), back.wait_s()) if wait is not None]
        readable, _, _ = select.select([near, far], [], [], min(waits, default=None))
        if near in readable:
            there.take()
        if far in readable:
            back.take()
        there.hand_on()
        back.hand_on()


if __name__ == "__main__":
    main()
