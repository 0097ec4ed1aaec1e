"""Make the archive that the assignment wants handed in: the code with the saved models, and the report.

The same build gives the same bytes: files go in by name, with one date, and nothing else of the machine.
"""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from book.pipeline.content_key import statuses
from book.pipeline.execute import models_are_there
from book.pipeline.parameters import Profile
from book.pipeline.project import BookError, Project
from book.pipeline.render import check_fresh, report_is_current

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows."""


def make_submission(project: Project, profile: Profile, name: str) -> Path:
    """Write ``<name>_HW1.zip`` with two items: ``code/``, in it ``models.zip``, and ``report.pdf``.

    Parameters
    ----------
    project : Project
        The checkout; of it go in the files that git knows, as they are in the folder.
    profile : Profile
        Whose build is handed in.
    name : str
        The roll number: letters, digits, "-" and "_", at most 40.

    Returns
    -------
    pathlib.Path
        The archive, in the profile's output folder.

    Raises
    ------
    BookError
        If the name is another, or the build is missing or stale; no archive is written then.
    """
    if not NAME.fullmatch(name):
        raise BookError(
            f"NAME must be a roll number of letters, digits, '-' and '_', at most 40; got {name!r}\n"
            "for instance: make submission NAME=2020123"
        )
    check_fresh(project, profile)
    output = project.root / profile.output
    if not report_is_current(project, profile):
        raise BookError("no submission, because the report is not that of these results; 'make book' makes it")
    found = statuses(project, profile)
    absent = [name for name, status in found.items() if not models_are_there(project, profile, status)]
    if absent:
        raise BookError(
            f"no submission, because the saved models of {', '.join(absent)} are not there; 'make rerun' makes them"
        )
    models = {
        f"{folder.name}/{path.name}": path
        for folder in sorted((output / "models").iterdir())
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    code = _known_to_git(project.root)
    archive = output / f"{name}_HW1.zip"
    partial = archive.with_suffix(".partial")
    with ZipFile(partial, "w") as file:
        for path in code:
            _add(file, f"code/{path.relative_to(project.root).as_posix()}", path.read_bytes(), _is_program(path))
        _add(file, "code/models.zip", _zipped(models))
        _add(file, "report.pdf", (output / "report.pdf").read_bytes())
    partial.replace(archive)
    return archive


def _known_to_git(root: Path) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise BookError(f"no submission, because git does not list the code: {done.stderr.strip()}")
    paths = sorted(root / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


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
