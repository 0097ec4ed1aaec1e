"""Run one chapter with papermill and store its result, or leave everything as it was.

The kernel works in the project's root, in an environment of its own (see `book.pipeline.kernel`). These variables tell
a chapter what it can't know:

- ``BOOK_MODELS``, an empty folder for the files that others read;
- ``BOOK_NEEDS``, where the results of the chapters are that it needs;
- ``BOOK_PROGRESS``, see `book.pipeline.progress_bars`;
- ``BOOK_COSTS``, a file for what its cached steps cost;
- ``BOOK_WORKERS``, ``BOOK_SCHEDULER`` and ``BOOK_DEVICE``, where and how fast to compute.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from book.pipeline.build import Build
from book.pipeline.content_key import Status, components_of, external_imports
from book.pipeline.cost import ProcessTree
from book.pipeline.errors import ChapterError, without_colours
from book.pipeline.kernel import (
    KERNEL,
    Kernel,
    check_loopback,
    check_no_matplotlibrc,
    clean_environment,
    remove_leftovers,
)
from book.pipeline.progress_bars import Progress
from book.pipeline.project import INJECTED_TAG, Project, code_cells_of, number_cells, tags_of
from book.pipeline.results import store_result

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
# What a line on the cost of a cached step holds at least.
_OF_A_STEP = {"step", "folder", "machine", "cpu_seconds", "wall_seconds", "found"}
NO_SPACE = "No space left on device"
_NO_NUMBER = re.compile(r"\b(nan|inf)\b")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


@dataclass(frozen=True)
class ExecutionOptions:
    """Where and how fast to compute; none of it changes a result.

    Attributes
    ----------
    workers : int or None
        Processes that work at a time; all cores by default.
    scheduler : str or None
        The address of a Dask scheduler that takes the work instead.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    """

    workers: int | None = None
    scheduler: str | None = None
    device: str = "auto"

    @property
    def environment(self) -> dict[str, str]:
        """The options as a chapter's code reads them."""
        values = {"BOOK_WORKERS": self.workers, "BOOK_SCHEDULER": self.scheduler, "BOOK_DEVICE": self.device}
        return {name: str(value) for name, value in values.items() if value is not None}

    @property
    def arguments(self) -> list[str]:
        """The options as a command line has them."""
        values = {"--workers": self.workers, "--scheduler": self.scheduler, "--device": self.device}
        return [text for name, value in values.items() if value is not None for text in (name, str(value))]

    @property
    def record(self) -> dict[str, Any]:
        """The options as a result records them; without an address, which says nothing to a reader."""
        workers = "of a cluster" if self.scheduler else self.workers or joblib.cpu_count()
        return {"workers": workers, "device": self.device}


def execute_chapter(build: Build, status: Status, options: ExecutionOptions | None = None) -> None:
    """Execute a chapter and replace its stored result, if it ran without an error or a warning.

    Parameters
    ----------
    build : Build
        Parameters and folders.
    status : Status
        The chapter with its content key; ``status.result`` is written.
    options : ExecutionOptions, optional
        Where and how fast to compute.

    Raises
    ------
    BookError
        If the surroundings don't let it run, or would change the result.
    ChapterError
        If a cell fails or writes anything to the error output, or if the sources change meanwhile. The previous
        result is left as it was.
    """
    chapter = status.chapter
    check_loopback()
    check_no_matplotlibrc(build.root)
    for place in (status.result.parent, build.models_of(chapter).parent):
        _check_writable(place)
    folder = build.project.build / "kernel"
    remove_leftovers(folder)
    models = folder / "models" / chapter.name
    models.mkdir(parents=True)
    # What a cached step cost is known by its file alone, so an old one must not be read again.
    costs, progress_file = folder / f"{chapter.name}.costs", folder / f"{chapter.name}.progress"
    costs.unlink(missing_ok=True)
    environment, complaints = clean_environment(build.root, folder, os.environ)
    for complaint in complaints:
        print(complaint, file=sys.stderr, flush=True)
    options = options or ExecutionOptions()
    environment |= options.environment
    environment |= {
        "BOOK_MODELS": str(models),
        "BOOK_NEEDS": json.dumps(
            {
                other.name: build.results_of(other).relative_to(build.root).as_posix()
                for other in build.project.needs_of(chapter)
            }
        ),
        "BOOK_PROGRESS": str(progress_file),
        "BOOK_COSTS": str(costs),
    }
    kernel, usage = Kernel(build.root, folder, environment), ProcessTree()
    started = time.monotonic()
    with (
        kernel.guarded(),
        Progress(
            chapter.name,
            len(chapter.code_cells),
            progress_file,
            on_look=lambda: kernel.pid and usage.look(kernel.pid),
        ) as progress,
    ):
        try:
            executed = _run(build, status, kernel, progress)
        finally:
            kernel.end()
            usage.kill_remaining()
    wall_seconds = time.monotonic() - started
    if printed := kernel.printed_by_libraries():
        print(f"{chapter.name}: a library printed, past the page:\n{printed[-2000:]}", file=sys.stderr, flush=True)
    if components_of(build.root, chapter, build.parameters(chapter), {}) != {
        name: value for name, value in status.components.items() if not name.startswith("models of ")
    }:
        raise ChapterError(f"{chapter.name}: a module or requirements.txt changed while it ran; run it again")
    _check_publishable(build.project, chapter.name, executed, chapter.code_cells)
    _clean(executed)
    executed.metadata["book"] = {
        "key": status.key,
        "components": status.components,
        "profile": build.profile,
        "parameters": build.parameters(chapter),
        "seed": build.parameters(chapter).get("seed"),
        "environment": _environment_of(build.project, status) | options.record,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cost": {
            "wall_seconds": round(wall_seconds, 1),
            "cpu_seconds": round(usage.cpu_seconds, 1),
            "peak_mib": round(usage.peak_mib),
            "steps": _steps(costs),
        },
    }
    store_result(build, status, executed, models)
    shutil.rmtree(folder / "models", ignore_errors=True)
    costs.unlink(missing_ok=True)


def _check_writable(folder: Path) -> None:
    """Fail before the work instead of after it."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _steps(costs: Path) -> list[dict[str, Any]]:
    """Read what the chapter's cached steps cost; a line that is not whole is left out."""
    steps = []
    for line in costs.read_text(encoding="utf-8", errors="replace").splitlines() if costs.is_file() else []:
        try:
            step = json.loads(line)
        except ValueError:
            continue
        if isinstance(step, dict) and step.keys() >= _OF_A_STEP:
            steps.append(step)
    return steps


def code_cells_with_runs(source: NotebookNode, executed: NotebookNode) -> list[tuple[NotebookNode, NotebookNode]]:
    """Pair each code cell of a chapter's source with the cell of its run that has its outputs.

    Parameters
    ----------
    source : nbformat.NotebookNode
        The current source, whose prose and metadata may be newer than the run.
    executed : nbformat.NotebookNode
        The stored result, with papermill's own cell in it.

    Raises
    ------
    ValueError
        If the result is not of this source: the numbers of cells differ.
    """
    return list(zip(code_cells_of(source), code_cells_of(executed), strict=True))


def _run(build: Build, status: Status, kernel: Kernel, progress: Progress) -> NotebookNode:
    """Execute the chapter's source and return the notebook as papermill leaves it."""
    chapter = status.chapter
    source = nbformat.from_dict(chapter.notebook)
    number_cells(source)
    source.metadata["kernelspec"] = KERNEL
    done = 0

    def cell_executed(cell: NotebookNode, **_: Any) -> None:
        nonlocal done
        if INJECTED_TAG not in tags_of(cell):
            done += 1
            progress.cell_done()

    def ends_early() -> bool:
        """Only a run that came to its end has anything to finish; else a cell may go on for hours."""
        if done >= len(chapter.code_cells):
            return False
        # What waits for the cell would report that the kernel died.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            task.cancel()
        return True

    try:
        return papermill.execute_notebook(
            source,
            None,
            parameters=build.overrides.get(chapter.name, {}),
            cwd=build.root,
            progress_bar=False,
            start_timeout=120,
            kernel_manager_class=kernel.manager_class(ends_early),
            extra_arguments=kernel.arguments,
            on_cell_executed=cell_executed,
        )
    except PapermillExecutionError as error:
        # A cell that failed was counted as executed as well.
        where = f"{chapter.name}: {_where(chapter.code_cells, done - 1)}"
        traceback = _plain(chr(10).join(error.traceback))
        if NO_SPACE in traceback:
            raise ChapterError(
                f"{where}: no room is left on the disk of {build.root}; the last result is kept; "
                "make room and run it again"
            ) from None
        raise ChapterError(f"{where} failed\n{traceback}") from None
    except DeadKernelError:
        printed = kernel.printed_by_libraries()
        raise ChapterError(
            f"{chapter.name}: the kernel died in {_where(chapter.code_cells, done)}; out of memory is the usual cause"
            + (f"\n{printed[-2000:]}" if printed else "")
        ) from None
    except RuntimeError as error:  # what jupyter_client says of a kernel that does not answer
        raise ChapterError(f"{chapter.name}: {error}; run it again\n{kernel.printed_by_libraries()[-2000:]}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{chapter.name}, {_where(chapter.code_cells, done)}") from None


def _where(cells: list[NotebookNode], index: int) -> str:
    index = max(0, min(index, len(cells) - 1))
    lines = [line for line in cells[index].source.splitlines() if line.strip()]
    return f"code cell {index + 1} of {len(cells)} ({lines[0].strip() if lines else 'empty'})"


def _check_publishable(project: Project, name: str, executed: NotebookNode, source: list[NotebookNode]) -> None:
    """Fail on what no page may show.

    That is a warning, a caption without a figure, a glued number that is none, and text that would differ on another
    machine or in another run.
    """
    cells = code_cells_of(executed)
    for index, cell in enumerate(cells):
        if "figure" in source[index].metadata.get("mystnb", {}) and not any(map(_is_figure, cell.outputs)):
            raise ChapterError(f"{name}: {_where(cells, index)} has a caption, and gave no figure")
        for output in cell.outputs:
            where = f"{name}: {_where(cells, index)}"
            _check_finite(where, output)
            if output.output_type == "stream" and output.name == "stderr":
                raise ChapterError(f"{where} wrote to the error output, which is not published:\n{_plain(output.text)}")
            for text in _texts(output):
                if str(project.root) in text:
                    raise ChapterError(f"{where} shows a path of this machine, {project.root}; show a relative one")
                if _ADDRESS.search(text):
                    raise ChapterError(f"{where} shows an object's address, which differs in each run:\n{text[:500]}")


def _check_finite(where: str, output: NotebookNode) -> None:
    """Fail on NaN and infinity in what is glued into the text, alone or within a text such as that of an interval."""
    name = output.get("metadata", {}).get("scrapbook", {}).get("name")
    for kind, text in output.get("data", {}).items():
        if name is not None and kind.endswith("text/plain") and _NO_NUMBER.search(text):
            raise ChapterError(f"{where} glues {name} = {text[:500]}, and the text has no place for NaN or infinity")


def _is_figure(output: NotebookNode) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _texts(output: NotebookNode) -> list[str]:
    if output.output_type == "stream":
        return [output.text]
    return [text for kind, text in output.get("data", {}).items() if isinstance(text, str) and "text/" in kind]


def _clean(executed: NotebookNode) -> None:
    """Take out what papermill and nbclient record of the machine and the time."""
    executed.metadata.pop("papermill", None)
    language = executed.metadata.get("language_info", {})
    executed.metadata["language_info"] = {
        name: language[name] for name in ("name", "file_extension", "pygments_lexer") if name in language
    }
    number_cells(executed)
    for cell in executed.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
        if INJECTED_TAG in tags_of(cell):
            cell.metadata["tags"] = [INJECTED_TAG, "remove-cell"]


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the printed output; where the kernel cuts it depends on timing."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _environment_of(project: Project, status: Status) -> dict[str, Any]:
    """Describe the machine and the versions of the required packages that the chapter imports."""
    distributions = metadata.packages_distributions()
    imported = {
        name.lower()
        for module in external_imports(project.root, status.chapter)
        for name in distributions.get(module, [])
    }
    requirements = project.root / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    required = [re.split(r"[\s=<>!~\[;#]", line.strip(), maxsplit=1)[0] for line in lines]
    versions = {name: metadata.version(name) for name in required if name and name.lower() in imported}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """List the processor's instruction sets that decide how fast matrices are multiplied, where the system says."""
    return [name for name in INSTRUCTIONS if name in _cpuinfo("flags").split()]


def _cpuinfo(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _plain(text: str) -> str:
    """Take the colours out of a traceback that does not go to a terminal."""
    return text if sys.stderr.isatty() else without_colours(text)
