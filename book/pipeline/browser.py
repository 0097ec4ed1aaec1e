"""Chromium, in which the tests open the pages: whether it is here, and how to get it."""

from __future__ import annotations

import shutil
from pathlib import Path

from book.pipeline import apt

# Debian's names. The fonts are those of any desktop, without which Chromium finds none to draw the text with.
PACKAGES = ("chromium", "fonts-dejavu-core")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Return the path of the Chromium or Chrome of this machine, or None."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def advice() -> str:
    """Say in one line what is missing and how to get it."""
    return f"no Chromium to open the pages in; on Debian: {apt.command(PACKAGES)}"


def install(log: Path) -> str | None:
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
    if find() is None:
        apt.install("Chromium", PACKAGES, log)
    return find()
