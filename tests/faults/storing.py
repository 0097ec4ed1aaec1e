"""An end at any line of storing a result or of rendering: what is left is the last one or the new one, whole."""

import errno
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import nbformat

from book import files
from book.pipeline import programs, results
from book.pipeline import render as rendering
from book.pipeline.content_key import statuses
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.results import restore_interrupted, store_result
from tests.faults.tries import Try, copy_of

WATCHED = {results.__file__, files.__file__, rendering.__file__}


def ends_while_storing(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Kill, interrupt and starve of room the storing of a new result, in this process."""
    root = copy_of(project, place / "storing")
    last = _stored(root)
    kept = shutil.copytree(root / "results", place / "kept", dirs_exist_ok=True)
    lines = _Lines(lambda frame: None)
    with lines:
        _store(root, place)
    new = _stored(root)
    ends = {"kill": _killed, "interrupt": _interrupted, "full disk": _full}
    for _ in range(tries):
        kind = rng.choice(list(ends))
        copy_of(kept, root / "results")
        ends[kind](rng, root, place, lines.number)
        restore_interrupted(load_build(load_project(root), "full"))
        yield _judged(f"storing, {kind}", root, last, new)


def ends_while_rendering(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Kill or interrupt rendering; whatever the sources are then, the next rendering shows them."""
    root = copy_of(project, place / "rendering")
    source, page = root / "book/chapters/introduction.md", root / "_build/full/html/index.html"
    text = source.read_text()
    build = load_build(load_project(root), "full")

    def written(renderers: Any, staged: Path, made: Path) -> Path:
        made.mkdir(parents=True)
        (made / "index.html").write_text(rendering._digest(staged))
        return made

    def render(at_line: Callable[[int], None]) -> int:
        with _Lines(at_line) as lines:
            rendering.render(build)
        return lines.number

    with (
        mock.patch.object(rendering, "_build_html", written),
        mock.patch.object(programs, "missing_latex", lambda: ["latexmk"]),
    ):
        number = render(lambda line: None)
        for _ in range(tries):
            chosen, is_kill = rng.randint(1, number), rng.random() < 0.5

            def at_line(line: int, chosen: int = chosen, is_kill: bool = is_kill) -> None:
                if line == chosen and is_kill:
                    copy_of(root / "_build", place / "snapshot")
                elif line == chosen:
                    raise KeyboardInterrupt

            source.write_text(text + rng.choice(("", "B")))
            shutil.rmtree(place / "snapshot", ignore_errors=True)
            with suppress(KeyboardInterrupt):
                render(at_line)
            if (place / "snapshot").exists():
                copy_of(place / "snapshot", root / "_build")
            source.write_text(text + rng.choice(("", "B")))
            try:
                rendering.render(build)
            except Exception as error:
                yield Try("rendering, an end", "traceback", repr(error)[:300])
                continue
            is_current = page.read_text() == rendering._digest(root / "_build/full/stage")
            yield Try("rendering, an end", "shows the sources", "" if is_current else f"old pages after line {chosen}")


def _judged(kind: str, root: Path, last: dict[str, Any], new: dict[str, Any]) -> Try:
    found = _stored(root)
    if found not in (last, new):
        names = sorted(name for name in found.keys() | last.keys() if found.get(name) != last.get(name))
        return Try(kind, "mixed", f"neither the last result nor the new one: {names}")
    stale = [name for name, status in statuses(load_build(load_project(root), "full")).items() if not status.is_fresh]
    outcome = "the last result" if found == last else "the new result"
    # The second chapter reads the files of the first, so it may have to run again.
    return Try(kind, outcome, f"{stale} stale" if "first" in stale else "")


def _stored(root: Path) -> dict[str, bytes]:
    folder = root / "results"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


def _store(root: Path, place: Path) -> None:
    """Store another result of the first chapter, with other numbers and other files."""
    build = load_build(load_project(root), "full")
    status = statuses(build)["first"]
    executed = nbformat.read(status.result, as_version=4)
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = output.text.replace("3.5", "4.5")
    models = place / "models of first"
    shutil.rmtree(models, ignore_errors=True)
    shutil.copytree(build.models_of(status.chapter), models)
    (models / "total.txt").write_text("4.5")
    (models / "numbers.json").write_text(json.dumps([4.5]))
    store_result(build, status, executed, models)


class _Lines:
    """Calls a function at each line of the watched modules that this thread runs within the block."""

    def __init__(self, at_line: Callable[[int], None]) -> None:
        self.number = 0
        self._at_line = at_line

    def __enter__(self) -> "_Lines":
        sys.settrace(self._of_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _of_frame(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._of_line if frame.f_code.co_filename in WATCHED else None

    def _of_line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.number += 1
            self._at_line(self.number)
        return self._of_line


def _killed(rng: random.Random, root: Path, place: Path, number: int) -> None:
    """Leave what a kill at a random line leaves: nothing that was to follow is done."""
    chosen, snapshot = rng.randint(1, number), place / "snapshot"

    def at_line(line: int) -> None:
        if line == chosen:
            copy_of(root / "results", snapshot)

    shutil.rmtree(snapshot, ignore_errors=True)
    with _Lines(at_line):
        _store(root, place)
    copy_of(snapshot, root / "results")


def _interrupted(rng: random.Random, root: Path, place: Path, number: int) -> None:
    """Interrupt at a random line; what cleans up then runs."""
    chosen = rng.randint(1, number)

    def at_line(line: int) -> None:
        if line == chosen:
            raise KeyboardInterrupt

    try:
        with _Lines(at_line):
            _store(root, place)
    except KeyboardInterrupt:
        return


def _full(rng: random.Random, root: Path, place: Path, number: int) -> None:
    """Give no room from some call on that needs it."""
    left = rng.randint(0, 3)

    def starved(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if str(root / "results") in f"{arguments} {named}":
                left -= 1
                if left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **named)

        return call

    with ExitStack() as stack:
        for module, name in ((os, "mkdir"), (shutil, "move"), (files.tempfile, "mkstemp")):
            stack.enter_context(mock.patch.object(module, name, starved(getattr(module, name))))
        try:
            _store(root, place)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
