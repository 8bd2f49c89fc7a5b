"""Stages, their artefact folders and manifests: what makes a run resumable.

A run is a folder with one sub-folder per stage. A stage writes into a temporary folder, its
manifest last; the folder is then renamed into place, so a half-written artefact is never read. It
is skipped when its fingerprint (own configuration, seed, version, digests of what it reads) is the
one in its manifest. `scratch` outlives a killed process: checkpoints and partial results go there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Protocol

from tastemaker import processes
from tastemaker.errors import BusyError, StageError, UserError

__all__ = [
    "Advance",
    "Manifest",
    "Reporter",
    "Run",
    "Silent",
    "Stage",
    "Workspace",
    "atomic_file",
    "digest",
    "file_digest",
    "fingerprint",
    "locked",
]

MANIFEST = "manifest.json"
_RECORDED = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "polars",
    "numpy",
    "langchain-core",
)


class Advance(Protocol):
    """Adds to the number of finished units."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add `done` units; `note` says more about all that has been done, in a few words."""


class Reporter(Protocol):
    """Where a stage tells its user what is going on."""

    def line(self, text: str) -> None:
        """Show one line."""

    def track(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Show progress; the yielded function adds to the number of finished units."""


class Silent:
    """A reporter that shows nothing."""

    def line(self, text: str) -> None:
        """Ignore `text`."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Yield a function that does nothing."""
        yield lambda done, note="": None


@dataclass(frozen=True)
class Workspace:
    """What a stage function is given.

    Attributes:
        out: Empty folder to write the artefact into; becomes the artefact when the stage returns.
        scratch: Folder kept when the process dies and removed when the stage is done.
        cache: Folder of this stage kept for ever, for results addressed by their own content.
        seed: The recipe's seed.
        run: The run, for reading the artefacts of earlier stages.
        report: Where to show lines and progress.
    """

    out: Path
    scratch: Path
    cache: Path
    seed: int
    run: Run
    report: Reporter


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: Folder name of the artefact.
        needs: Names of the stages whose artefacts it reads.
        run: Does the work; returns a small JSON-able summary for manifest, terminal and report.
        config: JSON-able configuration; a change of it makes the artefact out of date.
        sources: Files outside the run that it reads; a change of their bytes does the same.
        distributed: All processes of a launch run it together; only the main one's `out` is kept.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[Workspace], Mapping[str, Any]]
    config: Mapping[str, Any]
    sources: tuple[Path, ...] = ()
    distributed: bool = False


@dataclass(frozen=True)
class Manifest:
    """The record beside an artefact.

    Attributes:
        stage: Name of the stage.
        fingerprint: Hash of everything the artefact depends on.
        digest: Hash of the artefact's files; later stages depend on it.
        inputs: Digest per stage read.
        config: Resolved configuration.
        seed: Seed of the run.
        versions: Package versions.
        started: UTC time in ISO form.
        seconds: Wall time of the stage.
        files: Relative path → bytes.
        summary: What the stage returned.
    """

    stage: str
    fingerprint: str
    digest: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    started: str
    seconds: float
    files: Mapping[str, int]
    summary: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """A run folder: executes stages, skips those that are up to date, hands out artefacts.

    Args:
        folder: Created when missing.
        seed: Recorded in every manifest and part of every fingerprint.
        report: Where progress goes.
    """

    def __init__(self, folder: Path, *, seed: int = 0, report: Reporter | None = None) -> None:
        self.folder = folder
        self.seed = seed
        self.report: Reporter = report or Silent()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for this process.

        Raises:
            BusyError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(
            self.folder / ".lock", remedy="Wait for it, or choose another folder with --out."
        ):
            yield

    def artefact(self, stage: str) -> Path:
        """Folder of a finished stage.

        Raises:
            UserError: the stage has not been run.
        """
        if self.manifest(stage) is None:
            raise UserError(
                f"{self.folder} holds no finished '{stage}' stage.",
                remedy=f"Run it first: tastemaker run RECIPE --until {stage}",
            )
        return self.folder / stage

    def manifest(self, stage: str) -> Manifest | None:
        """Manifest of a finished stage, or None."""
        return _read_manifest(self.folder / stage)

    def digest_of(self, stage: str) -> str:
        """Digest of a finished stage's files, for what depends on them.

        Raises:
            UserError: the stage has not been run.
        """
        self.artefact(stage)
        manifest = self.manifest(stage)
        return manifest.digest if manifest else ""

    def is_current(self, stage: Stage) -> bool:
        """Whether the artefact exists, is complete and depends on nothing that has changed."""
        self._settle(stage.name)
        manifest = self.manifest(stage.name)
        return (
            manifest is not None
            and manifest.fingerprint == self._fingerprint(stage)
            and _is_whole(self.folder / stage.name, manifest)
        )

    def execute(self, stage: Stage, *, force: bool = False) -> Manifest:
        """Run one stage unless it is current; the artefact appears whole or not at all.

        In a launch of several processes only the main one comes here; the others `assist`.
        """
        current = self.is_current(stage)
        present = self.manifest(stage.name)
        if current and present is not None and not force:
            return present
        key = self._fingerprint(stage)
        space = self._workspace(stage.name, key)
        started, clock = datetime.now(UTC), time.perf_counter()
        order = {"stage": stage.name, "same": self._same(stage), "scratch": space.scratch.name}
        with processes.together(order) if stage.distributed else processes.alone():
            summary = stage.run(space)
        files = _files(space.out)
        manifest = Manifest(
            stage=stage.name,
            fingerprint=key,
            digest=digest({name: file_digest(space.out / name) for name in files}),
            inputs=self._inputs(stage),
            config=stage.config,
            seed=self.seed,
            versions=_versions(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 3),
            files=files,
            summary=summary,
        )
        with atomic_file(space.out / MANIFEST) as handle:
            handle.write(json.dumps(asdict(manifest), indent=1, default=str).encode())
        _sync_tree(space.out)
        self._settle(stage.name)
        shutil.rmtree(space.scratch, ignore_errors=True)
        return manifest

    def assist(self, stages: Iterable[Stage]) -> None:
        """Run distributed stages with the main process until it needs no more help.

        Their `out` is a folder that is thrown away, their summary is ignored; `scratch` and
        `cache` are those of the main process.

        Args:
            stages: The same as in the main process.

        Raises:
            StageError: the main process runs a stage that is not the same here.
        """
        known = {stage.name: stage for stage in stages}
        for order in processes.orders():
            stage = known.get(order["stage"])
            if stage is None or self._same(stage) != order["same"]:
                raise StageError(
                    f"the recipe of stage '{order['stage']}' differs between processes"
                )
            scratch = self.folder / ".scratch" / order["scratch"]
            cache = self.folder / ".cache" / stage.name
            with tempfile.TemporaryDirectory() as out:
                stage.run(Workspace(Path(out), scratch, cache, self.seed, self, self.report))

    def _same(self, stage: Stage) -> str:
        return digest({"config": stage.config, "seed": self.seed})

    def _inputs(self, stage: Stage) -> dict[str, str]:
        found: dict[str, str] = {}
        for need in stage.needs:
            manifest = self.manifest(need)
            if manifest is None:
                raise StageError(f"stage '{stage.name}' needs '{need}', which has not been run")
            found[need] = manifest.digest
        return found

    def _fingerprint(self, stage: Stage) -> str:
        missing = [need for need in stage.needs if self.manifest(need) is None]
        if missing:
            return ""
        return fingerprint(
            stage=stage.name,
            config=stage.config,
            seed=self.seed,
            inputs=self._inputs(stage),
            sources={str(path): file_digest(path) for path in stage.sources},
        )

    def _workspace(self, name: str, key: str) -> Workspace:
        out = self.folder / ".new" / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        scratch = self.folder / ".scratch" / f"{name}-{key[:16]}"
        scratch.mkdir(parents=True, exist_ok=True)
        cache = self.folder / ".cache" / name
        cache.mkdir(parents=True, exist_ok=True)
        return Workspace(out, scratch, cache, self.seed, self, self.report)

    def _settle(self, name: str) -> None:
        """Move a complete new artefact into place; finishes a swap that a kill interrupted."""
        new, final, old = (self.folder / part / name for part in (".new", "", ".old"))
        if _read_manifest(new) is None:
            return
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            old.parent.mkdir(exist_ok=True)
            final.rename(old)
        new.rename(final)
        shutil.rmtree(old, ignore_errors=True)


def fingerprint(**parts: Any) -> str:
    """Hash of everything an artefact depends on, tastemaker's own version included."""
    return digest({"tastemaker": _version("tastemaker"), **parts})


def digest(value: Any) -> str:
    """Hash of a JSON-able value, independent of key order.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def locked(path: Path, *, remedy: str) -> Iterator[None]:
    """Hold a lock file for this process; its folder is there already.

    Args:
        path: The lock file; it stays behind.
        remedy: What to do while another process holds it.

    Raises:
        BusyError: another process holds it.
    """
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                f"{path.parent} is in use by another tastemaker process.", remedy=remedy
            ) from None
        yield


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing under a temporary name; it appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    return _files(folder) == dict(manifest.files)


def _files(folder: Path) -> dict[str, int]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    sizes.pop(MANIFEST, None)
    return sizes


def _sync_tree(folder: Path) -> None:
    for path in [*_paths(folder), folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _paths(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if path.is_file() or path.is_dir()]


def _versions() -> dict[str, str]:
    found = {name: _version(name) for name in ("tastemaker", *_RECORDED)}
    return {"python": platform.python_version(), **found}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
