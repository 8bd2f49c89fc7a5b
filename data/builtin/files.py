"""Files of a built-in data set: where they lie, how they are checked, how archives are unpacked."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tastemaker.errors import DataError
from tastemaker.stage import atomic_file

__all__ = ["RemoteFile", "checksum_of", "data_home", "find_files", "unpack"]

HOME_VARIABLE = "TASTEMAKER_DATA_HOME"


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: What it is called, in its folder and on the server.
        url: Where it is; None when its owner gives it out on request only.
        checksum: `md5:` or `sha256:` and hexadecimal digits, or only the first of them; None when
            none is known.
        bytes: Size, where known.
        optional: Whether the data set can be read without it.
    """

    name: str
    url: str | None
    checksum: str | None = None
    bytes: int | None = None
    optional: bool = False

    @property
    def is_archive(self) -> bool:
        """Whether it holds the files instead of being one."""
        return self.name.endswith(".zip")

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` has the known checksum; true when none is known."""
        if self.checksum is None:
            return True
        return checksum_of(path, self.checksum.partition(":")[0]).startswith(self.checksum)


def checksum_of(path: Path, algorithm: str = "sha256") -> str:
    """`algorithm:digits` of a file's bytes."""
    with path.open("rb") as handle:
        return f"{algorithm}:{hashlib.file_digest(handle, algorithm).hexdigest()}"


def data_home() -> Path:
    """Folder of all fetched data sets: `TASTEMAKER_DATA_HOME`, else in the user's cache."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "tastemaker" / "data"


def find_files(folders: Iterable[Path], names: Iterable[str]) -> dict[str, Path]:
    """Those of `names` that lie in one of the folders, gzipped (ending in .gz) or not."""
    places = list(folders)
    found: dict[str, Path] = {}
    for name in names:
        other = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
        paths = (place / called for place in places for called in (name, other))
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[name] = path
    return found


def unpack(archive: Path, folder: Path, *, names: Sequence[str], expected: RemoteFile) -> None:
    """Write the named members of a zip archive into `folder`; each appears whole or not at all.

    Raises:
        DataError: the archive is broken, is another one, or the folder cannot be written.
    """
    if not expected.matches(archive):
        kind = str(expected.checksum).partition(":")[0]
        raise DataError(
            f"{archive}: is not the published archive; its checksum is "
            f"{checksum_of(archive, kind)}.",
            allowed=f"{expected.checksum}, from {expected.url}",
            remedy="Remove it and fetch it again; or unpack it yourself if you mean to use it.",
        )
    try:
        with zipfile.ZipFile(archive) as packed:
            _copy_members(packed, folder, set(names))
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{archive}: cannot be unpacked ({error}).", remedy="Remove it and fetch it again."
        ) from None
    except OSError as error:
        raise DataError(
            f"{archive}: cannot be unpacked into {folder} ({error.strerror}).",
            remedy="Make room and allow writing there, or name another folder as data.folder.",
        ) from None


def _copy_members(packed: zipfile.ZipFile, folder: Path, names: set[str]) -> None:
    """Only the last part of a member's path counts, so that none can leave `folder`."""
    for member in packed.infolist():
        name = Path(member.filename).name
        if member.is_dir() or name not in names or (folder / name).exists():
            continue
        with packed.open(member) as source, atomic_file(folder / name) as target:
            shutil.copyfileobj(source, target, 1 << 20)
