"""Build HTML and PDF from the staged pages with Jupyter Book.

Both builds go to a folder aside and take the place of the last ones only when they are complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import matplotlib

from book.pipeline import latex
from book.pipeline.content_key import statuses
from book.pipeline.pages import CONTENTS, DOWNLOADS, REPORT_CONTENTS, report_stage, stage
from book.pipeline.parameters import Profile
from book.pipeline.project import BookError, Project
from book.pipeline.provenance import RENDERERS

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def render(project: Project, profile: Profile) -> tuple[Path, Path | None]:
    """Build the pages and, where there is LaTeX, the report.

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
    check_fresh(project, profile)
    output = project.root / profile.output
    staged = stage(project, profile, output / "stage")
    wanted = {"html": output / "html" / "index.html"}
    if latex.missing():
        # An old report beside new pages would pass for theirs.
        for name in ("report.pdf", "report.log"):
            (output / name).unlink(missing_ok=True)
    else:
        wanted["pdf"] = output / "report.pdf"
    record = output / "render.json"
    current = _digest(staged)
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    todo = [kind for kind, path in wanted.items() if before.get(kind) != current or not path.is_file()]
    if todo:
        print(f"rendering {' and '.join(todo)}", file=sys.stderr, flush=True)
        made = output / "rendering"
        shutil.rmtree(made, ignore_errors=True)
        builders = {"html": _build_html, "pdf": _build_pdf}
        with ThreadPoolExecutor() as pool:
            built = {kind: pool.submit(builders[kind], staged, made / kind) for kind in todo}
        results = {kind: future.result() for kind, future in built.items()}
        if "html" in results:
            _replace(results["html"], output / "html")
        if "pdf" in results:
            for name in ("report.log", "report.pdf"):
                os.replace(results["pdf"].with_name(name), output / name)
        shutil.rmtree(made)
        kept = {kind: digest for kind, digest in before.items() if kind in wanted}
        record.write_text(json.dumps(kept | dict.fromkeys(todo, current)), encoding="utf-8")
    return wanted["html"], wanted.get("pdf")


def report_is_current(project: Project, profile: Profile) -> bool:
    """Whether the report is there and is that of the sources and results."""
    output = project.root / profile.output
    record = output / "render.json"
    if not record.is_file() or not (output / "report.pdf").is_file():
        return False
    staged = stage(project, profile, output / "stage")
    return json.loads(record.read_text(encoding="utf-8")).get("pdf") == _digest(staged)


def check_fresh(project: Project, profile: Profile) -> None:
    """Raise an error that names the stale chapters and the command that brings them up to date."""
    stale = [status for status in statuses(project, profile).values() if not status.is_fresh]
    if stale:
        listing = "\n".join(f"  {status.chapter.name}: {'; '.join(status.reasons)}" for status in stale)
        raise BookError(
            f"not rendered, because these chapters are stale:\n{listing}\n"
            f"'python -m book build --profile {profile.name}' runs them and renders"
        )


def _build_html(staged: Path, made: Path) -> Path:
    _jupyter_book(staged, made, "html", staged / CONTENTS)
    html = made / "_build" / "html"
    # The theme's download button leads to the staged page; what a reader wants is the notebook that ran.
    if (staged / DOWNLOADS).is_dir():
        shutil.copytree(staged / DOWNLOADS, html / "_sources", dirs_exist_ok=True)
    return html


def _build_pdf(staged: Path, made: Path) -> Path:
    made.mkdir(parents=True)
    staged = report_stage(staged, made / "stage")
    _jupyter_book(staged, made, "latex", staged / REPORT_CONTENTS)
    folder = made / "_build" / "latex"
    for font in Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuSansMono*.ttf"):
        shutil.copy(font, folder)
    command = ["latexmk", "-xelatex", "-interaction=nonstopmode", "-halt-on-error", "-quiet", "report.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    log = folder / "report.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    if done.returncode != 0:
        errors = [line for line in lines if line.startswith(("!", "l."))] or done.stderr.splitlines()[-20:]
        raise BookError("LaTeX failed:\n" + "\n".join(errors) + f"\n(log: {log})")
    # A character that the font lacks leaves a gap in the report and no more than a line in the log.
    gaps = sorted({line for line in lines if line.startswith("Missing character")})
    if gaps:
        raise BookError("the report's fonts lack characters:\n" + "\n".join(gaps))
    return folder / "report.pdf"


def _jupyter_book(staged: Path, made: Path, builder: str, contents: Path) -> None:
    """Build strictly: every warning of a whole, fresh build is shown, and any makes it fail."""
    made.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged)]
    command += ["--path-output", str(made), "--builder", builder, "--toc", str(contents)]
    command += ["-n", "-W", "--keep-going", "-q"]
    # _config.yml names book.sphinx.theme_patches, wherever the book is rendered from.
    ours = str(Path(__file__).parents[2])
    environment = os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ours}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode != 0:
        output = _COLOUR.sub("", done.stdout + done.stderr).replace(f"{staged}{os.sep}", "")
        # MyST-NB counts lines as 10000 times the cell's number and the line in the cell.
        output = re.sub(r"\.ipynb:(\d+)(\d{4}):", lambda m: f".md, cell {m[1]}, line {int(m[2])}:", output)
        warnings = [line for line in output.splitlines() if "WARNING" in line or "ERROR" in line]
        raise BookError(f"Jupyter Book's {builder} build is not clean:\n" + ("\n".join(warnings) or output))


def _digest(staged: Path) -> str:
    """Hash what rendering depends on: the staged files, the programs, and the pipeline."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
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
        os.replace(old, aside)
    os.replace(new, old)
    shutil.rmtree(aside, ignore_errors=True)
