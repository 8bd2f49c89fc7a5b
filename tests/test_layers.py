"""Rooms import downwards only, and the command line stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tastemaker.registry import package_root

ROOT = package_root()
LAYERS = {
    "errors": 0,
    "processes": 0,
    "recipe": 0,
    "recipe_build": 0,
    "recipe_chat": 0,
    "recipe_generate": 0,
    "recipe_multi_domain": 0,
    "recipe_reason": 0,
    "recipe_teach": 0,
    "recipe_train": 0,
    "recipe_tune": 0,
    "recipe_data": 0,
    "stage": 0,
    "registry": 0,
    "data": 1,
    "prompts": 2,
    "eval": 2,
    "models": 3,
    "agents": 4,
    "tuning": 4,
    "methods": 5,
    "commands": 6,
    "cli": 6,
}
LAYER_0_MAY_USE = {
    "processes": {"torch"},  # only among several processes, see tests/test_processes.py
    "recipe": {"pydantic", "yaml"},
    "recipe_build": {"pydantic"},
    "recipe_chat": {"pydantic"},
    "recipe_generate": {"pydantic"},
    "recipe_multi_domain": {"pydantic"},
    "recipe_reason": {"pydantic"},
    "recipe_teach": {"pydantic"},
    "recipe_train": {"pydantic"},
    "recipe_tune": {"pydantic"},
    "recipe_data": {"pydantic"},
}
SHIPPED = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0].removesuffix(".py") in {*LAYERS, "testing"}
]


def imports(path: Path) -> set[str]:
    """Every absolute module name imported anywhere in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = str(node.module)
            if module == "tastemaker":
                found.update(f"tastemaker.{alias.name}" for alias in node.names)
            else:
                found.add(module)
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def own_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("tastemaker.")}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_imports_go_downwards(path: Path) -> None:
    here = room(path)
    for target in own_rooms(path):
        if here == "testing":
            assert target == "testing" or LAYERS[target] <= 3
            continue
        assert target != "testing", f"{relative(path)} imports the testing room"
        if target != here:
            lower = LAYERS[target] < LAYERS[here]
            same_floor = LAYERS[here] in {0, 6} and LAYERS[target] == LAYERS[here]
            assert lower or same_floor, f"{relative(path)} imports {target}"


def test_layer_0_uses_the_standard_library_only() -> None:
    for name, layer in LAYERS.items():
        if layer:
            continue
        others = {module.split(".")[0] for module in imports(ROOT / f"{name}.py")}
        others -= {"tastemaker", *sys.stdlib_module_names, *LAYER_0_MAY_USE.get(name, set())}
        assert not others, f"{name}.py imports {others}"


def test_every_room_is_in_the_table() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == {name for name in LAYERS if (ROOT / name).is_dir()} | {"testing"}


def test_root_names_shadow_nothing() -> None:
    taken = {"datasets", "evaluate", "tokenizers", "trl", "peft", "torch"} | sys.stdlib_module_names
    assert not taken & set(LAYERS)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_but_click(arguments: list[str]) -> None:
    script = (
        "import sys, tastemaker.cli as cli\n"
        f"sys.argv = ['tastemaker', *{arguments!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(sorted({n.split('.')[0] for n in sys.modules}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    new = set(ast.literal_eval(after.stderr)) - set(ast.literal_eval(before.stdout))
    assert new - sys.stdlib_module_names <= {"click", "tastemaker"}


def test_files_and_functions_stay_short() -> None:
    too_long = []
    for path in SHIPPED:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 500:
            too_long.append(f"{relative(path)} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    too_long.append(f"{relative(path)}: {node.name} has {length} lines")
    assert not too_long, "\n".join(too_long)


def test_exported_names_are_sorted_and_exist() -> None:
    import importlib

    for path in SHIPPED:
        module = "tastemaker." + relative(path).removesuffix(".py").replace("/", ".")
        if path.name == "__init__.py" or room(path) == "commands":
            continue
        exported = importlib.import_module(module).__all__
        assert len(set(exported)) == len(exported)
        assert all(hasattr(sys.modules[module], name) for name in exported), module
