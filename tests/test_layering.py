"""The house keeps its floors: who imports whom, how long things may be, what an import may cost."""

import ast
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
PACKAGE = REPOSITORY / "skyreels_jax"
GROUND = {"kernels", "diffusion", "parallel", "weights", "data", "checkpoint"}
MAY_IMPORT = {
    "core": set(),
    **{room: {"core"} for room in GROUND},
    "nn": {"core", "kernels", "parallel"},
    "objectives": {"core", "diffusion"},
    "models": {"core", "kernels", "parallel", "weights", "nn"},
    "training": {"core", "diffusion", "parallel", "data", "checkpoint", "objectives"},
    "pipelines": {"core", "nn", "models"} | GROUND,
    "evals": {"core", "nn", "models"} | GROUND,
    "cli": {"core", "nn", "objectives", "models", "training", "pipelines", "evals"} | GROUND,
    "testing": {"core", "nn", "models"} | GROUND,
    "assets": set(),
    "": set(),  # skyreels_jax/__init__.py resolves its names lazily
    "__main__": {"cli"},
}
BANNED = {  # room: what nothing in it may import, at any depth of laziness
    "kernels": ("flax", "jax.sharding"),
    "": ("jax", "flax", "numpy"),
}
MAX_LINES, MAX_KERNEL_LINES, MAX_FUNCTION = 500, 800, 80


class Import(NamedTuple):
    source: str  # module that imports, dotted
    target: str  # module (or name in a module) that is imported, dotted
    line: int
    level: int  # > 0: relative
    lazy: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING`


def module_name(path: pathlib.Path, root: pathlib.Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"), str(path))


def targets(node: ast.AST) -> list[tuple[str, int]]:
    """Returns (dotted name, relative level) of everything that `node` itself imports."""
    if isinstance(node, ast.Import):
        return [(alias.name, 0) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(f"{node.module or ''}.{alias.name}", node.level) for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__", "importorskip"):
            return [(str(node.args[0].value), 0)]
    return []


def imports(path: pathlib.Path, root: pathlib.Path) -> Iterator[Import]:
    source = module_name(path, root)

    def visit(node, lazy, typing_only):
        for target, level in targets(node):
            yield Import(source, target, node.lineno, level, lazy, typing_only)
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy, typing_only or (guarded and child in node.body))

    yield from visit(parse(path), False, False)


def package_imports(root: pathlib.Path) -> list[Import]:
    return [found for path in sorted(root.rglob("*.py")) for found in imports(path, root)]


def starts(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def wrong_arrows(root: pathlib.Path) -> list[str]:
    bad = []
    for found in package_imports(root):
        here, there = room(found.source), room(found.target)
        arrow = f"{found.source}:{found.line} -> {found.target}"
        if found.level:
            bad.append(f"{arrow}: relative import")
        elif here not in MAY_IMPORT:
            bad.append(f"{found.source}: unknown room; give it a floor in MAY_IMPORT")
        elif starts(found.target, root.name) and there in MAY_IMPORT:
            if there not in ("", here) and there not in MAY_IMPORT[here]:
                bad.append(f"{arrow}: {here or 'the package'} may not import {there}")
        elif any(starts(found.target, name) for name in BANNED.get(here, ())):
            bad.append(f"{arrow}: not in {here or 'the package'}")
        if starts(found.target, "torch") and not (here == "weights" and found.lazy):
            bad.append(f"{arrow}: torch only inside functions under weights/")
        if starts(found.target, "jax._src"):
            bad.append(f"{arrow}: private")
    return bad


def exists(target: str) -> bool:
    """Returns whether there is a module `target`, or a name in its parent."""
    module, _, name = target.rpartition(".")
    try:
        return hasattr(importlib.import_module(module or target), name) or bool(
            importlib.import_module(target)
        )
    except ModuleNotFoundError:
        return False


def cycles(root: pathlib.Path) -> list[str]:
    """Returns the cycles of the module graph, lazy imports included, type-only ones not."""
    modules = {module_name(path, root) for path in root.rglob("*.py")} - {root.name}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for found in package_imports(root):
        target = found.target if found.target in modules else found.target.rpartition(".")[0]
        if target in modules and found.source in modules and not found.typing_only:
            graph[found.source].add(target)
    done, found_cycles = set(), []

    def walk(module, path):
        if module in path:
            found_cycles.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found_cycles


def too_long(root: pathlib.Path) -> list[str]:
    bad = []
    for path in root.rglob("*.py"):
        lines = len(path.read_text(encoding="utf8").splitlines())
        limit = MAX_KERNEL_LINES if room(module_name(path, root)) == "kernels" else MAX_LINES
        if lines > limit:
            bad.append(f"{path.relative_to(root)}: {lines} lines, at most {limit}")
        for node in ast.walk(parse(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION:
                    bad.append(f"{path.relative_to(root)}:{node.name}: {lines} lines")
    return bad


def test_rooms_import_only_lower_floors():
    bad = wrong_arrows(PACKAGE)
    assert not bad, "\n".join(bad)


def test_no_import_cycles():
    bad = cycles(PACKAGE)
    assert not bad, "\n".join(bad)


def test_what_is_imported_exists():
    """Most imports of a command are inside its functions, where nobody sees that one is stale."""
    ours = [f for f in package_imports(PACKAGE) if starts(f.target, PACKAGE.name) and not f.level]
    bad = [f"{f.source}:{f.line} -> {f.target}" for f in ours if not exists(f.target)]
    assert not bad, "\n".join(bad)
    assert not exists("skyreels_jax.cli.settings.SAMPLING") and not exists("skyreels_jax.cli.no.A")


def test_files_and_functions_stay_small():
    bad = too_long(PACKAGE)
    assert not bad, "\n".join(bad)


def test_every_folder_with_modules_is_a_package():
    """setuptools leaves the others out of the wheel."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    bad = [str(f.relative_to(REPOSITORY)) for f in folders if not (f / "__init__.py").exists()]
    assert not bad, bad


def test_no_tensorflow_and_no_private_jax_anywhere():
    bad = []
    for folder in ("skyreels_jax", "configs", "launch", "benchmarks", "tests", "notebooks"):
        for found in package_imports(REPOSITORY / folder):
            if starts(found.target, "tensorflow") or starts(found.target, "jax._src"):
                bad.append(f"{found.source}:{found.line} -> {found.target}")
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("jax._src"):
                bad.append(f"{path.relative_to(PACKAGE)}:{node.lineno} uses jax._src")
    assert not bad, "\n".join(bad)


def test_importing_the_package_is_quick_and_pulls_in_nothing():
    code = """
import sys, time
start = time.process_time()
import skyreels_jax
seconds = time.process_time() - start
heavy = {"jax", "flax", "orbax", "optax", "transformers", "torch", "tensorflow", "numpy"}
rooms = [name for name in sys.modules if name.startswith("skyreels_jax.")]
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert not rooms, rooms
assert seconds < 1, seconds
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("objectives/a.py", "from skyreels_jax.models.dit import config", "may not import models"),
        ("training/a.py", "def f():\n    import skyreels_jax.models.vae", "may not import models"),
        ("weights/a.py", "import skyreels_jax.models.dit", "may not import models"),
        ("pipelines/a.py", "from skyreels_jax.training import step", "may not import training"),
        ("evals/a.py", "from skyreels_jax import pipelines", "may not import pipelines"),
        ("kernels/a.py", "from flax import nnx", "not in kernels"),
        ("kernels/a.py", "from jax.sharding import Mesh", "not in kernels"),
        ("core/a.py", "from . import errors", "relative import"),
        ("weights/a.py", "import torch", "torch only"),
        ("models/a.py", "def f():\n    import torch", "torch only"),
        ("nn/a.py", "import importlib\nimportlib.import_module('torch')", "torch only"),
        ("nn/a.py", "from jax._src import core", "private"),
        ("cellar/a.py", "import jax", "unknown room"),
        ("__init__.py", "import jax", "not in the package"),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path, module, source, complaint):
    path = tmp_path / "skyreels_jax" / module
    path.parent.mkdir(parents=True)
    path.write_text(source)
    bad = wrong_arrows(tmp_path / "skyreels_jax")
    assert len(bad) == 1 and complaint in bad[0], bad


def test_right_arrows_pass(tmp_path):
    path = tmp_path / "skyreels_jax" / "weights" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text("import jax\nfrom skyreels_jax.core import rng\ndef f():\n    import torch")
    assert not wrong_arrows(tmp_path / "skyreels_jax")


def test_cycles_and_long_things_are_seen(tmp_path):
    root = tmp_path / "skyreels_jax"
    (root / "nn").mkdir(parents=True)
    (root / "nn" / "a.py").write_text("from skyreels_jax.nn import b")
    (root / "nn" / "b.py").write_text("def f():\n    from skyreels_jax.nn.a import x")
    assert cycles(root) == ["skyreels_jax.nn.a -> skyreels_jax.nn.b -> skyreels_jax.nn.a"]
    (root / "nn" / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import skyreels_jax.nn.a"
    )
    assert not cycles(root)
    (root / "nn" / "c.py").write_text("def f():\n" + "    x = 1\n" * 500)
    assert len(too_long(root)) == 2
