"""LaTeX for the PDF report: whether it is here, and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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
    return (
        f"no PDF: {', '.join(absent)} missing; on Debian or Ubuntu: "
        f"sudo apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    )


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
    absent = missing()
    if not absent or shutil.which("apt-get") is None:
        return absent
    if os.geteuid() == 0:
        prefix = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        prefix = ["sudo", "-n"]
    else:
        return absent
    print(f"installing LaTeX (about a minute; log in {log})", file=sys.stderr, flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    with log.open("w", encoding="utf-8") as file:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            subprocess.run([*apt, *command], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return missing()


def _finds(name: str) -> bool:
    return subprocess.run(["kpsewhich", name], capture_output=True).returncode == 0
