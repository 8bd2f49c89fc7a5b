"""What is shipped is what is in the repository."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from tastemaker.registry import package_root

ROOT = package_root()
NOT_SHIPPED = {"tests", "benchmarks", "docs", "examples"}


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_list_is_complete() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for path in ROOT.glob("**/__init__.py")
        if not {part for part in path.relative_to(ROOT).parts if part.startswith(".")}
        and path.relative_to(ROOT).parts[0] not in {*NOT_SHIPPED, "build"}
    }
    expected = {"tastemaker" if f == "." else f"tastemaker.{f.replace('/', '.')}" for f in folders}
    assert set(settings()["tool"]["setuptools"]["packages"]) == expected


def test_wheel_holds_code_templates_and_recipes_only(tmp_path: Path) -> None:
    # A copy keeps setuptools' build folder out of the checkout.
    copy = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        f"{sys.executable} -m pip wheel --quiet --disable-pip-version-check --no-deps "
        f"--no-build-isolation --wheel-dir {tmp_path} {copy}",
        shell=True,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("tastemaker-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = {name.removeprefix("tastemaker/") for name in names}
    assert all(name.startswith("tastemaker/") for name in names)
    assert not {name.split("/")[0] for name in shipped} & {"tests", "benchmarks", "docs"}
    assert {"py.typed", "cli.py", "examples/quickstart.yaml"} <= shipped
    templates = {
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "prompts/library/*/*.j2",
            "eval/*.j2",
            "eval/*.css",
            "agents/server/*.css",
            "agents/server/*.html",
            "agents/server/*.js",
        )
        for path in ROOT.glob(pattern)
    }
    assert len(templates) > 5
    assert templates <= shipped
    kinds = (".py", ".j2", ".yaml", ".css", ".html", ".js", "py.typed")
    assert all(name.endswith(kinds) for name in shipped)


def test_torch_is_pinned_and_brings_no_cuda() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in pins
    assert not [pin for pin in pins if pin.startswith(("nvidia-", "triton"))]


def test_every_dependency_is_pinned() -> None:
    project = settings()["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    wanted += project["optional-dependencies"]["dev"]
    pins = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    names = {entry.split(">=")[0].split("==")[0].strip().lower() for entry in wanted}
    assert names <= pins
