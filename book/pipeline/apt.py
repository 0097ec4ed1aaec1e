"""Debian packages for what pip can't install: put in where that is possible without asking."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def install(what: str, packages: Sequence[str], log: Path) -> None:
    """Install packages with apt, if there is apt and no password is needed; else do nothing.

    Parameters
    ----------
    what : str
        What the packages are, for the line that is printed.
    packages : sequence of str
        Debian's names.
    log : pathlib.Path
        Takes the output of the package manager.
    """
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


def command(packages: Sequence[str]) -> str:
    """Return the command that a reader can type to install packages."""
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}"
