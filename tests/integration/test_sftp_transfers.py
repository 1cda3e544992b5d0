"""``asyncworker sftp get`` and ``put`` as scripts use them: filters, lists of names, objects, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asyncworker.cli import main
from tests.servers.command import ROOT
from tests.servers.proxy import running_proxy
from tests.servers.sshd import Sshd, running_sshd

COMMAND = [sys.executable, "-c", "from asyncworker.cli import main; main()", "sftp"]


def asyncworker(*arguments: str, stdin: bytes | str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which spares seconds of imports."""
    done = CliRunner().invoke(main, ["sftp", *arguments], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def url(sshd: Sshd) -> str:
    return f"sftp://{sshd.username}@127.0.0.1:{sshd.port}"


@pytest.fixture
def login(sshd: Sshd) -> list[str]:
    return ["-i", str(sshd.client_key), "--known-hosts", str(sshd.known_hosts)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name in ("a.xml", "b.xml", "c.txt", "sub/d.xml", "sub/e.tmp", "#odd"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


FILTERS = [
    (["--exclude", "sub/"], {"a.xml", "b.xml", "c.txt", "#odd"}),
    (["--include", "b.xml", "--exclude", "*.xml"], {"b.xml"}),
    (["--exclude", "b.xml", "--include", "*.xml"], {"a.xml", "sub/d.xml"}),
    (["--exclude=b.xml", "--filter", "+ *.xml", "--filter=- *.*"], {"a.xml", "sub/d.xml", "#odd"}),
    (["--filter", "- *.xml", "--include-from", "{list}"], {"c.txt", "sub/e.tmp"}),
    (["--exclude-from", "{list}"], {"a.xml", "b.xml", "#odd"}),
    (["--files-from", "{list}", "--exclude", "*.tmp"], {"c.txt", "sub/d.xml"}),
    (["--min-size", "6"], {"sub/d.xml", "sub/e.tmp"}),
    (["--max-size", "0.005K"], {"a.xml", "b.xml", "c.txt", "#odd"}),
    (["--include", "{{a,c}}.*"], {"a.xml", "c.txt"}),
]


@pytest.mark.parametrize("direction", ["get", "put"])
@pytest.mark.parametrize(("options", "wanted"), FILTERS, ids=[" ".join(options) for options, _ in FILTERS])
def test_filters_in_the_order_of_the_command_line(
    url: str, login: list[str], source: Path, tmp_path: Path, direction: str, options: list[str], wanted: set[str]
) -> None:
    names = tmp_path / "list"
    names.write_text("# a comment\nc.txt\n\nsub/\n")
    options = [option.format(list=names) for option in options]
    goal = tmp_path / "goal"
    where = [f"{url}{source}", str(goal)] if direction == "get" else [str(source), f"{url}{goal}"]
    done = asyncworker(direction, *where, *options, *login)
    assert done.returncode == 0, done.stderr
    assert files(goal) == wanted


def test_names_with_nul_from_standard_input(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    odd = source / os.fsdecode(b"new\nline \xff")
    odd.write_text("x")
    names = b"a.xml\0#odd\0" + os.fsencode(odd.name) + b"\0gone\0"
    done = asyncworker(
        "put", str(source), f"{url}{tmp_path}/goal", "--files-from", "-", "-0", "--json", *login, stdin=names
    )
    *each, summary = objects(done.stdout)
    assert {path.name for path in (tmp_path / "goal").iterdir()} == {"a.xml", "#odd", odd.name}
    assert (done.returncode, summary["exit_code"], summary["files_done"], summary["files_failed"]) == (23, 23, 3, 1)
    found = next(one for one in each if "local_base64" in one)
    assert b64decode(found["local_base64"]) == os.fsencode(odd)
    assert os.fsencode(found["local"]) == os.fsencode(odd)
    assert [one["error_type"] for one in each if one["outcome"] == "failed"] == ["FileNotFoundError"]


def test_several_sources(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    done = asyncworker("get", f"{url}{source}/a.xml", f"{url}{source}/sub", str(goal), *login)
    assert done.returncode == 0, done.stderr
    assert files(goal) == {"a.xml", "sub/d.xml", "sub/e.tmp"}
    back = tmp_path / "back"
    done = asyncworker("put", f"{goal}/a.xml", f"{goal}/sub/", str(tmp_path / "gone"), f"{url}{back}", *login)
    assert done.returncode == 23
    assert files(back) == {"a.xml", "d.xml", "e.tmp"}
    assert str(tmp_path / "gone") in done.stderr


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("direction", ["get", "put"])
def test_of_two_sources_for_one_place_the_first_is_moved_and_the_second_is_an_error(
    url: str, login: list[str], tmp_path: Path, direction: str, slash: str
) -> None:
    name = "" if slash else "/same"
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same").write_text(folder)
        (tmp_path / folder / folder).touch()
    remote, local = (url, "") if direction == "get" else ("", url)
    sources = [f"{remote}{tmp_path}/{folder}{name}{slash}" for folder in ("x", "y")]
    for _ in range(2):  # what is there already has its place, too
        done = asyncworker(direction, *sources, f"{local}{tmp_path}/goal", *login)
        assert done.returncode == 23
        assert f"refused {tmp_path}/y/same: {tmp_path}/x/same goes to the same place" in done.stderr
        assert files(tmp_path / "goal") == ({"same", "x", "y"} if slash else {"same"})
        assert (tmp_path / "goal" / "same").read_text() == "x"


@pytest.mark.parametrize("direction", ["get", "put"])
def test_a_file_that_is_named_twice_is_moved_once(
    url: str, login: list[str], source: Path, tmp_path: Path, direction: str
) -> None:
    remote, local = (url, "") if direction == "get" else ("", url)
    sources = [f"{remote}{source}{end}" for end in ("/", "/a.xml", "/./a.xml", "/sub/../b.xml")]
    done = asyncworker(direction, *sources, f"{local}{tmp_path}/goal", *login, "--json", "-v")
    assert done.returncode == 0, done.stdout
    *each, summary = objects(done.stdout)
    assert (summary["files_done"], summary["files_skipped"]) == (6, 3)
    assert {one["reason"] for one in each if one["outcome"] == "skipped"} == {"named twice"}
    assert files(tmp_path / "goal") == files(source)


def test_a_source_of_each_of_two_servers_goes_under_its_own_name(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    lines = [
        *("Host one two", f"HostName {sshd.host}", f"Port {sshd.port}", f"User {sshd.username}"),
        *(f"IdentityFile {sshd.client_key}", f"UserKnownHostsFile {sshd.known_hosts}"),
    ]
    (tmp_path / "config").write_text("\n".join(lines))
    options = ["--ssh-config", str(tmp_path / "config")]

    def get(goal: str, *sources: str) -> subprocess.CompletedProcess[str]:
        return asyncworker("get", *sources, str(tmp_path / goal), *options)

    done = get("files", f"sftp://one{source}/a.xml", f"sftp://two{source}/c.txt")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "files") == {"a.xml", "c.txt"}
    done = get("folder", f"sftp://one{source}/sub", f"sftp://two{source}/nowhere", f"sftp://two{source}/a.xml")
    assert done.returncode == 23
    assert files(tmp_path / "folder") == {"a.xml", "sub/d.xml", "sub/e.tmp"}
    done = get("clash", f"sftp://one{source}/a.xml", f"sftp://two{source}/a.xml")
    assert done.returncode == 23
    assert f"two: refused {source}/a.xml: {source}/a.xml of one goes to the same place" in done.stderr


def test_a_line_for_each_file_and_a_reason(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    first = asyncworker("get", f"{url}{source}", str(goal), "-v", "--exclude", "sub/", *login)
    assert f"moved {source}/a.xml -> {goal}/a.xml (5 B)" in first.stdout.splitlines()
    os.utime(source / "b.xml", (1e9, 1e9))
    (source / "c.txt").write_text("longer")
    again = asyncworker("put", str(source), f"{url}{goal}", "--dry-run", "-v", "--exclude", "*.tmp", *login)
    assert set(again.stdout.splitlines()) == {
        f"skipped {source}/a.xml (5 B, same size and time)",
        f"skipped {source}/#odd (4 B, same size and time)",
        f"would move {source}/b.xml -> {goal}/b.xml (5 B, another time)",
        f"would move {source}/c.txt -> {goal}/c.txt (6 B, another size)",
        f"skipped {source}/sub/e.tmp (9 B, filters)",
        f"would move {source}/sub/d.xml -> {goal}/sub/d.xml (9 B, new)",
        "3 files, 20 B would be moved; 2 left out and 1 by filters",
    }


SAYS = [
    (["get", "{url}{source}/*.xlm"], 23, "*.xlm"),
    (["get", "{url}{source}", "--include", "*.xlm"], 23, "no file meets include *.xlm"),
    (["put", "{source}", "{url}{goal}", "--include", "*.xlm"], 23, "no file meets include *.xlm"),
    (["get", "{url}{source}/{{1..3000}}.xml"], 23, "1..3000"),
    (["get", "{url}{source}", "--include", "*.xlm", "--allow-empty"], 0, ""),
    (["get", "{url}{source}", "--exclude", "*"], 0, "left out by the filters"),
    (["get", "{url}{source}/a.xml", "--exclude", "*.xml"], 0, "left out by the filters"),
    (["get", "{url}{source}/gone"], 23, "gone"),
    (["get", "{url}{source}", "/dev/null/x"], 11, "/dev/null/x"),
    (["get", "{url}{source}", "--include", "{{1..9999999}}"], 2, "1..9999999"),
    (["get", "{url}{source}", "--filter", "*.xml"], 2, "'+ PATTERN' or '- PATTERN'"),
    (["get", "{url}{source}", "--exclude", "../x"], 2, "can meet nothing"),
    (["get", "{url}{source}", "--from0"], 2, "--files-from"),
    (["get", "{url}{source}", "-q", "-v"], 2, "exclude each other"),
    (["get", "sftp://127.0.0.1:1/x"], 10, "127.0.0.1:1"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), SAYS, ids=[" ".join(arguments) for arguments, _, _ in SAYS])
@pytest.mark.promise("sftp-exit-code-says-why")
def test_the_exit_code_says_what_went_wrong(
    url: str, login: list[str], source: Path, tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    goal = tmp_path / "goal"
    arguments = [one.format(url=url, source=source, goal=goal) for one in arguments]
    if len(arguments) == 2 or arguments[2].startswith("-"):
        arguments.insert(2, str(goal))
    done = asyncworker(*arguments, *login)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    as_json = asyncworker(*arguments, *login, "--json") if code != 2 and "-v" not in arguments else None
    if as_json is not None:
        assert as_json.returncode == code
        *each, summary = objects(as_json.stdout)
        assert (summary["type"], summary["exit_code"], summary["ok"]) == ("summary", code, code == 0)
        assert {one["type"] for one in each} <= {"file", "error"}
        if code:
            assert any(one["error"] for one in each)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here that is always full")  # noqa: PTH110
@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["get", "-v"], ["get", "--json"], ["get", "-n"]])
def test_standard_output_that_cannot_be_written_is_named(
    url: str, login: list[str], source: Path, tmp_path: Path, command: list[str]
) -> None:
    goal = [str(tmp_path / "goal")] if command[0] == "get" else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*COMMAND, *command, f"{url}{source}", *goal, *login],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=120,
        )
    assert "Error: standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (11 if goal else 1)


def test_a_source_that_cannot_be_sent_is_no_fault_of_the_destination(
    url: str, login: list[str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = asyncworker("put", str(tmp_path / "pipe"), f"{url}{tmp_path}/new", *login)
    assert done.returncode == 23
    assert done.stderr.splitlines()[-1] == f"Error: {tmp_path}/pipe: is not a regular file"
    assert not (tmp_path / "new").exists()


@pytest.mark.promise("sftp-exit-code-says-why")
def test_files_that_vanish_have_an_exit_code_of_their_own(url: str, login: list[str], tmp_path: Path) -> None:
    from asyncworker.cli.sftp.exit_codes import code_of_report
    from asyncworker.errors import SFTPConnectionLost, SFTPFileNotFound, SFTPPermissionDenied
    from asyncworker.sftp import BulkReport, FileResult

    gone = FileResult("/in/a", "a", error=SFTPFileNotFound("gone"))
    unmet = FileResult("", "a", error=SFTPFileNotFound("no file meets"))
    denied = FileResult("/in/b", "b", error=SFTPPermissionDenied("no"))
    lost = FileResult("/in/b", "b", error=SFTPConnectionLost("no"))

    def code(*errors: FileResult, download: bool = True, more: int = 0) -> int:
        return code_of_report(BulkReport(files_failed=len(errors) + more, errors=errors), download=download)

    assert code() == 0
    assert code(gone, gone) == 24
    assert code(gone, more=1) == 23
    assert code(gone, denied) == 23
    assert code(unmet) == 23
    assert code(gone, download=False) == 23  # the folder on the server
    assert code(FileResult("/a", "a", error=FileNotFoundError("a")), download=False) == 24
    assert code(lost) == 12
    assert code(lost, denied) == 23


def test_it_stops_at_the_first_failure(url: str, login: list[str], source: Path, tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    for number in range(40):
        (source / f"{number}.xml").write_text("x")
        (goal / f"{number}.xml").mkdir(parents=True)
    done = asyncworker("get", f"{url}{source}", str(goal), "--fail-fast", "-j", "1", "--json", *login)
    *_, summary = objects(done.stdout)
    assert (done.returncode, summary["files_failed"], summary["stopped"]) == (23, 1, "stopped after 1 failures")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.promise("sftp-summary-is-last")
def test_the_summary_is_last_when_it_is_interrupted(sshd: Sshd, tmp_path: Path, number: signal.Signals) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in range(300):
        (source / f"{name}").write_bytes(bytes(300_000))
    key = sshd.known_hosts.read_text().partition(" ")[2].strip()
    with running_proxy(sshd.port) as proxy:
        url = f"sftp://{sshd.username}@127.0.0.1:{proxy.port}{source}"
        command = [*COMMAND, "get", url, str(tmp_path / "goal"), "--json", "-i", str(sshd.client_key)]
        with subprocess.Popen(
            [*command, "--host-key", key], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        ) as process:
            while proxy.from_server < 3_000_000:
                assert process.poll() is None
                time.sleep(0.001)
            proxy.partition()
            process.send_signal(number)
            output, _ = process.communicate(timeout=120)
    summary = objects(output.decode())[-1]
    assert process.returncode == 128 + number
    assert (summary["type"], summary["exit_code"], summary["ok"]) == ("summary", 128 + number, False)
    assert summary["stopped"] == "interrupted"
    assert summary["files_found"] > 0


@pytest.mark.promise("sftp-summary-is-last")
def test_the_summary_is_last_when_the_connection_is_lost(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    key = sshd.known_hosts.read_text().partition(" ")[2].strip()
    with running_sshd(tmp_path / "other") as other:
        key = other.known_hosts.read_text().partition(" ")[2].strip()
        url = f"sftp://{other.username}@127.0.0.1:{other.port}{source}"
    done = asyncworker("get", url, str(tmp_path / "goal"), "--json", "--retries", "0", "--host-key", key)
    error, summary = objects(done.stdout)
    assert (error["type"], error["error_type"]) == ("error", "SFTPConnectError")
    assert (done.returncode, summary["type"], summary["exit_code"]) == (10, "summary", 10)


def test_sync_wants_a_folder_in_the_url(url: str, login: list[str], source: Path) -> None:
    for ends in ((str(source), url), (url, str(source))):
        done = asyncworker("sync", "--delete", "--dry-run", *ends, *login)
        assert done.returncode == 2
        assert "names no folder" in done.stderr


@pytest.mark.parametrize("direction", ["down", "up"])
def test_sync_mirrors_a_folder(url: str, login: list[str], source: Path, tmp_path: Path, direction: str) -> None:
    goal = tmp_path / "goal"
    (goal / "old").mkdir(parents=True)
    (goal / "old" / "x").write_text("x")
    (goal / "keep.tmp").write_text("x")
    where = [f"{url}{source}", str(goal)] if direction == "down" else [str(source), f"{url}{goal}"]
    options = ["--delete", "--exclude", "*.tmp", *login]
    trial = asyncworker("sync", *where, *options, "--dry-run")
    assert trial.returncode == 0, trial.stderr
    assert {f"would delete {goal}/old/x", f"would delete {goal}/old"} < set(trial.stdout.splitlines())
    assert trial.stdout.splitlines()[-1].endswith("2 would be deleted")
    refused = asyncworker("sync", *where, *options, "--max-delete", "1", "--json")
    *_, summary = objects(refused.stdout)
    assert (refused.returncode, summary["exit_code"], summary["files_deleted"]) == (25, 25, 0)
    assert files(goal) == {"a.xml", "b.xml", "c.txt", "#odd", "sub/d.xml", "old/x", "keep.tmp"}
    done = asyncworker("sync", *where, *options, "--json")
    *each, summary = objects(done.stdout)
    assert done.returncode == 0, done.stderr
    assert summary["files_deleted"] == 2
    assert {one["remote"] or one["local"] for one in each if one["outcome"] == "deleted"} == {
        f"{goal}/old",
        f"{goal}/old/x",
    }
    assert files(goal) == {"a.xml", "b.xml", "c.txt", "#odd", "sub/d.xml", "keep.tmp"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a", "b"], "one of the two is a URL"),
        (["sftp://h/a", "sftp://h/b"], "one of the two is a URL"),
        (["a", "sftp://h/b", "--delete-excluded"], "needs delete"),
        (["a", "sftp://h/b", "--max-delete", "3"], "needs delete"),
        (["a", "sftp://127.0.0.1:1/b", "--delete", "--max-depth", "3"], "all of the source"),
    ],
)
def test_sync_refuses_what_makes_no_sense(arguments: list[str], text: str) -> None:
    done = asyncworker("sync", *arguments)
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr
