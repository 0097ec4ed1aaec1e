"""What must run, in which order, why, and about how long it takes.

A chapter runs if its result is not that of the sources. One that only waits for a stale chapter that it needs is looked
at again once that one has run: if the files that it reads came out as they were, it is fresh.

A rerun leaves the old results in place until new ones come, and those count as fresh. What it has not reached yet is
therefore listed in ``_build/full/rerun.json``, so that after an interrupt or a failure the next build goes on with it.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from book.files import DamagedFileError, read_sealed_json, write_sealed_json
from book.pipeline.build import Build
from book.pipeline.content_key import Status, statuses
from book.pipeline.execute import ExecutionOptions, execute_chapter
from book.pipeline.project import Chapter
from book.pipeline.results import check_whole, restore_interrupted


def plan(build: Build, found: dict[str, Status]) -> dict[str, str]:
    """Decide what has to run: what is stale, and what a rerun did not reach.

    Returns
    -------
    dict
        Chapter name to the reason, in the book's order.

    Raises
    ------
    DamagedResultError
        If a published result is damaged.
    """
    left = left_by_rerun(build)
    chosen = {}
    for name, status in found.items():
        if build.is_published(status.chapter) and name not in left:
            check_whole(build, status)
        if reasons := [*status.reasons, *(["rerun was interrupted"] if name in left else [])]:
            chosen[name] = "; ".join(reasons)
    return chosen


def update(build: Build, options: ExecutionOptions | None = None) -> list[Chapter]:
    """Run what is stale or left by a rerun.

    Returns
    -------
    list of Chapter
        The chapters that ran.
    """
    restore_interrupted(build)
    return _execute(build, plan(build, statuses(build)), options, always=left_by_rerun(build))


def rerun(build: Build, options: ExecutionOptions | None = None) -> list[Chapter]:
    """Forget all cached steps and run every chapter.

    The results stay until new ones take their place, so an interrupted rerun loses none; the next update goes on
    with the chapters that are left.

    Returns
    -------
    list of Chapter
        The chapters that ran.
    """
    restore_interrupted(build)
    names = [chapter.name for chapter in build.chapters]
    _write_left(build, names)
    shutil.rmtree(build.project.build / "cache", ignore_errors=True)
    return _execute(build, dict.fromkeys(names, "everything anew"), options, always=names)


def run_one(build: Build, options: ExecutionOptions | None = None) -> Status:
    """Run one chapter with parameters of the reader's own, and before it what it needs and what is not published.

    A needed chapter is used as it is published if it is fresh and would have the published parameters; else it runs
    into the folder of this run.

    Parameters
    ----------
    build : Build
        Made by `book.pipeline.parameters.run_build`.
    options : ExecutionOptions, optional
        Where and how fast to compute.

    Returns
    -------
    Status
        The chapter's status; ``result`` is the executed notebook.
    """
    full = Build(build.project, "full")
    published = statuses(full)
    reasons: dict[str, str] = {}
    for other in build.project.needs_of(build.chapter):
        status = published[other.name]
        check_whole(full, status)
        why = _differences(build, full, other) or list(status.reasons)
        why += [f"{name} runs again" for name in other.needs if name in reasons]
        if why:
            about = f"; {_about(status.expected_seconds)} when published" if status.expected_seconds else ""
            reasons[other.name] = f"{build.chapter.name} needs it, and {'; '.join(why)}{about}"
    needed = {chapter.name for chapter in build.project.needs_of(build.chapter)}
    build = replace(build, published=frozenset(needed - reasons.keys()))
    restore_interrupted(build)
    found = statuses(build)
    chosen = {name: reason for name, reason in reasons.items() if not found[name].is_fresh}
    chosen[build.chapter.name] = "asked for"
    _execute(build, chosen, options, always=[build.chapter.name])
    return statuses(build)[build.chapter.name]


def in_minutes(seconds: float) -> str:
    """Say a duration roughly."""
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{max(1, round(seconds))} s"


def left_by_rerun(build: Build) -> list[str]:
    """Return the names of the chapters that an unfinished rerun has not run, in the book's order."""
    path = _left_file(build)
    try:
        left = read_sealed_json(path)
    except FileNotFoundError:
        return []
    except DamagedFileError:
        print(f"{path} is damaged, and forgotten; 'python -m book rerun' starts a rerun again", file=sys.stderr)
        path.unlink(missing_ok=True)
        return []
    return [chapter.name for chapter in build.chapters if chapter.name in left]


def _write_left(build: Build, names: list[str]) -> None:
    if names:
        write_sealed_json(_left_file(build), names)
    else:
        _left_file(build).unlink(missing_ok=True)


def _left_file(build: Build) -> Path:
    return build.output / "rerun.json"


def _differences(build: Build, full: Build, chapter: Chapter) -> list[str]:
    """Say which parameters of a needed chapter are not the published ones."""
    here, there = build.parameters(chapter), full.parameters(chapter)
    return [f"{name} is {here[name]!r}, not {there[name]!r}" for name in here if here[name] != there[name]]


def _about(seconds: float) -> str:
    return f"it took about {in_minutes(seconds)}"


def _execute(
    build: Build, chosen: dict[str, str], options: ExecutionOptions | None, always: list[str]
) -> list[Chapter]:
    ran = []
    for name, reason in chosen.items():
        # What the chapters that it needs left is known only now.
        status = statuses(build)[name]
        if status.is_fresh and name not in always:
            print(f"{name}: fresh after all, what it reads came out as it was", file=sys.stderr, flush=True)
            continue
        print(f"{name}: running ({reason})", file=sys.stderr, flush=True)
        execute_chapter(build, status, options)
        ran.append(status.chapter)
        _write_left(build, [left for left in left_by_rerun(build) if left != name])
        print(f"{name}: done", file=sys.stderr, flush=True)
    return ran
