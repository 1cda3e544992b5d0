"""``host:path`` in every command of ``asyncworker sftp``, by both transports, with aliases of the SSH configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asyncworker.cli import main
from tests.servers.sftp_hostile import Hostile, running_hostile_server
from tests.servers.sshd import Sshd, running_sshd

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Sshd]]:
    """One that has the files, and one on the way to it."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as sshd, running_sshd(tmp_path_factory.mktemp("gate")) as gate:
        yield sshd, gate


def block(name: str, server: Sshd, *more: str) -> str:
    lines = [
        *(f"Host {name}", f"HostName {server.host}", f"Port {server.port}", f"User {server.username}"),
        *(f"IdentityFile {server.client_key}", "IdentitiesOnly yes", f"UserKnownHostsFile {server.known_hosts}", *more),
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(params=["asyncssh", "openssh"])
def run(request: pytest.FixtureRequest, servers: tuple[Sshd, Sshd], tmp_path: Path) -> Run:
    """The command, with an alias ``files`` in a file that is included, reached by way of ``gate``."""
    sshd, gate = servers
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "files").write_text(block("files", sshd, "ProxyJump gate"))
    config = tmp_path / "config"
    config.write_text(f"Include {tmp_path}/conf.d/*\n{block('gate', gate)}")
    for path in (config, tmp_path / "conf.d" / "files"):
        path.chmod(0o600)
    options = ["--ssh-config", str(config), *(["--openssh"] if request.param == "openssh" else [])]

    def call(command: str, *arguments: object, code: int = 0) -> Result:
        done = CliRunner().invoke(main, ["sftp", command, *map(str, arguments), *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, done.output
        return done

    return call


def test_every_command_takes_it(
    run: Run, tmp_path: Path, servers: tuple[Sshd, Sshd], capfd: pytest.CaptureFixture[str]
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "sub").mkdir(parents=True)
    for name in ("a.xml", "b.txt", "sub/c.xml", "100%20.xml"):
        (there / name).write_text(name)
    run("get", f"files:{there}", here)
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*.*")) == [
        *("100%20.xml", "a.xml", "b.txt", "sub/c.xml"),
    ]
    run("get", f"files:{there}/*.txt", f"files:{there}/sub/c.xml", here / "some")
    assert sorted(path.name for path in (here / "some").iterdir()) == ["b.txt", "c.xml"]
    run("cat", f"files:{there}/100%20.xml")
    run("get", f"{servers[0].username}@files:{there}/a.xml", "-")
    assert capfd.readouterr().out == "100%20.xmla.xml"
    run("put", here / "a.xml", here / "sub", f"files:{there}/up")
    assert (there / "up" / "sub" / "c.xml").read_text() == "sub/c.xml"
    run("sync", "--delete", here / "sub", f"files:{there}/up")
    assert [path.name for path in (there / "up").iterdir()] == ["c.xml"]
    run("sync", f"files:{there}/up", here / "down")
    assert [path.name for path in (here / "down").iterdir()] == ["c.xml"]
    assert run("ls", f"files:{there}/*.xml").stdout.split() == [f"{there}/100%20.xml", f"{there}/a.xml"]
    run("mkdir", f"files:{there}/done")
    run("mv", f"files:{there}/*.xml", f"files:{there}/done/")
    assert sorted(path.name for path in (there / "done").iterdir()) == ["100%20.xml", "a.xml"]
    assert f"path:     {there}/b.txt" in run("stat", f"files:{there}/b.txt").stdout
    run("chmod", "600", f"files:{there}/b.txt")
    assert (there / "b.txt").stat().st_mode & 0o777 == 0o600
    assert run("df", f"files:{there}").stdout.split()[-1] == str(there)
    run("rm", "-r", f"files:{there}/done")
    assert not (there / "done").exists()
    assert "Accepted publickey" in servers[1].log()  # by way of the gate


def test_what_is_no_path_on_one_server_is_refused(run: Run, tmp_path: Path) -> None:
    assert "host:path" in run("sync", "files:/a", "files:/b", code=2).output
    assert "names no folder" in run("sync", "--delete", tmp_path, "files:", code=2).output
    assert "one server" in run("mv", "files:/a", "gate:/b", code=2).output
    assert "daemon" in run("ls", "files::a", code=2).output
    (tmp_path / "a:b").write_text("x")
    assert "is no URL" in run("put", "files:/a", f"{tmp_path}/a:b", code=2).output


def test_a_path_without_a_slash_is_below_the_home_folder(tmp_path: Path) -> None:
    hostile = Hostile()
    hostile.tree.write("/in/a", b"content")
    with running_hostile_server(tmp_path / "server", hostile) as server:
        config = tmp_path / "config"
        config.write_text(block("files", server))  # type: ignore[arg-type]

        def call(command: str, *arguments: object) -> Result:
            done = CliRunner().invoke(main, ["sftp", command, *map(str, arguments), "--ssh-config", str(config)])
            assert done.exit_code == 0, done.output
            return done

        call("get", "files:in/a", tmp_path / "got")
        assert call("ls", "files:").stdout.split() == ["in"]
        call("put", tmp_path / "got", "files:in/b")
    assert (tmp_path / "got").read_bytes() == hostile.tree.read("/in/b") == b"content"
    opened = {request.path for request in hostile.of("OPEN")}
    assert b"in/a" in opened
    assert not [path for path in opened if path.startswith(b"/")]
