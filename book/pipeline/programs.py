"""Programs that pip can't install: LaTeX for the report, Chromium for the tests; are they here, and how to get them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LATEX_PROGRAMS = ("xelatex", "latexmk", "kpsewhich")
# Some of the style files that the report loads, and its fonts: enough to tell a whole LaTeX from a part of one.
LATEX_FILES = (
    *("fontspec.sty", "polyglossia.sty", "tabulary.sty", "needspace.sty", "capt-of.sty", "fncychap.sty"),
    *("FreeSerif.otf", "FreeSans.otf", "FreeMono.otf"),
)
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


def find_browser() -> str | None:
    """Return the path of the Chromium or Chrome of this machine, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Program:
    """A program that apt can install.

    Attributes
    ----------
    name : str
        What people call it.
    purpose : str
        What there is not without it.
    packages : tuple of str
        Debian's names.
    missing : callable
        Lists what this machine lacks of it.
    """

    name: str
    purpose: str
    packages: tuple[str, ...]
    missing: Callable[[], list[str]]

    def advice(self) -> str:
        """Say in one line what is missing and how to get it."""
        command = f"sudo apt-get install --no-install-recommends {' '.join(self.packages)}"
        return f"no {self.purpose}: {', '.join(self.missing())} missing; on Debian or Ubuntu: {command}"

    def install(self, log: Path) -> bool:
        """Install what is missing where that is possible without asking.

        Parameters
        ----------
        log : pathlib.Path
            Takes the output of the package manager.

        Returns
        -------
        bool
            Whether nothing is missing now.
        """
        if self.missing() and (prefix := _without_asking()) is not None:
            print(f"installing {self.name} (about a minute; log in {log})", file=sys.stderr, flush=True)
            log.parent.mkdir(parents=True, exist_ok=True)
            apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
            apt += ["-o", "DPkg::Lock::Timeout=120"]
            with log.open("w", encoding="utf-8") as file:
                for command in (["update"], ["install", "-y", "--no-install-recommends", *self.packages]):
                    subprocess.run([*apt, *command], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        return not self.missing()


PROGRAMS = {
    # The small set: the theme's own LaTeX class would need a gigabyte of fonts more.
    "latex": Program(
        "LaTeX",
        "PDF",
        (
            *("latexmk", "texlive-xetex", "texlive-latex-extra", "texlive-fonts-recommended"),
            *("fonts-freefont-otf", "tex-gyre", "lmodern"),
        ),
        lambda: missing_latex(),
    ),
    # The fonts are those of any desktop, without which Chromium finds none to draw the text with.
    "browser": Program(
        "Chromium",
        "test in a browser",
        ("chromium", "fonts-dejavu-core"),
        lambda: [] if find_browser() else ["chromium"],
    ),
}


def _without_asking() -> list[str] | None:
    """Return what to put before apt-get, or None if there is no apt or it would ask for a password."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None
