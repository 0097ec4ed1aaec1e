"""Give stored results the keys of the current sources without a run, where these leave every result as it was.

A refactoring changes keys, and so does another way of making keys. Neither needs an hour of training to show that
nothing changed: the quick profile is run at a commit whose full results were fresh, and from the current sources, both
without any cache, and of each stale chapter all outputs and all files for others are compared. If they are equal, its
full result gets the current key, and its record says so.

Some outputs differ from run to run, such as measured times. If any differ, the commit is run once more, and a word of
an output, or a file, may differ from the commit only where the commit differs from itself. Two rounded times may be
equal by chance: where one number of an output differs from itself, its other numbers may differ from the commit too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from book.files import checksums_of, write_atomically
from book.pipeline.build import Build
from book.pipeline.content_key import Status, recorded, seal_of, statuses
from book.pipeline.errors import BookError
from book.pipeline.execute import ExecutionOptions
from book.pipeline.git import run_git
from book.pipeline.kernel import Watchdog
from book.pipeline.project import Chapter, Project, code_cells_of

# Where something differs: the cell or "files", the output, its type, the word.
Place = tuple[str | int, ...]
QUICK = Path("_build", "quick")
# Where checkouts are, below _build.
_FOLDER, _CHECKOUT = "restamp-", "checkout"
_BUILD = """
import sys
from pathlib import Path
from book.__main__ import main
sys.exit(main(["build", "--profile", "quick", "--no-render", *sys.argv[1:]], Path.cwd()))
"""
_STATUS = """
import sys
from pathlib import Path
from book.__main__ import main
sys.exit(main(["status"], Path.cwd()))
"""
# glue puts a prefix before them.
_BINARY = ("image/png", "image/jpeg", "application/pdf")
_WORDS = re.compile(r"[-+.\w]+|[^-+.\w]+")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
_A_NUMBER, _NUMBER_OF_WORDS = "a number", "number of words"
# Matplotlib's names in an SVG hash numbers to their last bit, which computing on other addresses can change.
_NAMES_IN_SVG = re.compile(r"(?<=[#\"])[a-z][0-9a-f]{10}(?=[\")])")


def restamp(build: Build, commit: str, why: str, options: ExecutionOptions | None = None) -> list[Chapter]:
    """Give stale results the key of the current sources, if these leave every quick result as it was.

    Parameters
    ----------
    build : Build
        The full profile.
    commit : str
        A commit at which the full results were fresh, and are those that are stored now.
    why : str
        The reason, for the record.
    options : ExecutionOptions, optional
        Where and how fast to compute the quick results.

    Returns
    -------
    list of Chapter
        The chapters whose results got another key.

    Raises
    ------
    BookError
        If the results were not fresh there, or are others, or have other parameters, or anything differs between the
        quick results; the message names the chapters and the cells. Nothing is changed then.
    """
    if not why.strip():
        raise BookError("--why must be a reason for the record; got nothing")
    project = build.project
    stale = [status for status in statuses(build).values() if not status.is_fresh]
    if not stale:
        return []
    name = _git(project.root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
    if not name:
        raise BookError(f"--from must be a commit of this repository; got {commit}")
    _remove_leftovers(project)
    with _worktree(project, name) as before:
        _check_stored_results(build, before, stale, commit)
        with _snapshot(project) as now:
            print(f"running the quick profile at {commit} and from the current sources", file=sys.stderr, flush=True)
            arguments = (options or ExecutionOptions()).arguments
            _run_quick(before, arguments)
            _run_quick(now, arguments)
            names = [status.chapter.name for status in stale]
            _check_equal(project, names, before, now, name, commit, arguments)
    stamp = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "from": name, "why": why}
    for status in stale:
        _stamp(status, stamp)
    return [status.chapter for status in stale]


def _check_stored_results(build: Build, before: Path, stale: list[Status], commit: str) -> None:
    """Check that the stored results are those of the commit, fresh there, and made with today's parameters."""
    run = _python(before, _STATUS)
    if run.returncode != 0:
        raise BookError(f"the full results were not fresh at {commit}:\n{run.stdout.strip()}")
    for status in stale:
        name = status.result.relative_to(build.root)
        there = before / name
        if status.is_damaged:
            raise BookError(f"{name} is damaged; restore it: git checkout -- {name}")
        if not status.result.is_file() or not there.is_file() or _seal(status.result) != _seal(there):
            raise BookError(f"{status.chapter.name}: the stored result is not that of {commit}")
        present = checksums_of(build.models_of(status.chapter))
        damaged = [model for model, checksum in status.models.items() if present.get(model) != checksum]
        if damaged:
            folder = build.models_of(status.chapter).relative_to(build.root)
            raise BookError(f"{folder}/{damaged[0]} is damaged; restore it: git checkout -- {folder}")
        made_with = recorded(status.result)["parameters"]
        wanted = build.parameters(status.chapter)
        different = [
            f"{name} must be {made_with.get(name)!r}; got {wanted.get(name)!r}"
            for name in sorted(made_with.keys() | wanted.keys())
            # As JSON, in which 1 and 1.0 differ as they do in a key, and tuples are lists as in the record.
            if json.dumps(made_with.get(name), sort_keys=True) != json.dumps(wanted.get(name), sort_keys=True)
        ]
        if different:
            raise BookError(f"{status.chapter.name}: the stored result has other parameters: {'; '.join(different)}")


def _check_equal(
    project: Project, names: list[str], before: Path, now: Path, name: str, commit: str, arguments: list[str]
) -> None:
    """Check that chapters' quick results are equal, save where those of the commit differ from run to run."""
    different = _differences_of(names, before, now)
    if any(different.values()):
        with _worktree(project, name) as again:
            print(f"running the quick profile at {commit} once more, for what differs", file=sys.stderr, flush=True)
            _run_quick(again, arguments)
            unsteady = _differences_of(names, before, again)
        different = {chapter: _beyond(places, unsteady[chapter]) for chapter, places in different.items()}
    lines = [
        f"{chapter}: {place}"
        for chapter, places in different.items()
        for place in sorted({_in_words(place, now, chapter) for place in places})
    ]
    if lines:
        raise BookError(f"the quick results are not those of {commit}; they differ in\n  " + "\n  ".join(lines))


def _beyond(places: set[Place], unsteady: set[Place]) -> set[Place]:
    """Return those of the places that the commit's own differences do not explain."""
    timed = {place[:3] for place in unsteady if place[-1] == _A_NUMBER}
    # With another number of words, each stands somewhere else.
    shifted = {place[:3] for place in unsteady if place[-1] == _NUMBER_OF_WORDS}
    return {
        place
        for place in places - unsteady
        if place[:3] not in shifted and (place[-1] != _A_NUMBER or place[:3] not in timed)
    }


def _differences_of(names: list[str], before: Path, now: Path) -> dict[str, set[Place]]:
    """Return for each of some chapters where its quick results differ in two checkouts."""
    return {name: _differences(before, now, name) for name in names}


def _differences(before: Path, now: Path, name: str) -> set[Place]:
    notebooks = [_quick_result(root, name) for root in (before, now)]
    if any(not path.is_file() for path in notebooks):
        return {("result",)}
    old, new = (nbformat.read(path, as_version=4) for path in notebooks)
    places: set[Place] = set()
    if old.metadata["book"]["parameters"] != new.metadata["book"]["parameters"]:
        places.add(("parameters",))
    for cell, pair in enumerate(zip_longest(_outputs(old), _outputs(new))):
        if None in pair:
            places.add(("cells",))
        else:
            places |= {(cell, *place) for place in _differences_of_outputs(*pair)}
    old_files, new_files = (_quick_models(root, name) for root in (before, now))
    changed = {path for path in old_files.keys() | new_files.keys() if old_files.get(path) != new_files.get(path)}
    return places | {("file", path) for path in changed}


def _differences_of_outputs(old: list[dict], new: list[dict]) -> Iterator[Place]:
    """Yield where the outputs of a cell differ: their number, or an output, a part of it, and a word of the part."""
    if len(old) != len(new):
        yield ("number",)
    for index, (one, other) in enumerate(zip(old, new, strict=False)):
        for part in sorted(one.keys() | other.keys()):
            first, second = (_without_names(output.get(part), part) for output in (one, other))
            if first == second:
                continue
            is_text = isinstance(first, str) and isinstance(second, str) and not part.endswith(_BINARY)
            if not is_text:
                yield (index, part)
                continue
            words = _WORDS.findall(first), _WORDS.findall(second)
            if len(words[0]) != len(words[1]):
                yield (index, part, _NUMBER_OF_WORDS)
            for word, pair in enumerate(zip(*words, strict=False)):
                if pair[0] != pair[1]:
                    are_numbers = all(_NUMBER.fullmatch(one_word) for one_word in pair)
                    yield (index, part, word, _A_NUMBER) if are_numbers else (index, part, word)


def _without_names(content: Any, part: str) -> Any:
    """Replace the names in an SVG by their order; leave anything else as it is."""
    if not part.endswith("image/svg+xml") or not isinstance(content, str):
        return content
    numbers: dict[str, str] = {}
    return _NAMES_IN_SVG.sub(lambda name: numbers.setdefault(name[0], f"name-{len(numbers)}"), content)


def _outputs(notebook: NotebookNode) -> list[list[dict[str, Any]]]:
    """List the outputs of each of the chapter's code cells, each as its parts, without the counts of executions."""
    return [[_parts(output) for output in cell.outputs] for cell in code_cells_of(notebook)]


def _parts(output: NotebookNode) -> dict[str, Any]:
    parts = {name: value for name, value in output.items() if name not in ("data", "execution_count")}
    return parts | {f"data {kind}": value for kind, value in output.get("data", {}).items()}


def _in_words(place: Place, root: Path, name: str) -> str:
    match place:
        case ("result",):
            return "it has no result in one of the two"
        case ("parameters",):
            return "its parameters"
        case ("cells",):
            return "the number of code cells"
        case ("file", path):
            return f"the file {path} that it leaves for others"
    notebook = nbformat.read(_quick_result(root, name), as_version=4)
    cell = code_cells_of(notebook)[place[0]]
    line = next((line.strip() for line in cell.source.splitlines() if line.strip()), "empty")
    where = f"code cell {place[0] + 1} ({line})"
    if place[1] == "number":
        return f"{where}, the number of its outputs"
    glued = cell.outputs[place[1]].get("metadata", {}).get("scrapbook", {}).get("name")
    what = str(place[2]).removeprefix("data ")
    return f"{where}, output {place[1] + 1}{f' {glued!r}' if glued else ''}, {what}"


def _quick_result(root: Path, name: str) -> Path:
    return root / QUICK / "results" / f"{name}.ipynb"


def _quick_models(root: Path, name: str) -> dict[str, str]:
    """Return the checksums of the files that a chapter left."""
    return checksums_of(root / QUICK / "results" / "models" / name)


def _run_quick(root: Path, arguments: list[str]) -> None:
    run = _python(root, _BUILD, *arguments)
    if run.returncode != 0:
        raise BookError(f"the quick profile failed in {root}:\n{run.stdout.strip()[-4000:]}")


def _python(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a checkout with the code of that checkout, and with this one's where it has none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BOOK_", "PYTHON"))}
    if not (root / "book" / "__init__.py").is_file():
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, *arguments]
    watchdog = Watchdog()
    try:
        process = watchdog.started(command, root, environment, stderr=subprocess.STDOUT)
        printed, _ = process.communicate()
    finally:
        watchdog.end()
    return subprocess.CompletedProcess(command, process.returncode, printed)


@contextmanager
def _worktree(project: Project, commit: str) -> Iterator[Path]:
    """Check a commit out into a folder of its own while the block runs."""
    with _temporary_folder(project) as folder:
        place = folder / _CHECKOUT
        _git(project.root, "worktree", "add", "--detach", "--quiet", str(place), commit)
        try:
            yield place
        finally:
            _git(project.root, "worktree", "remove", "--force", str(place))


@contextmanager
def _snapshot(project: Project) -> Iterator[Path]:
    """Copy the current sources, committed or not, into a folder of their own while the block runs."""
    listed = _git(project.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    with _temporary_folder(project) as folder:
        for name in listed:
            source = project.root / name
            if name and source.is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        yield folder


def _remove_leftovers(project: Project) -> None:
    """Remove what a killed restamp left; no other one is at work, since commands exclude each other."""
    for folder in project.build.glob(f"{_FOLDER}*"):
        place = folder / _CHECKOUT
        if place.exists():
            # Twice, since a checkout that was not finished is locked. If git does not know it, the folder goes alone.
            run_git(project.root, "worktree", "remove", "--force", "--force", str(place))
        shutil.rmtree(folder)


@contextmanager
def _temporary_folder(project: Project) -> Iterator[Path]:
    project.build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_FOLDER, dir=project.build) as folder:
        yield Path(folder).resolve()


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints; empty if it answers a quiet question with no."""
    try:
        run = run_git(root, *arguments)
    except FileNotFoundError:
        raise BookError("git is missing; a commit can't be compared with without it") from None
    if run.returncode != 0 and run.stderr:
        raise BookError(f"git {arguments[0]} failed: {run.stderr.strip()}")
    return run.stdout


def _seal(result: Path) -> str:
    return seal_of(nbformat.read(result, as_version=4))


def _stamp(status: Status, stamp: dict[str, str]) -> None:
    notebook = nbformat.read(status.result, as_version=4)
    record = notebook.metadata["book"]
    record |= {"key": status.key, "components": status.components}
    record["restamped"] = [*record.get("restamped", []), stamp]
    record["digest"] = seal_of(notebook)
    write_atomically(status.result, nbformat.writes(notebook) + "\n")
