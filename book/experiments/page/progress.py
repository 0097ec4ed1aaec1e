"""Progress of long steps, reported from any process, shown in the terminal and never on a page.

The pipeline names a file in the environment variable ``BOOK_PROGRESS`` and draws the bars; see
``book/pipeline/progress_bars.py`` for the format. Without it, a chapter that is run by hand draws a bar of its own.
"""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """A step's progress; small and picklable, so that worker processes can report too.

    Attributes
    ----------
    task : str
        What the terminal calls the step.
    total : int
        Units of work in all.
    path : str
        The file that reports are appended to.
    """

    task: str
    total: int
    path: str

    def advance(self, units: int = 1, note: str = "") -> None:
        """Report ``units`` of work as done."""
        line = json.dumps({"task": self.task, "total": self.total, "advance": units, "note": note}) + "\n"
        # One write to a file opened for appending: lines of several processes do not mix. On another machine there is
        # no such file, and it is not made; the bar then moves when the step is done.
        with suppress(FileNotFoundError), open(self.path, "wb", buffering=0, opener=_appending) as file:
            file.write(line.encode())


@contextmanager
def reported(task: str, total: int) -> Iterator[Progress]:
    """Give the :class:`Progress` of a step that is shown while the block runs."""
    if path := os.environ.get("BOOK_PROGRESS"):
        Path(path).touch()
        yield Progress(task, total, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(task, total, str(Path(folder) / "progress"))
        Path(progress.path).touch()
        finished = threading.Event()
        thread = threading.Thread(target=_draw, args=(progress, finished), daemon=True)
        thread.start()
        try:
            yield progress
        finally:
            finished.set()
            thread.join()


def notice(text: str) -> None:
    """Say in the terminal, not on the page, what somebody who runs the book should know."""
    if path := os.environ.get("BOOK_PROGRESS"):
        Path(path).touch()
        Progress(text, 1, path).advance()
    else:
        print(text, file=sys.__stderr__)


def _appending(path: str, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND)


def _draw(progress: Progress, finished: threading.Event) -> None:
    with open(progress.path, "rb") as file, tqdm(desc=progress.task, total=progress.total, leave=False) as bar:
        while True:
            last_look = finished.wait(POLL_SECONDS)
            for line in file.readlines():
                report = json.loads(line)
                bar.set_postfix_str(report["note"], refresh=False)
                bar.update(report["advance"])
            if last_look:
                return
