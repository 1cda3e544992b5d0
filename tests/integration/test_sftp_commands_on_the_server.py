"""``asyncworker sftp ls | rm | mv | mkdir | ...``, as a user calls them: what works on the server alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from asyncworker.cli import main
from tests.servers.command import ROOT
from tests.servers.sftp import SFTPServer, TidyFiles, running_sftp_server
from tests.servers.sftp_paramiko import running_paramiko_server
from tests.servers.sshd import Sshd, running_sshd

Server = Sshd | SFTPServer


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


class Command:
    """``asyncworker sftp`` on one server."""

    def __init__(self, server: Server) -> None:
        self.url = f"sftp://{server.username}@127.0.0.1:{server.port}"
        self.login = ["-i", str(server.client_key), "--known-hosts", str(server.known_hosts)]

    def __call__(self, command: str, *arguments: str | Path, code: int = 0) -> Result:
        """Run it in this process; a path becomes a URL of the server."""
        given = [f"{self.url}{argument}" if isinstance(argument, Path) else argument for argument in arguments]
        done = CliRunner().invoke(main, ["sftp", command, *given, *self.login])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, done.output
        return done


@pytest.fixture
def run(sshd: Sshd) -> Command:
    return Command(sshd)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of 1, 2 and 3000 bytes, changed in the opposite order; a folder; what begins with a dot; a link."""
    root = tmp_path / "in"
    (root / "sub" / "deep").mkdir(parents=True)
    for number, (name, size) in enumerate([("b.xml", 3000), ("a.xml", 1), ("c.txt", 2)]):
        (root / name).write_bytes(b"x" * size)
        os.utime(root / name, (1_600_000_000 - number, 1_600_000_000 - number))
    (root / "sub" / "d.xml").touch()
    (root / "sub" / "deep" / "e.xml").touch()
    (root / ".hidden").touch()
    (root / "link").symlink_to("a.xml")
    return root


def lines(result: Result) -> list[str]:
    return result.stdout.splitlines()


# -- ls ----------------------------------------------------------------------------------------------------------------


def test_ls_is_short_and_leaves_out_what_begins_with_a_dot(run: Command, tree: Path) -> None:
    assert sorted(lines(run("ls", tree))) == ["a.xml", "b.xml", "c.txt", "link", "sub"]
    assert sorted(lines(run("ls", "-a", tree))) == [".hidden", "a.xml", "b.xml", "c.txt", "link", "sub"]
    assert lines(run("ls", "-d", tree)) == [str(tree)]
    assert sorted(lines(run("ls", "-R", tree))) == sorted(
        ["a.xml", "b.xml", "c.txt", "link", "sub", "sub/d.xml", "sub/deep", "sub/deep/e.xml"]
    )


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--sort", "name"], "a.xml b.xml c.txt"),
        (["-r"], "c.txt b.xml a.xml"),
        (["-S"], "b.xml c.txt a.xml"),
        (["--sort", "size", "-r"], "a.xml c.txt b.xml"),
        (["-t"], "b.xml a.xml c.txt"),
        (["-t", "-r"], "c.txt a.xml b.xml"),
    ],
)
def test_ls_sorts(run: Command, tree: Path, options: list[str], names: str) -> None:
    found = [name for name in lines(run("ls", *options, tree)) if name not in ("sub", "link")]
    assert found == names.split()


def test_ls_shows_what_other_ls_do(run: Command, tree: Path) -> None:
    (tree / "a.xml").chmod(0o640)
    owner = (tree / "a.xml").stat()
    found = {line.split()[-1]: line for line in lines(run("ls", "-l", tree))}
    assert found["a.xml"].split() == [
        *("-rw-r-----", str(owner.st_uid), str(owner.st_gid), "1"),
        *("2020-09-13", "12:26:39", "a.xml"),
    ]
    assert found["sub"].startswith("d")
    assert found["link"].startswith("l")
    assert "3000 " in found["b.xml"]
    assert " 3.0K " in {line.split()[-1]: line for line in lines(run("ls", "-l", "-h", tree))}["b.xml"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.xml", "a.xml b.xml"),
        ("[a-b].xml", "a.xml b.xml"),
        ("{a,c}.*", "a.xml c.txt"),
        ("?.xml", "a.xml b.xml"),
        ("*/*.xml", "sub/d.xml"),
        ("**/*.xml", "a.xml b.xml sub/d.xml sub/deep/e.xml"),
        ("sub/**/e.xml", "sub/deep/e.xml"),
        ("s*b/d*p/*", "sub/deep/e.xml"),
        (".h*", ".hidden"),
        ("a.xml", "a.xml"),
        ("link", "link"),
    ],
)
def test_ls_expands_patterns(run: Command, tree: Path, pattern: str, found: str) -> None:
    assert lines(run("ls", tree / pattern)) == [f"{tree}/{name}" for name in found.split()]


def test_ls_of_folders_and_files_prints_files_first_and_a_header_a_folder(run: Command, tree: Path) -> None:
    found = lines(run("ls", "--sort", "name", tree / "sub", tree / "a.xml"))
    assert found == [f"{tree}/a.xml", "", f"{tree}/sub:", "d.xml", "deep"]


def test_a_name_that_is_a_pattern_too_is_taken_as_it_is(run: Command, tree: Path) -> None:
    (tree / "[a].xml").touch()
    assert lines(run("ls", tree / "[a].xml")) == [f"{tree}/[a].xml"]
    run("rm", tree / "[a].xml")
    assert not (tree / "[a].xml").exists()
    assert (tree / "a.xml").exists()


def test_nothing_that_meets_a_pattern_is_an_error(run: Command, tree: Path) -> None:
    for command in ("ls", "rm", "stat", "rmdir"):
        assert "nothing meets" in run(command, tree / "*.none", code=1).stderr
        assert "no such file" in run(command, tree / "none", code=1).stderr
    assert "a.xml" in run("ls", tree / "*.none", tree / "a.xml", code=1).stdout


HOSTILE = ["new\nline", "escape\x1b[2J", "back\\slash", os.fsdecode(b"latin \xe9"), "bell\x07", "\u202eoverride"]


def test_names_of_others_are_printed_as_escapes_and_given_whole_to_programs(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in HOSTILE:
        (folder / name).touch()
    for options in ([], ["-l"], ["-R"], ["-t"]):
        shown = run("ls", *options, folder).stdout_bytes
        assert len(shown.splitlines()) == len(HOSTILE)
        assert not set(shown.decode()) & set("\x1b\x07\u202e")
    null = run("ls", "-0", folder).stdout_bytes
    assert {os.fsdecode(path) for path in null.split(b"\0")[:-1]} == {f"{folder}/{name}" for name in HOSTILE}
    objects = [json.loads(line) for line in lines(run("ls", "--json", folder))]
    assert {found["path"] for found in objects} == {f"{folder}/{name}" for name in HOSTILE}
    run("rm", folder / "*")
    assert list(folder.iterdir()) == []


def test_ls_json_has_the_documented_keys(run: Command, tree: Path) -> None:
    found = {entry["name"]: entry for entry in map(json.loads, lines(run("ls", "--json", tree)))}
    assert set(found["a.xml"]) == {"path", "name", "type", "size_bytes", "mtime", "mode", "uid", "gid"}
    assert found["a.xml"]["path"] == str(tree / "a.xml")
    assert found["b.xml"]["size_bytes"] == 3000
    assert found["a.xml"]["mtime"] == 1_599_999_999
    assert stat.S_IMODE(found["a.xml"]["mode"]) == stat.S_IMODE((tree / "a.xml").stat().st_mode)
    assert {name: entry["type"] for name, entry in found.items()} == {
        "a.xml": "file",
        "b.xml": "file",
        "c.txt": "file",
        "sub": "directory",
        "link": "link",
    }


class Denied(TidyFiles):
    """Folders that are named so may not be listed, files that are named so not be removed."""

    def scandir(self, path: bytes) -> AsyncIterator[Any]:
        if path.endswith(b"denied"):
            raise PermissionError(13, "Permission denied")
        return super().scandir(path)

    def remove(self, path: bytes) -> Any:
        if path.endswith(b"denied.xml"):
            raise PermissionError(13, "Permission denied")
        return super().remove(path)


@pytest.fixture(scope="module")
def denied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFTPServer]:
    with running_sftp_server(tmp_path_factory.mktemp("denied"), sftp_factory=Denied) as server:
        yield server


@pytest.mark.parametrize("options", [["-R"], ["-R", "-t"], ["-R", "--json"], ["-R", "-0"]])
def test_ls_goes_on_at_a_denied_folder_and_says_so(denied: SFTPServer, tree: Path, options: list[str]) -> None:
    (tree / "denied").mkdir()
    done = Command(denied)("ls", *options, tree, code=1)
    assert "denied: permission denied" in done.stderr
    assert "e.xml" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    if "--json" in options:
        (error,) = [found for found in map(json.loads, lines(done)) if found["type"] == "error"]
        assert set(error) == {"type", "path", "error", "error_type"}
        assert (error["path"], error["error_type"]) == (f"{tree}/denied", "SFTPPermissionDenied")
    alone = Command(denied)("ls", tree / "denied", tree / "a.xml", code=1)
    assert "a.xml" in alone.stdout


def test_ls_ends_without_a_word_when_its_reader_has_enough(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:0200}").touch()
    command = [sys.executable, "-m", "asyncworker", "sftp", "ls", f"{run.url}{folder}", *run.login]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.wait(120)
    assert said == b""


@pytest.mark.parametrize(
    "command",
    ["ls", "stat", "df", "rm", "rmdir", "mkdir", "mv", "chmod 600", "ln -s x", "put -"],
    ids=lambda words: words,
)
def test_what_ends_a_command_is_an_object_too(command: str) -> None:
    name, *words = command.split()
    urls = ["sftp://127.0.0.1:1/a"] * (2 if name == "mv" else 1)
    done = CliRunner().invoke(main, ["sftp", name, *words, *urls, "--json", "--ssh-config", "none"], input="x")
    assert done.exit_code == 10
    assert "127.0.0.1:1" in done.stderr
    error = json.loads(done.stdout)
    assert (error["type"], error["error_type"]) == ("error", "SFTPConnectError")
    assert "127.0.0.1:1" in error["error"]


# -- rm, rmdir ---------------------------------------------------------------------------------------------------------


def test_rm(run: Command, tree: Path) -> None:
    assert run("rm", tree / "*.xml", tree / "c.txt").output == ""
    assert sorted(path.name for path in tree.iterdir()) == [".hidden", "link", "sub"]
    assert "is a folder: -r" in run("rm", tree / "sub", code=1).stderr
    assert run("rm", "-f", tree / "c.txt", tree / "none*").output == ""
    assert lines(run("rm", "-v", tree / "link")) == [f"removed {tree}/link"]
    assert json.loads(run("rm", "--json", tree / ".hidden").stdout) == {
        "action": "removed",
        "path": str(tree / ".hidden"),
    }
    run("rm", "-r", tree / "sub")
    assert list(tree.iterdir()) == []
    run("rmdir", tree)
    assert not tree.exists()


def test_rm_dry_run_removes_nothing(run: Command, tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    shown = lines(run("rm", "-r", "-n", tree))
    assert sorted(shown) == sorted(f"would remove {path}" for path in (tree, *before))
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_rm_removes_a_link_and_nothing_that_it_leads_to(run: Command, tree: Path, slashes: str) -> None:
    (tree / "to_sub").symlink_to("sub")
    link = f"{run.url}{tree}/to_sub{slashes}"
    assert lines(run("rm", "-rn", link)) == [f"would remove {tree}/to_sub"]
    assert lines(run("rm", "-rv", link)) == [f"removed {tree}/to_sub"]
    assert not (tree / "to_sub").is_symlink()
    assert (tree / "sub" / "deep" / "e.xml").exists()


@pytest.mark.parametrize("end", ["/.", "/..", "/../", "/deep/../..", "/./"])
def test_rm_refuses_a_path_that_ends_in_dots(run: Command, tree: Path, end: str) -> None:
    assert "refused to remove" in run("rm", "-rf", f"{run.url}{tree}/sub{end}", code=1).stderr
    assert (tree / "sub" / "deep" / "e.xml").exists()
    run("rm", "-r", "--force", f"{run.url}{tree}/sub/.")
    assert not (tree / "sub").exists()
    assert tree.exists()


def test_rm_goes_on_and_exits_with_1(denied: SFTPServer, tree: Path) -> None:
    (tree / "sub" / "denied.xml").touch()
    done = Command(denied)("rm", "-r", tree, code=1)
    assert len(done.stderr.splitlines()) == 1
    assert "denied.xml: permission denied" in done.stderr
    assert sorted(path.name for path in tree.rglob("*")) == ["denied.xml", "sub"]


class Chrooted(TidyFiles):
    """Its root is a folder, with the home somewhere below."""

    root: str

    def __init__(self, chan: Any) -> None:
        super().__init__(chan, chroot=self.root)

    def realpath(self, path: bytes) -> bytes:
        return super().realpath(b"/home/user" if path in (b".", b"") else path)  # type: ignore[return-value]


@pytest.mark.parametrize("path", ["", "/", "//", "/~", "/~/", "/home", "/home/user/", "/home/../home/user/.", "/link"])
def test_rm_refuses_the_root_and_the_home(tmp_path: Path, path: str) -> None:
    home = tmp_path / "root" / "home" / "user"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to("home")
    factory: Callable[[Any], Any] = type("Here", (Chrooted,), {"root": str(tmp_path / "root")})
    with running_sftp_server(tmp_path / "server", sftp_factory=factory) as server:
        run = Command(server)
        if path == "/link":  # a link is removed itself
            run("rm", "-r", Path(path))
            assert not (tmp_path / "root" / "link").is_symlink()
        else:
            done = CliRunner().invoke(main, ["sftp", "rm", "-r", "-f", f"{run.url}{path}", *run.login])
            assert done.exit_code == 1
            assert "refused" in done.stderr
        assert (home / "sub").exists()
        if path == "/~":
            done = CliRunner().invoke(main, ["sftp", "rm", "-r", "--force", f"{run.url}/~", *run.login])
            assert (done.exit_code, home.exists()) == (0, False), done.output


# -- mv ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paramiko_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFTPServer]:
    with running_paramiko_server(tmp_path_factory.mktemp("paramiko")) as server:
        yield server


@pytest.fixture(params=["openssh", "paramiko"])
def any_run(request: pytest.FixtureRequest, sshd: Sshd) -> Command:
    """On a server that renames over a file, and on one that does not."""
    return Command(sshd if request.param == "openssh" else request.getfixturevalue("paramiko_server"))


def test_mv(any_run: Command, tree: Path) -> None:
    run = any_run
    run("mv", tree / "a.xml", tree / "new.xml")
    assert (tree / "new.xml").read_bytes() == b"x"
    run("mv", tree / "new.xml", tree / "b.xml")  # replaces it
    assert (tree / "b.xml").read_bytes() == b"x"
    assert lines(run("mv", "-v", tree / "b.xml", tree / "sub")) == [f"moved {tree}/b.xml -> {tree}/sub/b.xml"]
    run("mv", tree / "sub" / "*.xml", tree / "c.txt", f"{run.url}{tree}/sub/deep/")
    assert sorted(path.name for path in (tree / "sub" / "deep").iterdir()) == ["b.xml", "c.txt", "d.xml", "e.xml"]
    run("mv", tree / "sub", tree / "other")
    assert (tree / "other" / "deep" / "c.txt").read_bytes() == b"xx"
    assert sorted(path.name for path in tree.iterdir()) == [".hidden", "link", "other"]  # nothing aside is left


def test_mv_never_moves_two_files_to_one_name(any_run: Command, tree: Path) -> None:
    (tree / "sub" / "a.xml").write_bytes(b"another")
    (tree / "goal").mkdir()
    done = any_run("mv", tree / "a.xml", tree / "sub" / "a.xml", tree / "goal", code=1)
    assert "would replace what was just moved" in done.stderr
    kept = {
        path.read_bytes() for path in (tree / "goal" / "a.xml", tree / "a.xml", tree / "sub" / "a.xml") if path.exists()
    }
    assert kept == {b"x", b"another"}


def test_mv_replaces_nothing_that_it_should_not(any_run: Command, tree: Path) -> None:
    run = any_run
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    run("mv", "-n", tree / "a.xml", tree / "b.xml")
    assert json.loads(run("mv", "-n", "--json", tree / "a.xml", tree / "b.xml").stdout)["action"] == "skipped"
    assert "onto itself" in run("mv", tree / "a.xml", tree / "a.xml", code=1).stderr
    assert "not a folder" in run("mv", tree / "a.xml", tree / "b.xml", tree / "c.txt", code=1).stderr
    assert "not a folder" in run("mv", tree / "sub", tree / "a.xml", code=1).stderr
    assert "not a folder" in run("mv", tree / "a.xml", f"{run.url}{tree}/c.txt/", code=1).stderr
    assert "no such" in run("mv", tree / "none", tree / "b.xml", code=1).stderr
    (tree / "sub" / "a.xml").mkdir()
    assert "is a folder" in run("mv", tree / "a.xml", tree / "sub", code=1).stderr
    assert "would move" in run("mv", "--dry-run", tree / "a.xml", tree / "b.xml").stdout
    assert "one server" in run("mv", tree / "a.xml", "sftp://elsewhere/b.xml", code=2).stderr
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


# -- mkdir, stat, df, ln, chmod ----------------------------------------------------------------------------------------


def test_mkdir(run: Command, tmp_path: Path) -> None:
    run("mkdir", tmp_path / "a", tmp_path / "b")
    assert run("mkdir", tmp_path / "a", tmp_path / "c", code=1).stderr.count("failed: ") == 1
    assert (tmp_path / "c").is_dir()
    run("mkdir", "-p", "-m", "2775", tmp_path / "x" / "y", tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "x" / "y").stat().st_mode) & 0o777 == 0o775
    assert "octal" in run("mkdir", "-m", "u+x", tmp_path / "z", code=2).stderr
    (tmp_path / "file").touch()
    run("mkdir", "-p", tmp_path / "file", code=1)


def test_ln_chmod_and_stat(run: Command, tree: Path) -> None:
    run("ln", "-s", "../in/b.xml", tree / "ln")
    assert os.readlink(tree / "ln") == "../in/b.xml"  # noqa: PTH115
    run("chmod", "600", tree / "*.xml")
    assert {stat.S_IMODE((tree / name).stat().st_mode) for name in ("a.xml", "b.xml")} == {0o600}
    run("chmod", "-R", "700", tree / "sub")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tree / "sub", *(tree / "sub").rglob("*"))} == {0o700}
    run("chmod", "-R", "400", tree / "sub")  # keeps all but root out of the folders
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tree / "sub", *(tree / "sub").rglob("*"))} == {0o400}
    found = json.loads(run("stat", "--json", tree / "ln").stdout)
    assert (found["type"], found["target"], found["path"]) == ("link", "../in/b.xml", str(tree / "ln"))
    assert set(found) == {"path", "name", "type", "size_bytes", "mtime", "atime", "mode", "uid", "gid", "target"}
    shown = run("stat", tree / "b.xml").stdout
    assert "3,000 bytes" in shown
    assert "0600 -rw-------" in shown


def test_df(run: Command, paramiko_server: SFTPServer, tmp_path: Path) -> None:
    there = os.statvfs(tmp_path)
    found = json.loads(run("df", "--json", tmp_path).stdout)
    assert found["size_bytes"] == there.f_blocks * there.f_frsize
    header, line = lines(run("df", tmp_path))
    assert header.split() == ["1K-blocks", "Used", "Available", "Use%", "Path"]
    assert line.split()[0] == str(-(-found["size_bytes"] // 1024))
    assert line.split()[-1] == str(tmp_path)
    assert lines(run("df", "-h", tmp_path))[1].split()[0][-1] in "KMGTP"
    assert "does not offer statvfs" in Command(paramiko_server)("df", tmp_path, code=1).stderr
