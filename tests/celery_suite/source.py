"""The suite's source: the tests of the installed Celery, from its source distribution, which pip downloads."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.servers import MissingServer

__all__ = ["fetch_suite", "prepare"]

#: The fixtures that decide which apps and which worker the suite has come last, and so replace its own.
_FIXTURES = "\n\nfrom tests.celery_suite.plugin import celery_app, celery_worker_parameters, celery_worker_pool\n"

#: The suite waits up to a minute for what a task pushes; redis-py's own limit for an answer is shorter.
_REDIS = ("StrictRedis(host=host, port=port)", "StrictRedis(host=host, port=port, socket_timeout=None)")

#: Modules with this need RabbitMQ, with its management, on the ports of a default installation, or a container.
_FIXED_SERVERS = r"\b1?5672\b"

#: Where a test starts a worker of its own.
_POOL = r"pool=['\"](solo|prefork)['\"],"


def fetch_suite(folder: Path) -> Path:
    """Download the source distribution of the installed Celery and unpack its tests.

    Returns:
        A folder that holds ``t/`` and the suite's ``pyproject.toml``, but not Celery itself: what is tested is what is
        installed.

    Raises:
        MissingServer: pip cannot download it here.
    """
    version = importlib.metadata.version("celery")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "celery"]
    done = subprocess.run(
        [*command, f"celery=={version}", "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingServer(f"pip cannot download the source of celery {version}: {done.stderr.strip()}")
    root = folder / f"celery-{version}"
    wanted = (f"{root.name}/t/__init__.py", f"{root.name}/t/skip.py", f"{root.name}/t/integration/")
    with tarfile.open(folder / f"{root.name}.tar.gz") as archive:
        members = [
            member
            for member in archive.getmembers()
            if member.name.startswith(wanted) or member.name == f"{root.name}/pyproject.toml"
        ]
        archive.extractall(folder, members=members, filter="data")
    return root


def prepare(suite: Path, pool: str, *, async_tasks: bool) -> list[Path]:
    """Have the suite use the runner's pool and servers, and its tasks as ``async def`` where that is wanted.

    Returns:
        The modules with tests that can run here.
    """
    folder = suite / "t" / "integration"
    with (folder / "conftest.py").open("a") as conftest:
        conftest.write(_FIXTURES)
    tasks = folder / "tasks.py"
    source = tasks.read_text().replace(*_REDIS)
    tasks.write_text(as_async(source) if async_tasks else source)
    modules = []
    for module in sorted(folder.glob("test_*.py")):
        source = module.read_text()
        if not re.search(_FIXED_SERVERS, source):
            modules.append(module.relative_to(suite))
        if pool != "prefork":
            module.write_text(re.sub(_POOL, f"pool={pool!r},", source))
    return modules


def as_async(source: str) -> str:
    """Return a module with every task's body as a coroutine function, with awaited sleeps."""
    tree = ast.parse(source)
    tasks = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _is_task(node)}
    changed = _AsyncTasks(tasks).visit(tree)
    changed.body.insert(0, ast.Import([ast.alias("asyncio")]))
    return ast.unparse(ast.fix_missing_locations(changed))


def _is_task(node: ast.FunctionDef) -> bool:
    for decorator in node.decorator_list:
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(named, ast.Name) and named.id == "shared_task":
            return True
    return False


class _AsyncTasks(ast.NodeTransformer):
    """Rewrites tasks, and ``run`` of task classes; functions inside of them stay as they are.

    Args:
        tasks: Names of functions that are tasks: a direct call of one is awaited.
    """

    def __init__(self, tasks: set[str]) -> None:
        self._tasks = tasks
        self._in_task = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [
            self._as_coroutine(each) if isinstance(each, ast.FunctionDef) and each.name == "run" else self.visit(each)
            for each in node.body
        ]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if not self._in_task and _is_task(node):
            return self._as_coroutine(node)
        inside, self._in_task = self._in_task, False
        self.generic_visit(node)
        self._in_task = inside
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not self._in_task or not isinstance(node.func, ast.Name):
            return node
        if node.func.id == "sleep":
            return ast.Await(
                ast.Call(ast.Attribute(ast.Name("asyncio", ast.Load()), "sleep", ast.Load()), node.args, [])
            )
        return ast.Await(node) if node.func.id in self._tasks else node

    def _as_coroutine(self, node: ast.FunctionDef) -> ast.AsyncFunctionDef:
        self._in_task = True
        body = [self.visit(statement) for statement in node.body]
        self._in_task = False
        fields = {name: getattr(node, name) for name in node._fields}
        return ast.copy_location(ast.AsyncFunctionDef(**(fields | {"body": body})), node)
