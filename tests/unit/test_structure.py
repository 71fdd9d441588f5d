"""The shape of the package: what may import what, what is documented, and how large it may grow."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import zbus

ROOT = Path(zbus.__file__).parent
# A module imports from its own package and from the lines above its own; never from a neighbour on its line.
LAYERS = (
    ("errors", "event"),
    ("protocol",),
    ("options", "policy"),
    ("runtime",),
    ("roster",),
    ("sending", "receiving"),
    ("node", "channel"),
    ("bus",),
    ("aio",),
    ("logging",),
    ("__init__",),
    ("observe", "recording", "links"),
    ("web",),
    ("testing", "cli"),
    ("__main__",),
)
PURE = ("errors", "event", "options", "policy", "protocol")
# The packages that users may rely on. The others say in their first line that they are internal.
FACES = ("aio", "links", "testing", "cli")
INTERNAL = ("protocol", "runtime", "roster", "sending", "receiving", "node", "observe", "recording", "web")
# What the pure core may use of the world. `policy` opens the file it is told to, no more.
HARMLESS = {"__future__", "collections.abc", "itertools", "math", "re", "typing"}
ALSO = {
    "protocol/typed": {"functools", "importlib"},
    "protocol/exact": {"enum", "gc", "json", "orjson", "sys"},
    "protocol/nulls": {"dataclasses", "datetime", "enum", "functools", "marshal", "operator", "uuid"},
    "protocol/wire": {"operator", "orjson"},
    "event": {"typing_extensions"},  # of type checkers alone
    "protocol/decoder": {"collections", "orjson", "weakref"},
    "protocol/marks": {"collections"},
    "protocol/undecoded": {"collections"},
    "protocol/relayed": {"functools"},
    "protocol/rows": {"orjson"},
    "policy": {"tomllib", "os.PathLike"},
}
# Names of Python's own that begin with an underscore: of named tuples and of `os`, and two of `threading`.
NO_SECRETS = {"_replace", "_asdict", "_fields", "_exit", "_at_fork_reinit", "_delete"}
MAX_LINES = 400
MAX_FUNCTION_LINES = 60

FILES = sorted(path for path in ROOT.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def dotted(path: Path) -> str:
    return ".".join(("zbus", *path.relative_to(ROOT).with_suffix("").parts))


each_file = pytest.mark.parametrize("path", FILES, ids=dotted)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each import of a file, wherever it stands, as (module, name); the name may be empty."""
    package = dotted(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((module, alias.name) for alias in node.names)


def place(module: str) -> tuple[int, str]:
    """Return the line and the name in `LAYERS` of a module: `zbus`, `zbus.bus` or `zbus.cli.send`."""
    _, first, *_ = [*module.split("."), "__init__"]
    for line, names in enumerate(LAYERS):
        if first in names:
            return line, first
    raise AssertionError(f"{module} has no place in LAYERS yet")


def inner_imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports."""
    for module, name in imports(path):
        if module.split(".")[0] == "zbus":
            path = ROOT.parent / f"{module}.{name}".replace(".", "/")
            is_module = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
            yield f"{module}.{name}" if name and is_module else module


@each_file
def test_dependencies_point_one_way(path: Path) -> None:
    line, own = place(dotted(path))
    for module in inner_imports(path):
        other, name = place(module)
        assert name == own or other < line, f"{dotted(path)} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if place(dotted(path))[1] == "aio"], ids=dotted)
def test_the_asyncio_twin_does_not_build_on_the_threaded_channel(path: Path) -> None:
    """What both channels share is in `receiving.channel_base`."""
    assert "zbus.channel" not in set(inner_imports(path))


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        dotted(path): {*inner_imports(path)} for path in FILES if path.stem not in ("__init__", "__main__")
    }
    assert tuple(TopologicalSorter(graph).static_order())


@each_file
def test_no_module_reaches_into_another(path: Path) -> None:
    """What begins with an underscore is used in its own module only."""
    for module, name in imports(path):
        own = module.split(".")[0] != "zbus" or name == "__version__"
        assert own or not name.startswith("_"), f"{dotted(path)} imports {module}.{name}"


@each_file
def test_no_module_uses_private_attributes_of_another(path: Path) -> None:
    """A name with an underscore is used in its own file, and on `self` by classes that inherit it."""
    tree = ast.parse(path.read_bytes())
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    own = {node.attr for node in attributes if ast.unparse(node.value) in ("self", "cls")}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in attributes:
        private = node.attr.startswith("_") and not node.attr.startswith("__")
        if private and node.attr not in own | NO_SECRETS:
            assert ast.unparse(node.value) == "super()", f"{dotted(path)}:{node.lineno} uses {node.attr}"


def test_every_package_is_a_face_or_internal() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {*FACES, *INTERNAL}


@pytest.mark.parametrize("name", INTERNAL)
def test_what_is_internal_says_so(name: str) -> None:
    package = importlib.import_module(f"zbus.{name}")
    assert (package.__doc__ or "").startswith("Internal: ")
    assert not hasattr(package, "__all__")


def test_what_is_read_as_imports_is_all_there_is() -> None:
    assert set(inner_imports(ROOT / "policy.py")) == {"zbus.errors", "zbus.protocol.patterns"}
    assert "zbus.errors" in set(inner_imports(ROOT / "__init__.py"))
    assert ("os", "PathLike") in set(imports(ROOT / "policy.py"))


@pytest.mark.parametrize("path", [path for path in FILES if place(dotted(path))[1] in PURE], ids=dotted)
def test_the_pure_core_knows_no_socket_thread_or_clock(path: Path) -> None:
    name = str(path.relative_to(ROOT).with_suffix(""))
    for module, imported in imports(path):
        if module.split(".")[0] == "zbus":
            assert place(module)[1] in PURE, f"{name} imports {module}"
        else:
            allowed = HARMLESS | ALSO.get(name, set())
            assert module in allowed or f"{module}.{imported}" in allowed, f"{name} imports {module}"


def test_only_one_place_uses_what_gevent_and_eventlet_replace() -> None:
    """Threads, locks and sleeps of zbus are real whatever is patched, and its probes need no hub."""
    patched = {
        "threading",
        "_thread",
        "queue",
        "concurrent",
        "multiprocessing",
        "sched",
        "socket",
        "subprocess",
    }
    allowed = {
        "runtime/threads.py": {"threading", "concurrent"},
        "testing/faults.py": {"subprocess"},
        "cli/bench.py": {"subprocess"},
        "cli/demo.py": {"subprocess"},
        "web/server.py": {"socket"},
    }
    for path in FILES:
        name = str(path.relative_to(ROOT))
        tree = ast.parse(path.read_bytes())
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in node.body
            for inner in ast.walk(child)
        }
        for node in ast.walk(tree):
            if id(node) in typing_only:
                continue
            if isinstance(node, ast.Import):
                used = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used = {(node.module or "").split(".")[0]}
                used |= {"sleep"} & {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                used = {ast.unparse(node)} & {"time.sleep", "asyncio.to_thread", "select.select"}
                used |= {"executor"} if node.attr == "run_in_executor" else set()
            else:
                continue
            found = used & {*patched, "sleep", "time.sleep", "asyncio.to_thread", "executor"}
            assert found <= allowed.get(name, set()), f"{name}:{node.lineno} uses {found}"


def test_only_one_place_logs() -> None:
    """Handlers are anybody's code, so what is logged waits for its thread to hold no lock: see `reports`."""
    allowed = {"runtime/reports.py", "logging.py", "cli/app.py"}
    for path in FILES:
        if str(path.relative_to(ROOT)) not in allowed:
            assert not {module for module, _ in imports(path)} & {"logging", "warnings"}, (
                f"{path} logs by itself"
            )


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def public(tree: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a user can reach by a name without an underscore; not what functions keep inside."""
    yield name, tree
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{name}.{node.name}")
            else:
                yield f"{name}.{node.name}", node


@each_file
def test_everything_public_has_a_docstring(path: Path) -> None:
    for name, node in public(ast.parse(path.read_bytes()), dotted(path)):
        assert isinstance(node, ast.Module | ast.ClassDef | Function)
        if not is_setter(node) and not is_overload(node):
            assert ast.get_docstring(node), f"{name} has no docstring"


def is_overload(node: ast.AST) -> bool:
    return isinstance(node, Function) and "overload" in map(ast.unparse, node.decorator_list)


def is_setter(node: ast.AST) -> bool:
    return isinstance(node, Function) and any(
        isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "deleter")
        for decorator in node.decorator_list
    )


def test_a_file_can_be_read_in_one_go() -> None:
    """Those of the tests and of the tools too."""
    checkout = Path(__file__).parents[2]
    files = [*FILES, *(path for name in ("tests", "tools") for path in checkout.joinpath(name).rglob("*.py"))]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {str(path): count for path, count in lines.items() if count >= MAX_LINES} == {}


@each_file
def test_a_function_can_be_read_at_a_glance(path: Path) -> None:
    for node in functions(ast.parse(path.read_bytes())):
        first, last = node.body[0], node.body[-1]
        start = node.lineno
        if ast.get_docstring(node):
            start += (first.end_lineno or 0) - first.lineno + 1
        assert (last.end_lineno or 0) - start < MAX_FUNCTION_LINES, f"{node.name} is too long"


MODULES = [dotted(path).removesuffix(".__init__") for path in FILES if path.stem != "__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_offers_and_offers_it(name: str) -> None:
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    for entry in offered:
        assert hasattr(module, entry), f"{name}.{entry}"


INSIDE = {f"zbus.{name}" for name in INTERNAL}
OFFERING = [name for name in MODULES if not name.startswith("zbus.cli") and name not in INSIDE]


@pytest.mark.parametrize("name", OFFERING)
def test_what_a_module_offers_is_sorted_constants_classes_functions(name: str) -> None:
    offered = importlib.import_module(name).__all__
    assert offered == sorted(offered, key=lambda entry: (not entry.isupper(), entry[0].islower(), entry))


def test_the_package_offers_no_more_than_a_reader_can_keep_in_mind() -> None:
    assert len(zbus.__all__) <= 30
