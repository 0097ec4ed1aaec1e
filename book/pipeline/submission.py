"""Make the archive that the assignment wants handed in: the code with the saved models, and the report.

``submission/`` holds what belongs at the top of the code in the archive only, such as ``Q1.py``. The same build gives
the same bytes: files go in by name, with one date, and nothing else of the machine.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from book.files import checksums_of, write_atomically
from book.pipeline.build import PUBLISHED, Build
from book.pipeline.content_key import project_modules, statuses
from book.pipeline.errors import BookError
from book.pipeline.git import run_git
from book.pipeline.project import CONTENTS
from book.pipeline.render import check_fresh, report_is_current
from book.pipeline.results import check_whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
ONLY_IN_ARCHIVE = "submission"
DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows."""


def make_submission(build: Build, name: str) -> Path:
    """Write ``<name>_HW1.zip`` with two items: ``code/`` and ``report.pdf``.

    In ``code/`` are the project's files, with the models zipped: ``models.zip``, unpacked there, puts each in the place
    where chapters read it. The whole book is there too, as ``book.pdf``, since the report refers to its pages.

    Parameters
    ----------
    build : Build
        The build that is handed in; of its project go in the files that git knows, as they are in the folder.
    name : str
        The roll number: letters, digits, "-" and "_", at most 40.

    Returns
    -------
    pathlib.Path
        The archive, in the build's output folder.

    Raises
    ------
    BookError
        If the name is another, or the build is missing, damaged or stale, or git does not know a file that it was made
        of; no archive is written then.
    """
    if not NAME.fullmatch(name):
        raise BookError(
            f"NAME must be a roll number of letters, digits, '-' and '_', at most 40; got {name!r}\n"
            "for instance: make submission NAME=2020123"
        )
    for status in statuses(build).values():
        check_whole(build, status)
    check_fresh(build)
    if not report_is_current(build):
        raise BookError("no submission, because the report is not that of these results; 'make book' makes it")
    models = {
        f"{PUBLISHED}/models/{chapter.name}/{name}": build.models_of(chapter) / name
        for chapter in build.chapters
        for name in checksums_of(build.models_of(chapter))
    }
    zipped = build.root / PUBLISHED / "models"
    code = [path for path in _known_to_git(build) if not path.is_relative_to(zipped)]
    content = io.BytesIO()
    with ZipFile(content, "w") as file:
        for path in code:
            place = path.relative_to(build.root)
            if place.parts[0] == ONLY_IN_ARCHIVE:
                place = place.relative_to(ONLY_IN_ARCHIVE)
            _add(file, f"code/{place.as_posix()}", path.read_bytes(), _is_program(path))
        _add(file, "code/models.zip", _zipped(models))
        _add(file, "code/book.pdf", (build.output / "book.pdf").read_bytes())
        _add(file, "report.pdf", (build.output / "report.pdf").read_bytes())
    archive = build.output / f"{name}_HW1.zip"
    write_atomically(archive, content.getvalue())
    return archive


def _known_to_git(build: Build) -> list[Path]:
    """List the project's files, sorted.

    Raises
    ------
    BookError
        If there is no git, or the folder is no repository of its own, or git does not know a page or a module that one
        imports, or a name is none that an archive can hold.
    """
    root = build.root
    try:
        # From the root of another repository, git would list nothing of a folder that it ignores.
        top = run_git(root, "rev-parse", "--show-toplevel").stdout.rstrip("\n")
        names = run_git(root, "ls-files", "-z").stdout if top and Path(top).resolve() == root.resolve() else ""
    except OSError:
        names = ""
    paths = [root / name for name in sorted(name for name in names.split("\0") if name)]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise BookError(
            f"no submission, because git does not list the code: {root} must be a git repository of its own; "
            "'git init && git add .' makes it one"
        )
    if unknown := sorted(_sources(build) - set(paths)):
        listing = " ".join(path.relative_to(root).as_posix() for path in unknown)
        raise BookError(f"no submission, because git does not know all of the code: 'git add {listing}' adds the rest")
    for path in paths:
        try:
            path.relative_to(root).as_posix().encode()
        except UnicodeEncodeError:
            raise BookError(
                f"no submission, because {os.fsencode(path.relative_to(root))!r} is no UTF-8, as names in an archive "
                "must be; rename it with 'git mv'"
            ) from None
    return paths


def _sources(build: Build) -> set[Path]:
    """Return the files without which the book can't be built again: its configuration, its pages, what they import."""
    files = {build.root / name for name in (CONTENTS, "_config.yml", "requirements.txt")}
    files |= {chapter.path for chapter in build.project.chapters}
    return files.union(*(project_modules(build.root, chapter) for chapter in build.chapters))


def _is_program(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)


def _zipped(files: dict[str, Path]) -> bytes:
    content = io.BytesIO()
    with ZipFile(content, "w") as file:
        for name, path in files.items():
            _add(file, name, path.read_bytes())
    return content.getvalue()


def _add(file: ZipFile, name: str, content: bytes, program: bool = False) -> None:
    info = ZipInfo(name, DATE)
    info.compress_type = ZIP_DEFLATED
    info.create_system = 3  # Unix, wherever it is made
    info.external_attr = (0o755 if program else 0o644) << 16
    file.writestr(info, content)
