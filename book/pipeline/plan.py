"""Bring the stored results up to date: run what is stale, in the book's order, and what it needs.

A rerun leaves the old results in place until new ones come, and those count as fresh. What it has not reached yet is
therefore listed in ``<output>/rerun.json``, so that after an interrupt or a failure the next build goes on with it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from book.pipeline.content_key import Status, statuses
from book.pipeline.execute import execute_chapter, models_are_there, write_atomically
from book.pipeline.parameters import Profile
from book.pipeline.project import Chapter, Project


def plan(project: Project, profile: Profile, found: dict[str, Status]) -> dict[str, str]:
    """Decide what has to run.

    A stale chapter runs, and one that a rerun did not reach, and so does each chapter that these need whose files
    are not there, even if its notebook is fresh.

    Returns
    -------
    dict
        Chapter name to the reason, in the book's order.
    """
    left = left_by_rerun(project, profile)
    reasons = {
        name: [*status.reasons, *(["rerun was interrupted"] if name in left else [])] for name, status in found.items()
    }
    return _with_needs(project, profile, found, {name: "; ".join(why) for name, why in reasons.items() if why})


def update(project: Project, profile: Profile) -> list[Chapter]:
    """Run what is stale or left by a rerun, and what it needs.

    Returns
    -------
    list of Chapter
        The chapters that ran.
    """
    found = statuses(project, profile)
    return _execute(project, profile, found, plan(project, profile, found))


def rerun(project: Project, profile: Profile) -> list[Chapter]:
    """Forget all trained networks and run every chapter.

    The results stay until new ones take their place, so an interrupted rerun loses none; the next update goes on
    with the chapters that are left.

    Returns
    -------
    list of Chapter
        The chapters that ran.
    """
    found = statuses(project, profile)
    _write_left(project, profile, list(found))
    for folder in (project.build / "cache", project.root / profile.output / "models"):
        shutil.rmtree(folder, ignore_errors=True)
    return _execute(project, profile, found, dict.fromkeys(found, "everything anew"))


def left_by_rerun(project: Project, profile: Profile) -> list[str]:
    """Return the names of the chapters that an unfinished rerun has not run, in the book's order."""
    try:
        left = json.loads(_left_file(project, profile).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [chapter.name for chapter in project.executable if chapter.name in left]


def _write_left(project: Project, profile: Profile, names: list[str]) -> None:
    if names:
        write_atomically(_left_file(project, profile), json.dumps(names) + "\n")
    else:
        _left_file(project, profile).unlink(missing_ok=True)


def _left_file(project: Project, profile: Profile) -> Path:
    return project.root / profile.output / "rerun.json"


def run_one(project: Project, profile: Profile, chapter: Chapter) -> Status:
    """Run one chapter whether stale or not, after those of the chapters it needs whose files are not there.

    Returns
    -------
    Status
        The chapter's status; ``result`` is the executed notebook.
    """
    found = statuses(project, profile)
    _execute(project, profile, found, _with_needs(project, profile, found, {chapter.name: "asked for"}))
    return found[chapter.name]


def _with_needs(
    project: Project, profile: Profile, found: dict[str, Status], reasons: dict[str, str]
) -> dict[str, str]:
    chosen = dict(reasons)
    # Last first, so that a chapter added here adds what it needs itself.
    for chapter in reversed(project.executable):
        if chapter.name not in chosen:
            continue
        for name in chapter.needs:
            if name not in chosen and not models_are_there(project, profile, found[name]):
                chosen[name] = f"{chapter.name} needs its files, which are not there"
    return {chapter.name: chosen[chapter.name] for chapter in project.executable if chapter.name in chosen}


def _execute(project: Project, profile: Profile, found: dict[str, Status], chosen: dict[str, str]) -> list[Chapter]:
    for name, reason in chosen.items():
        print(f"{name}: running ({reason})", file=sys.stderr, flush=True)
        # What its needs left is known only now.
        status = statuses(project, profile)[name]
        if found[name].waits_for_needs and status.is_fresh:
            continue
        execute_chapter(project, profile, status)
        _write_left(project, profile, [left for left in left_by_rerun(project, profile) if left != name])
        print(f"{name}: done", file=sys.stderr, flush=True)
    return [found[name].chapter for name in chosen]
