"""Imports point down only, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdcodec
from tests.make_vectors import FOLDER

PACKAGE = Path(cdcodec.__file__).parent

LAYERS = (
    {"__main__"},
    {"cli"},
    {"training"},
    {"evaluation"},
    {"enhancement", "transcoding"},
    {"api"},
    {"draft", "families", "models"},
    {"latent"},
    {"codec", "rate", "weight_file"},
    {"nn", "diffusion", "entropy", "bitstream", "image", "weights"},
    {"errors"},
)
"""A part may import the parts of lower layers, and no other part of its own layer."""

HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}
WITHOUT_TORCH = {"errors", "bitstream", "weights", "image", "entropy", "rate"}
WITHOUT_NUMPY = {"errors", "bitstream", "weights"}
FOR_THE_COMMAND_LINE = {"click", "rich"}

MODULES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in MODULES if path.parent != PACKAGE or path.stem != "__init__"]


def part_of(path: Path) -> str:
    """Return the name of the layer's part that a module belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in its text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def ours(path: Path) -> set[tuple[str, ...]]:
    """Return what a module imports of the package, below its name."""
    names = {tuple(name.split(".")[1:]) for name in imported(path) if name.startswith("cdcodec.")}
    return {name for name in names if name[0] != "__version__"}


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path)
    assert part in HEIGHT, f"{part} has no layer yet"
    for name in ours(path):
        if name[0] != part:
            assert HEIGHT[name[0]] < HEIGHT[part], f"{part} imports {'.'.join(name)}"


def test_a_family_never_imports_another() -> None:
    for path in (PACKAGE / "families").rglob("*.py"):
        inside = path.relative_to(PACKAGE / "families").parts
        others = {name[1] for name in ours(path) if name[0] == "families" and len(name) > 1}
        if len(inside) > 1:
            assert others <= {inside[0]}, path
        else:
            assert not others, path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_keeps_to_the_libraries_of_its_layer(path: Path) -> None:
    part, used = part_of(path), roots(path)
    if part in WITHOUT_TORCH:
        assert "torch" not in used
    if part in WITHOUT_NUMPY:
        assert "numpy" not in used
    if part not in ("cli", "__main__"):
        assert not FOR_THE_COMMAND_LINE & used
    if part_of(path) != "families" or path.stem != "convert":  # whose reader of pickles is torch's
        assert "pickle" not in used
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_prints_or_unpickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", path
            if called == "torch.load":
                assert path.name in ("convert.py", "weights.py", "efficientnet.py")
                assert {"weights_only": True} == {
                    keyword.arg: ast.literal_eval(keyword.value)
                    for keyword in node.keywords
                    if keyword.arg == "weights_only"
                }


def test_the_package_and_its_command_line_import_nothing_heavy() -> None:
    script = """
import sys
import cdcodec
assert not {"torch", "numpy", "PIL", "click"} & set(sys.modules), "cdcodec"
import cdcodec.cli.__main__
assert not {"torch", "numpy", "PIL", "rich"} & set(sys.modules), "cli"
"""
    run(script)


def test_a_file_is_read_and_verified_without_torch() -> None:
    script = """
import sys
from cdcodec import info
described = info(sys.argv[1], verify=True)
assert described.symbols_sha256
heavy = {"torch", "rich", "click"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    run(script, str(FOLDER / "crop-64x48.cdc"))


def test_the_command_line_verifies_without_torch() -> None:
    script = """
import sys
from cdcodec.cli.__main__ import main
code = main(["info", "--verify", "--json", sys.argv[1]])
heavy = {"torch", "rich"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""
    assert "symbols_sha256" in run(script, str(FOLDER / "crop-64x48.cdc"))


def test_imports_leave_no_trace(tmp_path: Path) -> None:
    script = """
import os, sys
os.chdir(sys.argv[1])
import cdcodec.cli.__main__, cdcodec.api, cdcodec.families
"""
    assert run(script, str(tmp_path)) == ""
    assert not list(tmp_path.iterdir())


def test_what_is_public_is_exactly_what_is_listed() -> None:
    assert cdcodec.__all__ == ["CdcError", "__version__", "decode", "encode", "info"]
    script = """
import types
import cdcodec
public = {n for n, v in vars(cdcodec).items() if not n.startswith("_")}
public = {n for n in public if not isinstance(getattr(cdcodec, n), types.ModuleType)}
public -= {"annotations", "TYPE_CHECKING"}
assert public | {"__version__"} == set(cdcodec.__all__), public
"""
    run(script)
