"""Bring the stored results up to date: run what is stale, in the book's order, and what it needs."""

from __future__ import annotations

import sys

from book.pipeline.execute import execute_chapter, models_are_there
from book.pipeline.freshness import Status, statuses
from book.pipeline.profiles import Profile
from book.pipeline.project import Chapter, Project


def plan(project: Project, profile: Profile, found: dict[str, Status]) -> dict[str, str]:
    """Decide what has to run.

    A stale chapter runs, and so does each chapter that it needs whose files are not there, even if its notebook is
    fresh.

    Returns
    -------
    dict
        Chapter name to the reason, in the book's order.
    """
    return _with_needs(project, profile, found, {name: "; ".join(s.reasons) for name, s in found.items() if s.reasons})


def update(project: Project, profile: Profile, everything: bool = False) -> list[Chapter]:
    """Run what is stale and what it needs, or everything.

    Returns
    -------
    list of Chapter
        The chapters that ran.
    """
    found = statuses(project, profile)
    chosen = dict.fromkeys(found, "everything anew") if everything else plan(project, profile, found)
    return _execute(project, profile, found, chosen)


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
        execute_chapter(project, profile, found[name])
        print(f"{name}: done", file=sys.stderr, flush=True)
    return [found[name].chapter for name in chosen]
