"""Run one chapter with papermill and store its result, or leave everything as it was.

The kernel works in the project's root and finds there what the project is made of. Two environment variables tell
it more: ``BOOK_OUTPUT``, the folder of this profile relative to the root, and ``BOOK_PROGRESS``, see
`book.pipeline.progress_bars`. What other chapters are to read goes to ``<BOOK_OUTPUT>/models/<chapter>/``; the folder
is empty when the chapter starts, so that it never holds what an earlier version left.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from book.files import checksums_of
from book.pipeline.content_key import Status, components_of, external_imports, seal_of
from book.pipeline.parameters import Profile
from book.pipeline.progress_bars import Progress
from book.pipeline.project import BookError, Project, tags_of

INJECTED_TAG = "injected-parameters"
# The first cell of a published notebook, see `book.pipeline.notebooks`.
OPENING_TAG = "opening"
# Seconds since 1970 that matplotlib writes into a figure as its date: constant, so that a figure that did not change
# has the same bytes.
SOURCE_DATE_EPOCH = "1700000000"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


class ChapterError(BookError):
    """A chapter that did not run to its end, or printed what must not be published."""


def execute_chapter(project: Project, profile: Profile, status: Status) -> None:
    """Execute a chapter and replace its stored result, if it ran without an error or a warning.

    Parameters
    ----------
    project : Project
        The checkout.
    profile : Profile
        Parameters and folders.
    status : Status
        The chapter with its content key; ``status.result`` is written.

    Raises
    ------
    ChapterError
        If a cell fails or writes anything to the error output, or if the sources change meanwhile. The previous
        result is left as it was.
    """
    chapter = status.chapter
    models = models_folder(project, profile, chapter.name)
    stamp = models.with_suffix(".json")
    stamp.unlink(missing_ok=True)
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir(parents=True)
    progress_file = project.root / profile.output / f"{chapter.name}.progress"
    started = time.monotonic()
    with Progress(chapter.name, len(chapter.code_cells), progress_file) as progress:
        environment = {
            "BOOK_OUTPUT": profile.output.as_posix(),
            "BOOK_PROGRESS": str(progress_file),
            "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
            "PYTHONHASHSEED": "0",
            # The kernel of this Python, whatever kernels the user has installed.
            "JUPYTER_PREFER_ENV_PATH": "1",
        }
        with _environment(environment):
            executed = _run(project, profile, status, progress)
    if components_of(project.root, chapter, profile.parameters(chapter), {}) != {
        name: value for name, value in status.components.items() if not name.startswith("models of ")
    }:
        raise ChapterError(f"{chapter.name}: a module or requirements.txt changed while it ran; run it again")
    _check_publishable(project, chapter.name, executed)
    _clean(executed)
    executed.metadata["book"] = {
        "key": status.key,
        "components": status.components,
        "profile": profile.name,
        "parameters": profile.parameters(chapter),
        "seed": profile.parameters(chapter).get("seed"),
        "environment": _environment_of(project, status),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "models": checksums_of(models),
        "cost": {"wall_seconds": round(time.monotonic() - started), "steps": []},
    }
    executed.metadata["book"]["digest"] = seal_of(executed)
    write_atomically(status.result, nbformat.writes(executed) + "\n")
    files = {path.relative_to(models).as_posix(): _sha256(path) for path in _files(models)}
    write_atomically(stamp, json.dumps({"key": status.key, "files": files}, indent=1) + "\n")


def models_folder(project: Project, profile: Profile, name: str) -> Path:
    """Return the folder of what a chapter leaves for others."""
    return project.root / profile.output / "models" / name


def models_are_there(project: Project, profile: Profile, status: Status) -> bool:
    """Tell whether all files that a chapter leaves for others are there, and are those of its current sources."""
    models = models_folder(project, profile, status.chapter.name)
    try:
        stamp = json.loads(models.with_suffix(".json").read_text(encoding="utf-8"))
        return stamp["key"] == status.key and all(
            _sha256(models / name) == checksum for name, checksum in stamp["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


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
    return list(zip(_code_cells(source), _code_cells(executed), strict=True))


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that at any time it is either the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _KernelManager(AsyncKernelManager):
    """A kernel that can be ended at once together with what it started, such as joblib's workers."""

    _group: int | None = None

    async def start_kernel(self, **kwargs: Any) -> None:
        await super().start_kernel(**kwargs)
        # A kernel has a process group of its own, where the system knows such a thing.
        self._group = getattr(self.provisioner, "pgid", None)

    def terminate_group(self) -> None:
        if self._group is not None:
            # Joblib's resource tracker ignores this signal, and deletes the shared memory of those that end by it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGTERM)


def _run(project: Project, profile: Profile, status: Status, progress: Progress) -> NotebookNode:
    """Execute the chapter's source and return the notebook as papermill leaves it."""
    chapter = status.chapter
    source = nbformat.from_dict(chapter.notebook)
    for index, cell in enumerate(source.cells):
        cell["id"] = f"cell-{index}"
    source.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    done = 0

    def cell_executed(cell: NotebookNode, **_: Any) -> None:
        nonlocal done
        if INJECTED_TAG not in tags_of(cell):
            done += 1
            progress.cell_done()

    class Manager(_KernelManager):
        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            if done < len(chapter.code_cells):
                # Only a run that came to its end has anything to finish; else a cell may go on for hours. The manager
                # would interrupt the processes first, and each would print a traceback. What waits for the cell would
                # report that the kernel died.
                now = True
                self.terminate_group()
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.add_done_callback(lambda task: task.cancelled() or task.exception())
                    task.cancel()
            await super().shutdown_kernel(now=now, restart=restart)

    try:
        return papermill.execute_notebook(
            source,
            None,
            parameters=profile.overrides.get(chapter.name, {}),
            cwd=project.root,
            progress_bar=False,
            start_timeout=120,
            kernel_manager_class=Manager,
            # The kernel tells at each start that it speaks TCP, to this machine only, and at each end that it ends.
            extra_arguments=["--log-level=CRITICAL"],
            on_cell_executed=cell_executed,
        )
    except PapermillExecutionError as error:
        # A cell that failed was counted as executed as well.
        raise ChapterError(
            f"{chapter.name}: {_where(chapter.code_cells, done - 1)} failed\n{_plain(chr(10).join(error.traceback))}"
        ) from None
    except DeadKernelError:
        raise ChapterError(
            f"{chapter.name}: the kernel died in {_where(chapter.code_cells, done)}; out of memory is the usual cause"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{chapter.name}, {_where(chapter.code_cells, done)}") from None


def _where(cells: list[NotebookNode], index: int) -> str:
    index = max(0, min(index, len(cells) - 1))
    lines = [line for line in cells[index].source.splitlines() if line.strip()]
    return f"code cell {index + 1} of {len(cells)} ({lines[0].strip() if lines else 'empty'})"


def _check_publishable(project: Project, name: str, executed: NotebookNode) -> None:
    """Fail on warnings, and on text that would differ on another machine or in another run."""
    cells = _code_cells(executed)
    for index, cell in enumerate(cells):
        for output in cell.outputs:
            where = f"{name}: {_where(cells, index)}"
            if output.output_type == "stream" and output.name == "stderr":
                raise ChapterError(f"{where} wrote to the error output, which is not published:\n{_plain(output.text)}")
            for text in _texts(output):
                if str(project.root) in text:
                    raise ChapterError(f"{where} shows a path of this machine, {project.root}; show a relative one")
                if _ADDRESS.search(text):
                    raise ChapterError(f"{where} shows an object's address, which differs in each run:\n{text[:500]}")


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """List the code cells that are the chapter's, not papermill's or the pipeline's."""
    ours = {INJECTED_TAG, OPENING_TAG}
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not ours & set(tags_of(cell))]


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
    for index, cell in enumerate(executed.cells):
        cell["id"] = f"cell-{index}"
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
    return text if sys.stderr.isatty() else _COLOUR.sub("", text)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
