"""A folder's files, each once: links are followed, and what cannot be opened is named, since it may hold rules."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

Named = tuple[tuple[Path, str], ...]


def walk(folder: Path) -> tuple[list[Path], Named, Named]:
    """The regular files in and below a folder, sorted; what is not read; and what could not be opened, with reasons.

    Files and folders whose names begin with a dot are left out. A link to what is read under its own name is named,
    and so is one that leads back to a folder that it stands in.
    """
    found: list[Path] = []
    unread: list[tuple[Path, str]] = []
    failed: list[tuple[Path, str]] = []
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for path in _below(waiting.pop(), seen, failed):
            if path.is_symlink():
                links.append(path)
            else:
                _take(path, os.path.realpath(path), seen, found, unread, failed)
        waiting += _followed(sorted(links), os.path.realpath(folder), seen, found, unread, failed)
    return sorted(found), tuple(unread), tuple(failed)


def _below(folder: Path, seen: set[str], failed: list[tuple[Path, str]]) -> Iterator[Path]:
    """Files and links below a folder."""

    def fail(error: OSError) -> None:
        failed.append((Path(error.filename), f"cannot be opened: {error.strerror}"))

    for above, folders, files in os.walk(folder, onerror=fail):
        seen.add(os.path.realpath(above))
        links = [name for name in folders if os.path.islink(os.path.join(above, name))]
        folders[:] = sorted(
            name for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(above, name)) not in seen
        )  # fmt: skip
        yield from (Path(above, name) for name in sorted([*files, *links]) if not name.startswith("."))


def _followed(
    links: list[Path], top: str, seen: set[str], found: list[Path], unread: list[tuple[Path, str]],
    failed: list[tuple[Path, str]],
) -> list[Path]:  # fmt: skip
    """The folders that links lead to; a linked file is found. Real files come before links to them."""
    folders = []
    for link in links:
        real = os.path.realpath(link)
        if os.path.isdir(real) and real in seen:
            unread.append((link, f"a link to {real}, which is read"))
        elif os.path.isdir(real) and os.path.commonpath([real, top]) == real:
            unread.append((link, f"a link back to {real}, which it stands in"))
        elif os.path.isdir(real):
            folders.append(link)
        else:
            _take(link, real, seen, found, unread, failed)
    return folders


def _take(
    path: Path, real: str, seen: set[str], found: list[Path], unread: list[tuple[Path, str]],
    failed: list[tuple[Path, str]],
) -> None:  # fmt: skip
    if real in seen:
        unread.append((path, f"the same file as {real}, which is read"))
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = f"a broken link to {os.readlink(path)}" if path.is_symlink() else f"cannot be read: {error.strerror}"
        failed.append((path, reason))
        return
    seen.add(real)
    if stat.S_ISREG(mode):
        found.append(path)
    else:
        unread.append((path, "not a regular file"))
