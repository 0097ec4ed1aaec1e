"""What git says of the project, whatever the user's shell says to git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run_git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder, and on the repository that the folder lies in.

    Parameters
    ----------
    root : pathlib.Path
        The folder.
    *arguments : str
        What git is told.

    Returns
    -------
    subprocess.CompletedProcess
        With what it printed, of which names of files may be given to the system again, even if they are no UTF-8.

    Raises
    ------
    FileNotFoundError
        If there is no git.
    """
    # GIT_DIR and others name another repository than the folder's, as in a shell that a hook of git started.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))
