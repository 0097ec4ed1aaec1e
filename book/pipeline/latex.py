"""LaTeX for the PDF report: whether it is here, and how to get it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from book.pipeline import apt

# Debian's names. The small set: the theme's own LaTeX class would need a gigabyte of fonts more.
PACKAGES = (
    "latexmk",
    "texlive-xetex",
    "texlive-latex-extra",
    "texlive-fonts-recommended",
    "fonts-freefont-otf",
    "tex-gyre",
    "lmodern",
)
PROGRAMS = ("xelatex", "latexmk", "kpsewhich")
# Some of the style files that the report loads, and its fonts: enough to tell a whole LaTeX from a part of one.
FILES = ("fontspec.sty", "polyglossia.sty", "tabulary.sty", "needspace.sty", "capt-of.sty", "fncychap.sty")
FONTS = ("FreeSerif.otf", "FreeSans.otf", "FreeMono.otf")


def missing() -> list[str]:
    """List what the report needs and this machine lacks; empty when the report can be made."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return absent
    return [name for name in (*FILES, *FONTS) if not _finds(name)]


def advice(absent: list[str]) -> str:
    """Say in one line what is missing and how to get it."""
    return f"no PDF: {', '.join(absent)} missing; on Debian or Ubuntu: {apt.command(PACKAGES)}"


def install(log: Path) -> list[str]:
    """Install what is missing where that is possible without asking.

    Parameters
    ----------
    log : pathlib.Path
        Takes the output of the package manager.

    Returns
    -------
    list of str
        What is still missing.
    """
    if missing():
        apt.install("LaTeX", PACKAGES, log)
    return missing()


def _finds(name: str) -> bool:
    return subprocess.run(["kpsewhich", name], capture_output=True).returncode == 0
