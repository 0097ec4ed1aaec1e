"""Stored files: what a chapter leaves for others, what others left for it, and expensive steps kept by a key."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil

from book.experiments import ROOT
from book.experiments.page.progress import notice
from book.files import DamagedFileError, checksums_of, locked, read_sealed_json, write_sealed_json

DEFAULT_MODELS = "_build/manual/models"
DEFAULT_RESULTS = "results"
CACHE = "_build/cache"
SEAL = "finished.json"
"""The file of a cached folder that is written last: the checksums of the others and what they cost."""


class PublishedFileError(ValueError):
    """A file that a chapter left for others is missing, or not the one that its notebook recorded."""


def saved_models(chapter: str) -> Path:
    """Folder into which ``chapter`` writes the files that it leaves for others; made if it is missing.

    The environment variable ``BOOK_MODELS`` names it; a chapter that is run by hand writes to
    ``_build/manual/models/<chapter>``. Relative paths start at the project's root, wherever the kernel was started.
    """
    folder = ROOT / (os.environ.get("BOOK_MODELS") or f"{DEFAULT_MODELS}/{chapter}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def published_models(chapter: str, **shared_parameters: Any) -> Path:
    """Folder of the files that ``chapter`` left for others, every one checked.

    The environment variable ``BOOK_NEEDS``, JSON, maps chapters to the folders of their results; ``results`` where it
    does not.

    Parameters
    ----------
    chapter : str
        The one that left them.
    **shared_parameters
        Parameters of the chapter that reads, which must have the values that ``chapter`` was run with.

    Raises
    ------
    PublishedFileError
        If the notebook or a file is missing, or a file is not what the notebook recorded, or one that it did not
        record is among them.
    ValueError
        If a shared parameter has another value.
    """
    record = published_record(chapter)
    checksums, parameters = record["models"], record["parameters"]
    folder = ROOT / _results_of(chapter) / "models" / chapter
    for name, value in shared_parameters.items():
        if name not in parameters or parameters[name] != value:
            raise ValueError(
                f"{name} must be {parameters.get(name)!r}, that of the published models of {chapter}; got {value!r}; "
                f"`python -m book run` with `-p {name} {value}` trains them anew"
            )
    present = checksums_of(folder) if folder.is_dir() else {}
    for file, checksum in sorted(checksums.items()):
        if present.get(file) != checksum:
            state = "is not the file that its notebook recorded" if file in present else "is missing"
            raise PublishedFileError(f"{(folder / file).relative_to(ROOT)} {state}; {_remedy(chapter)}")
    for file in present.keys() - checksums.keys():
        raise PublishedFileError(f"{(folder / file).relative_to(ROOT)} is not recorded by its notebook; remove it")
    return folder


def published_record(chapter: str) -> dict[str, Any]:
    """Return the record of the run that left the files of ``chapter``: the entry ``book`` of its notebook's metadata.

    Raises
    ------
    PublishedFileError
        If the notebook is missing, or holds no such record.
    """
    notebook = ROOT / _results_of(chapter) / f"{chapter}.ipynb"
    try:
        record = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["book"]
        return record | {"models": dict(record["models"]), "parameters": dict(record["parameters"])}
    except FileNotFoundError as error:
        raise PublishedFileError(f"{notebook.relative_to(ROOT)} is missing; {_remedy(chapter)}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise PublishedFileError(
            f"{notebook.relative_to(ROOT)} holds no record of the models of {chapter}; {_remedy(chapter)}"
        ) from error


def _results_of(chapter: str) -> str:
    return json.loads(os.environ.get("BOOK_NEEDS") or "{}").get(chapter, DEFAULT_RESULTS)


def _remedy(chapter: str) -> str:
    remedy = "`python -m book build` makes it anew"
    if _results_of(chapter) == DEFAULT_RESULTS:
        remedy = f"`git checkout -- results/{chapter}.ipynb results/models/{chapter}` restores it, {remedy}"
    return remedy


def array_digest(*arrays: np.ndarray) -> str:
    """Return the digest of arrays: of their shapes, types and values, in the order in which they are given.

    Parameters
    ----------
    *arrays : ndarray
        Of any shapes.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def cached(name: str, depends_on: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Make the files of an expensive step, or find them in the cache.

    Parameters
    ----------
    name : str
        What the step is, readable.
    depends_on : mapping
        All that the result depends on; values that JSON can write, `book.sources.digest_of` the code for instance.
    make : callable
        Fills the folder that it is given. It may find there what an interrupted attempt left, if it can tell whole
        files from damaged ones. Temporary files, with names that begin with a dot, don't count.

    Returns
    -------
    Path
        The folder, ``_build/cache/<name>-<key>``. Its files are those that ``make`` wrote: their checksums are
        compared, and the step is done again where one differs.
    """
    step = CachedStep(name, depends_on)
    with step.locked():
        if not step.is_finished():
            with measured() as cost:
                make(step.folder)
            step.finish(cost)
    return step.folder


class CachedStep:
    """One step in the cache: its folder, its lock, its seal. See :func:`cached`, which does it all in one call.

    Parameters
    ----------
    name, depends_on
        As in :func:`cached`.
    """

    def __init__(self, name: str, depends_on: Mapping[str, Any]):
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        self.name = name
        self.depends_on = dict(depends_on)
        self.folder = ROOT / CACHE / f"{name}-{key}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from this step while the block runs; wait for one that is at it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f".{self.folder.name}.lock")):
            yield

    def is_finished(self) -> bool:
        """Whether the step is done and all its files are whole; its cost is then reported.

        Of a damaged step what differs from its checksum is removed, and a line says so.
        """
        try:
            seal = read_sealed_json(self.folder / SEAL)
        except FileNotFoundError:
            return False
        except DamagedFileError:
            seal = {"files": {}, "cost": None}
        present = checksums_of(self.folder)
        damaged = {file for file, checksum in seal["files"].items() if present.get(file) != checksum}
        if seal["cost"] is not None and not damaged:
            self.report(seal["cost"], found=True)
            return True
        for file in (SEAL, *damaged):
            (self.folder / file).unlink(missing_ok=True)
        what = ", ".join(sorted(damaged)) or SEAL
        notice(f"{self.folder.relative_to(ROOT)}: {what} is damaged; computed again")
        return False

    def finish(self, cost: Mapping[str, Any]) -> None:
        """Seal the files of the step and record what it cost."""
        files = {file: checksum for file, checksum in checksums_of(self.folder).items() if file != SEAL}
        write_sealed_json(self.folder / SEAL, {"files": files, "cost": dict(cost)})
        self.report(cost, found=False)

    def report(self, cost: Mapping[str, Any], found: bool) -> None:
        """Report to the pipeline what the step costs, or cost when it was done, if it was ``found`` in the cache.

        Folder and ``depends_on`` say which step it is; :mod:`book.experiments.page.costs` reads them again.
        """
        if path := os.environ.get("BOOK_COSTS"):
            what = {"step": self.name, **cost, "found": found, "folder": self.folder.name}
            line = json.dumps(what | {"depends_on": self.depends_on}) + "\n"
            # One write to a file opened for appending: lines of several processes do not mix.
            with open(path, "ab", buffering=0) as file:
                file.write(line.encode())


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Measure what the block costs; the dict that it gives is filled at the end.

    Its keys are ``cpu_seconds`` (of this process and all that it started), ``wall_seconds`` and ``machine``.
    """
    cost: dict[str, Any] = {}
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield cost
    cost["cpu_seconds"] = round(max(0.0, _cpu_seconds() - cpu), 3)
    cost["wall_seconds"] = round(time.perf_counter() - wall, 3)
    cost["machine"] = machine()


def memory_mapped(name: str, arrays: Mapping[str, np.ndarray], mode: str = "r") -> dict[str, np.ndarray]:
    """Put arrays into files, so that worker processes read them and hold no copies.

    joblib sends a memory map to a process on the same machine as its path, to another machine as its numbers. The
    files lie in the cache, on disk, and not in shared memory, which a killed process would leave behind.

    Parameters
    ----------
    name : str
        What the arrays are, readable.
    arrays : mapping of ndarray
    mode : {"r", "c"}
        Read-only, or copy on write, as PyTorch wants it; the files are not written to in either.

    Returns
    -------
    dict of ndarray
        The same numbers.
    """

    def save(folder: Path) -> None:
        for key, array in arrays.items():
            np.save(folder / f"{key}.npy", array, allow_pickle=False)

    folder = cached(name, {key: joblib.hash(np.asarray(array)) for key, array in arrays.items()}, save)
    return {key: np.load(folder / f"{key}.npy", mmap_mode=mode) for key in arrays}


def machine() -> str:
    """Name the processor and the number of its cores that may be used."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {joblib.cpu_count()} cores"


def _cpu_seconds() -> float:
    """CPU time of this process, of its descendants, and of those of them that have ended."""
    total = 0.0
    process = psutil.Process()
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
