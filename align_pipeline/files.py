"""Files without their content (Git LFS pointers, broken links), and the room for new ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from align_pipeline.errors import InputError

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = 1024  # maximum size of a pointer in bytes, by Git LFS's specification


def check(paths: Iterable[Path]) -> None:
    """Refuse files whose content is missing from the checkout.

    Raises:
        InputError: one of them is a broken link or a Git LFS pointer; says how to get the file.
    """
    for path in sorted(paths):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to {path.readlink()}, which does not exist.")
        if path.is_file() and path.stat().st_size <= _POINTER_SIZE:
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    raise InputError(
                        f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}."
                    )


def room(folder: Path) -> tuple[Path, int]:
    """The nearest folder that exists, from `folder` upwards, and the free bytes of its disk."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return place, shutil.disk_usage(place).free
