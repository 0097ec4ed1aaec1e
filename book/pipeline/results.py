"""Stored results: an executed notebook with the files that its chapter saved for others, sealed and checked.

Both are stored together or not at all: the files of the last result wait beside the new ones until the notebook is
written, and come back if it is not (see `restore_interrupted`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book.files import checksums_of, write_atomically
from book.pipeline.build import Build
from book.pipeline.content_key import Status, recorded, seal_of
from book.pipeline.errors import DamagedResultError
from book.pipeline.project import Chapter


def read_result(build: Build, chapter: Chapter) -> NotebookNode:
    """Read a stored result and check it against its seal.

    Raises
    ------
    DamagedResultError
        If it is missing or not what was stored; the message names it and the remedy.
    """
    path = build.result_of(chapter)
    if not recorded(path):
        state = "is not what the pipeline stored" if path.exists() else "is missing"
        raise DamagedResultError(f"{_shown(build, path)} {state}; {remedy(build, chapter)}")
    return nbformat.read(path, as_version=4)


def check_whole(build: Build, status: Status) -> None:
    """Check that nothing of a stored result is damaged, its notebook and its files for others.

    Raises
    ------
    DamagedResultError
        The message names what is damaged and the remedy.
    """
    if status.is_damaged:
        raise DamagedResultError(f"{status.chapter.name}: {'; '.join(status.reasons)}; {remedy(build, status.chapter)}")


def remedy(build: Build, chapter: Chapter) -> str:
    """Say how a damaged result is restored."""
    if not build.is_published(chapter):
        return f"'python -m book build --profile {build.profile}' makes it anew"
    notebook, models = (_shown(build, path) for path in (build.result_of(chapter), build.models_of(chapter)))
    present, left = checksums_of(build.models_of(chapter)), _models(build, chapter)
    if left and left.items() < present.items():
        return f"remove {', '.join(f'{models}/{name}' for name in present if name not in left)}"
    places = f"{notebook} {models}" if build.models_of(chapter).exists() or _models(build, chapter) else notebook
    return f"'git checkout -- {places}' restores it; without {notebook}, 'python -m book build' makes it anew"


def store_result(build: Build, status: Status, executed: NotebookNode, models: Path) -> None:
    """Put a new result in the place of the last one.

    Parameters
    ----------
    build : Build
        Whose result it is.
    status : Status
        The chapter; ``status.result`` is written.
    executed : nbformat.NotebookNode
        With everything of its record but the files' checksums and the digest, which are added.
    models : pathlib.Path
        The folder of the files that the chapter saved for others; it is moved.

    Raises
    ------
    OSError
        If the disk is full, for instance; the last result is then back in its place.
    """
    executed.metadata["book"]["models"] = checksums_of(models)
    # Sealed as it will be read: JSON knows no tuples.
    executed = nbformat.reads(nbformat.writes(executed), as_version=4)
    record = executed.metadata["book"]
    record["digest"] = seal_of(executed)
    content = nbformat.writes(executed) + "\n"
    place = build.models_of(status.chapter)
    new, old = _beside(place, "new"), _beside(place, "old")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        if record["models"]:
            shutil.move(models, new)
        if place.exists():
            place.rename(old)
        else:
            old.mkdir()  # says that there was nothing
        if new.exists():
            new.rename(place)
        write_atomically(status.result, content)
    except BaseException:
        restore_interrupted(build)
        raise
    shutil.rmtree(old)
    _remove_if_empty(place.parent)


def restore_interrupted(build: Build) -> None:
    """Bring results whose storing was interrupted into a state that is whole: the new one, or the last one."""
    for chapter in build.chapters:
        place = build.models_of(chapter)
        new, old = _beside(place, "new"), _beside(place, "old")
        shutil.rmtree(new, ignore_errors=True)
        if old.exists():
            if checksums_of(place) == _models(build, chapter):
                shutil.rmtree(old)
            else:
                shutil.rmtree(place, ignore_errors=True)
                if any(old.iterdir()):
                    old.rename(place)
                else:
                    old.rmdir()
        _remove_if_empty(place.parent)
        # What `write_atomically` was at when it was killed.
        for path in build.results_of(chapter).glob(f".{chapter.name[:40]}*.tmp"):
            path.unlink()


def _models(build: Build, chapter: Chapter) -> dict[str, str]:
    return recorded(build.result_of(chapter)).get("models", {})


def _beside(place: Path, state: str) -> Path:
    return place.with_name(f".{place.name}.{state}")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _shown(build: Build, path: Path) -> str:
    return path.relative_to(build.root).as_posix()
