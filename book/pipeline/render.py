"""Build HTML and PDF from the staged pages with Jupyter Book.

Both builds go to a folder aside and take the place of the last ones only when they are complete.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from book.files import DamagedFileError, read_sealed_json, sha256_of, write_sealed_json
from book.pipeline import programs
from book.pipeline.build import Build
from book.pipeline.configuration import PDF_CONTENTS, REPORT
from book.pipeline.content_key import statuses
from book.pipeline.errors import BookError, without_colours
from book.pipeline.kernel import PASSED, Watchdog
from book.pipeline.pages import DOWNLOADS, pdf_stage, stage
from book.pipeline.project import CONTENTS
from book.pipeline.provenance import RENDERERS

SPHINX = Path(__file__).parents[1] / "sphinx"
PDF_FILES = tuple(f"{name}.{ending}" for name in ("book", REPORT) for ending in ("log", "pdf"))
"""The PDFs, and LaTeX's account of each."""
_PDFS = "checksums of PDFs"


def render(build: Build) -> tuple[Path, Path | None]:
    """Build the pages and, where there is LaTeX, the two PDFs: the report, and the whole book beside it.

    Returns
    -------
    html : pathlib.Path
        The first page.
    pdf : pathlib.Path or None
        The report, or None without LaTeX.

    Raises
    ------
    BookError
        If a chapter is stale, or Jupyter Book or LaTeX warns about anything.
    """
    check_fresh(build)
    output = build.output
    staged = stage(build, output / "stage")
    wanted = {"html": output / "html" / "index.html"}
    if programs.missing_latex():
        # Old PDFs beside new pages would pass for theirs.
        for name in PDF_FILES:
            (output / name).unlink(missing_ok=True)
    else:
        wanted["pdf"] = output / "report.pdf" if _has_report(build) else output / "book.pdf"
    record = output / "render.json"
    current = _digest(staged)
    before = _read_record(record)
    is_whole = {"html": wanted["html"].is_file(), "pdf": _pdfs_are_those(output, before)}
    todo = [kind for kind in wanted if before.get(kind) != current or not is_whole[kind]]
    if todo:
        print(f"rendering {' and '.join(todo)}", file=sys.stderr, flush=True)
        made = output / "rendering"
        shutil.rmtree(made, ignore_errors=True)
        builders = {"html": _build_html, "pdf": _build_pdf}
        renderers = Renderers()
        with ThreadPoolExecutor() as pool:
            built = {kind: pool.submit(builders[kind], renderers, staged, made / kind) for kind in todo}
            try:
                wait(built.values(), return_when=FIRST_EXCEPTION)
                results = {kind: future.result() for kind, future in built.items()}
            finally:
                renderers.end()
        # Whatever interrupts from here on, the record never names pages that are not there.
        record.unlink(missing_ok=True)
        if "html" in results:
            _replace(results["html"], output / "html")
        if "pdf" in results:
            for name in PDF_FILES:
                (output / name).unlink(missing_ok=True)
                if (results["pdf"] / name).is_file():
                    (results["pdf"] / name).rename(output / name)
        shutil.rmtree(made)
        kept = {kind: digest for kind, digest in before.items() if kind in wanted}
        write_sealed_json(record, kept | dict.fromkeys(todo, current) | {_PDFS: _checksums_of_pdfs(output)})
    return wanted["html"], wanted.get("pdf")


def report_is_current(build: Build) -> bool:
    """Whether report and book are there as PDFs and are those of the sources and results."""
    output = build.output
    before = _read_record(output / "render.json")
    if "pdf" not in before or not _pdfs_are_those(output, before) or before[_PDFS].keys() != {"book", REPORT}:
        return False
    # In a folder of its own, as a build may be staging at the same time.
    with tempfile.TemporaryDirectory(dir=output) as folder:
        return before["pdf"] == _digest(stage(build, Path(folder) / "stage"))


def _has_report(build: Build) -> bool:
    return any(chapter.name == REPORT for chapter in build.project.chapters)


def _checksums_of_pdfs(output: Path) -> dict[str, str]:
    places = {name: output / f"{name}.pdf" for name in ("book", REPORT)}
    return {name: sha256_of(path) for name, path in places.items() if path.is_file()}


def _pdfs_are_those(output: Path, record: dict[str, Any]) -> bool:
    """Whether the PDFs are there, to the byte, that were rendered last."""
    return bool(record.get(_PDFS)) and record[_PDFS] == _checksums_of_pdfs(output)


def _read_record(path: Path) -> dict[str, Any]:
    """Return the digest of what was rendered last, by kind, and the PDFs' checksums; nothing if it is damaged."""
    try:
        return read_sealed_json(path)
    except (FileNotFoundError, DamagedFileError):
        return {}


def check_fresh(build: Build) -> None:
    """Raise an error that names the stale chapters and the command that brings them up to date."""
    stale = [status for status in statuses(build).values() if not status.is_fresh]
    if stale:
        listing = "\n".join(f"  {status.chapter.name}: {'; '.join(status.reasons)}" for status in stale)
        raise BookError(
            f"not rendered, because these chapters are stale:\n{listing}\n"
            f"'python -m book build --profile {build.profile}' runs them and renders"
        )


class Renderers:
    """The programs that render, each in a process group of its own, so that all of them end together."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._lock = threading.Lock()
        self._ended = False

    def run(
        self, what: str, command: list[str], folder: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess:
        """Run a program to its end.

        Raises
        ------
        BookError
            If it is killed.
        """
        with self._lock:
            if self._ended:
                raise BookError(f"{what} was not started, because rendering ended")
            watchdog = Watchdog()
            process = watchdog.started(command, folder, environment, stderr=subprocess.PIPE)
            self._processes.append(process)
        out, err = process.communicate()
        watchdog.end()
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise BookError(f"{what} was killed ({name}), for lack of memory perhaps; run the command again")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def end(self) -> None:
        """Kill what still runs, and start nothing more."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Return the environment of the renderers: nothing of how the user has set up Python, Sphinx or TeX."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(("LC_", "TEXMF"))}
    # _config.yml names book.sphinx.theme_patches, wherever the book is rendered from.
    return passed | {
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def _build_html(renderers: Renderers, staged: Path, made: Path) -> Path:
    _jupyter_book(renderers, staged, made, "html", staged / CONTENTS)
    html = made / "_build" / "html"
    # The theme's download button leads to the staged page; what a reader wants is the notebook that ran.
    if (staged / DOWNLOADS).is_dir():
        shutil.copytree(staged / DOWNLOADS, html / "_sources", dirs_exist_ok=True)
    return html


def _build_pdf(renderers: Renderers, staged: Path, made: Path) -> Path:
    """Make the PDFs; the report, which comes second, names sections and pages of the book."""
    made.mkdir(parents=True)
    staged = pdf_stage(staged, made / "stage")
    _jupyter_book(renderers, staged, made, "latex", staged / PDF_CONTENTS)
    folder = made / "_build" / "latex"
    for font in _fonts():
        shutil.copy(font, folder)
    for name in ("book", REPORT):
        if (folder / f"{name}.tex").is_file():
            _latex(renderers, folder, name)
    return folder


def _fonts() -> list[Path]:
    """List the files of the font for code, which come with Matplotlib.

    It is not imported for that: here, unlike in a chapter's kernel, its user's settings may make the import fail.
    """
    (package,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    return sorted(Path(package, "mpl-data", "fonts", "ttf").glob("DejaVuSansMono*.ttf"))


def _latex(renderers: Renderers, folder: Path, name: str) -> None:
    command = ["latexmk", "-norc", "-xelatex", "-interaction=nonstopmode", "-halt-on-error", "-quiet"]
    # Sphinx's style of the index; it comes with the LaTeX files.
    command += ["-e", "$makeindex = 'makeindex -s python.ist %O -o %D %S'", f"{name}.tex"]
    done = renderers.run("LaTeX", command, folder, _environment())
    log = folder / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    if done.returncode != 0:
        errors = [line for line in lines if line.startswith(("!", "l."))] or done.stderr.splitlines()[-20:]
        raise BookError("LaTeX failed:\n" + "\n".join(errors) + f"\n(log: {log})")
    # A character that the font lacks leaves a gap in the PDF and no more than a line in the log.
    gaps = sorted({line for line in lines if line.startswith("Missing character")})
    if gaps:
        raise BookError(f"the fonts of {name}.pdf lack characters:\n" + "\n".join(gaps))


def _jupyter_book(renderers: Renderers, staged: Path, made: Path, builder: str, contents: Path) -> None:
    """Build strictly: every warning of a whole, fresh build is shown, and any makes it fail."""
    made.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged)]
    command += ["--path-output", str(made), "--builder", builder, "--toc", str(contents)]
    command += ["-n", "-W", "--keep-going", "-q"]
    done = renderers.run(f"Jupyter Book's {builder} build", command, made, _environment())
    if done.returncode != 0:
        output = without_colours(done.stdout + done.stderr).replace(f"{staged}{os.sep}", "")
        # MyST-NB counts lines as 10000 times the cell's number and the line in the cell.
        output = re.sub(r"\.ipynb:(\d+)(\d{4}):", lambda m: f".md, cell {m[1]}, line {int(m[2])}:", output)
        warnings = [line for line in output.splitlines() if "WARNING" in line or "ERROR" in line]
        raise BookError(f"Jupyter Book's {builder} build is not clean:\n" + ("\n".join(warnings) or output))


def _digest(staged: Path) -> str:
    """Hash what rendering depends on: the staged files, the renderers' versions, and the book's Sphinx extensions."""
    digest = hashlib.sha256()
    for path in sorted(SPHINX.glob("*.py")):
        digest.update(path.read_bytes())
    for name in RENDERERS:
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(staged).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _replace(new: Path, old: Path) -> None:
    """Put a folder in the place of another, which is gone only when the new one is there."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
