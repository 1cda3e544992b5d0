"""What the README says is what the code does."""

import ast
import inspect
import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

from click.testing import CliRunner

from asyncworker import sftp
from asyncworker.cli import main
from asyncworker.cli.sftp import sftp as sftp_command
from asyncworker.settings import ENV_PREFIX, Settings
from tests import settings_table

README = settings_table.README.read_text()
ROOT = settings_table.README.parent
CI = (ROOT / ".ci" / "run").read_text()

TRY = "python3 -m venv .venv && .venv/bin/python -m pip install -q -e . && .venv/bin/asyncworker demo"
TEST = "python3 -m venv .venv && .venv/bin/python -m pip install -q -e '.[dev]' && .venv/bin/python -m pytest"


def test_the_settings_table_is_that_of_settings_py() -> None:
    assert settings_table.written() == settings_table.table(), "run: python -m tests.settings_table"


def test_every_setting_is_described_and_named_nowhere_else() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.__struct_fields__}
    # Read elsewhere: the path of a program, and secrets that no settings object may hold.
    known |= {"ASYNCWORKER_REDIS_SERVER", "ASYNCWORKER_SFTP_PASSWORD", "ASYNCWORKER_SFTP_PASSPHRASE"}
    assert set(re.findall(r"ASYNCWORKER_\w+", README)) == known


def test_the_two_commands_stand_there_literally_and_ci_runs_the_second() -> None:
    assert f"```\n{TRY}\n```" in README
    assert f"```\n{TEST}\n```" in README
    assert TEST in CI
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_every_command_is_in_the_table() -> None:
    for name, command in main.commands.items():
        assert f"| `asyncworker {name}" in README
        (row,) = [line for line in README.splitlines() if line.startswith(f"| `asyncworker {name}")]
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        for option in options:
            assert option in row or f"-{option[2]} " in row, f"{option} of {name} is not in the README"


def test_help_names_every_command() -> None:
    answer = CliRunner().invoke(main, ["--help"])
    assert answer.exit_code == 0
    for name in main.commands:
        assert f"  {name} " in answer.output


def test_the_fan_out_in_it_is_built_as_written(tmp_path: Path) -> None:
    _shop, pull, run, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    built, sent, rest = run.partition(".delay()")
    # All but the sending; in a process of its own, since the default app is one a process.
    (tmp_path / "pull.py").write_text(pull)
    program = f"{built}\nprint(result.task, result.kwargs['task'])\nfrom asyncworker import IterateResult\n"
    program += "".join(f"IterateResult.{name}\n" for name in re.findall(r"result\.(\w+)\(\)", rest))
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert sent
    assert answer.stdout.split() == ["asyncworker.iterate", "pull.fetch"], answer.stderr


def test_the_resource_in_it_is_declared_as_written() -> None:
    (stock,) = re.findall(r"```python\n(# stock.py\n.*?)```", README, re.DOTALL)
    # What `delay` would check the arguments against.
    program = f"{stock}\ncount.__header__('sku-1')\nprint(shelf)"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert "shelf" in answer.stdout, answer.stderr


def test_what_it_says_of_sftp_are_names_and_options_that_exist() -> None:
    section = README.partition("\n## SFTP\n")[2].partition("\n## ")[0]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        for call in ast.walk(ast.parse(f"async def example():\n{textwrap.indent(block, '    ')}")):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("sftp.download", "sftp.upload"):
                function = getattr(sftp, ast.unparse(call.func).partition(".")[2])
                inspect.signature(function).bind(*call.args, **{key.arg: key.value for key in call.keywords if key.arg})
    for name in re.findall(r"`(\w+)`", section.partition("| | |")[2].partition("\n\n")[0]):
        assert hasattr(sftp.SFTPPool, name), name
    options = section.partition("Options of a pool")[2]
    for name in re.findall(r"`(\w+)(?:=[^`]*)?`", options.partition(": the program")[0]):
        assert name in inspect.signature(sftp.SFTPPool).parameters or hasattr(sftp, name), name


def test_the_commands_of_sftp_and_their_options_exist() -> None:
    table = README.partition("| In a shell | |\n")[2].partition("\n\n")[0]
    shown = set()
    for row in table.splitlines()[1:]:
        named, about = row.replace("\\|", "/").strip("| ").split(" | ")
        commands = [sftp_command.commands[name.split()[0]] for name in re.findall(r"`([a-z][^`]*)`", named)]
        shown |= {command.name for command in commands}
        known = {option for command in commands for parameter in command.params for option in parameter.opts}
        for code in re.findall(r"`([^`]*)`", about):
            if not code.startswith("xargs"):
                assert set(re.findall(r"(?<![\w-])--?[a-zA-Z0-9][a-z-]*", code)) <= known, code
    assert shown == set(sftp_command.commands)
