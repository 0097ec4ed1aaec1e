"""Files that are whole, unchanged, and written by one process at a time.

Whoever writes a file of the book uses `write_atomically`, so that a file that exists is whole. Whoever reads one that
was kept for later compares it with what was written: by its checksum, or by the digest in a sealed JSON file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class DamagedFileError(ValueError):
    """A file that does not hold what was written to it."""


class LockedError(RuntimeError):
    """Something that another process is using."""


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Write a file so that at any time it is either the old one or the new one.

    Parameters
    ----------
    path : path
        Its folder is made if it is missing.
    content : bytes or str
        A text is written in UTF-8, its line ends as they are.

    Raises
    ------
    OSError
        If the disk is full or read-only; the old file is then unchanged, and nothing is left beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is cut because a file system allows 255 bytes, and the temporary name is longer than the file's own.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep the file from its other readers
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums_of(folder: str | os.PathLike) -> dict[str, str]:
    """Return the checksums of all files below a folder.

    Returns
    -------
    dict
        Paths relative to the folder, with slashes, to SHA-256 checksums, sorted. Files and folders whose names start
        with a dot are left out: they are temporary ones, locks, or a program's own. Empty if there is no folder.
    """
    folder = Path(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: sha256_of(folder / name) for name in names if not any(p.startswith(".") for p in name.split("/"))}


@contextmanager
def locked(path: str | os.PathLike, message: str | None = None) -> Iterator[None]:
    """Hold a lock while the block runs; the system releases it when the process ends, however it ends.

    Parameters
    ----------
    path : path
        The lock file. It stays, and holds the number of the process that took the lock last.
    message : str, optional
        What to say, such as "another build is running", instead of waiting for the lock.

    Raises
    ------
    LockedError
        If another process holds the lock and a message is given, which names that process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=message is None)
    except Timeout:
        with suppress(OSError):
            holder = path.read_text(encoding="utf-8").strip()
            message = f"{message} (process {holder})" if holder else message
        raise LockedError(message) from None
    try:
        # Not atomically: a new file in its place would be another lock.
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def write_sealed_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as JSON together with a digest of it.

    Parameters
    ----------
    path : path
    value : object
        Made of what JSON knows.
    """
    write_atomically(path, _sealed(value))


def read_sealed_json(path: str | os.PathLike) -> Any:
    """Read what `write_sealed_json` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DamagedFileError
        If the file can't be read, or does not hold what was written, to the byte.
    """
    try:
        content = Path(path).read_bytes()
        value = json.loads(content)["value"]
        is_whole = _sealed(value).encode() == content
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise DamagedFileError(f"{path} is damaged: it does not hold what was written to it")
    return value


def _sealed(value: Any) -> str:
    text = json.dumps(value, indent=1)
    return f'{{"sha256": "{hashlib.sha256(text.encode()).hexdigest()}",\n"value": {text}}}\n'
