"""Programs that pip can't install: LaTeX for the report, Chromium for the tests; are they here, and how to get them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Debian's names. The small set: the theme's own LaTeX class would need a gigabyte of fonts more.
LATEX_PACKAGES = (
    "latexmk",
    "texlive-xetex",
    "texlive-latex-extra",
    "texlive-fonts-recommended",
    "fonts-freefont-otf",
    "tex-gyre",
    "lmodern",
)
LATEX_PROGRAMS = ("xelatex", "latexmk", "kpsewhich")
# Some of the style files that the report loads, and its fonts: enough to tell a whole LaTeX from a part of one.
LATEX_FILES = (
    *("fontspec.sty", "polyglossia.sty", "tabulary.sty", "needspace.sty", "capt-of.sty", "fncychap.sty"),
    *("FreeSerif.otf", "FreeSans.otf", "FreeMono.otf"),
)
# Debian's names. The fonts are those of any desktop, without which Chromium finds none to draw the text with.
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing_latex() -> list[str]:
    """List what the report needs and this machine lacks; empty when the report can be made."""
    absent = [name for name in LATEX_PROGRAMS if shutil.which(name) is None]
    if absent:
        return absent
    done = subprocess.run(
        ["kpsewhich", *LATEX_FILES], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    found = {Path(line).name for line in done.stdout.splitlines()}
    return [name for name in LATEX_FILES if name not in found]


def latex_advice(absent: list[str]) -> str:
    """Say in one line what of LaTeX is missing and how to get it."""
    return f"no PDF: {', '.join(absent)} missing; on Debian or Ubuntu: {_command(LATEX_PACKAGES)}"


def install_latex(log: Path) -> list[str]:
    """Install what is missing of LaTeX where that is possible without asking.

    Parameters
    ----------
    log : pathlib.Path
        Takes the output of the package manager.

    Returns
    -------
    list of str
        What is still missing.
    """
    if missing_latex():
        _install("LaTeX", LATEX_PACKAGES, log)
    return missing_latex()


def find_browser() -> str | None:
    """Return the path of the Chromium or Chrome of this machine, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def browser_advice() -> str:
    """Say in one line how to get a browser."""
    return f"no Chromium to open the pages in; on Debian: {_command(BROWSER_PACKAGES)}"


def install_browser(log: Path) -> str | None:
    """Install Chromium where there is none and that is possible without asking.

    Parameters
    ----------
    log : pathlib.Path
        Takes the output of the package manager.

    Returns
    -------
    str or None
        The path of the program, or None where it is still missing.
    """
    if find_browser() is None:
        _install("Chromium", BROWSER_PACKAGES, log)
    return find_browser()


def _install(what: str, packages: Sequence[str], log: Path) -> None:
    """Install packages with apt, if there is apt and no password is needed; else do nothing."""
    if shutil.which("apt-get") is None:
        return
    if os.geteuid() == 0:
        prefix = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        prefix = ["sudo", "-n"]
    else:
        return
    print(f"installing {what} (about a minute; log in {log})", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    with log.open("w", encoding="utf-8") as file:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *command], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _command(packages: Sequence[str]) -> str:
    """Return the command that a reader can type to install packages."""
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}"
