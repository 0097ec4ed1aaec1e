"""Progress in the terminal, and the file through which running code reports it.

A chapter's code runs in a kernel whose output belongs on the page, so it reports progress through a file instead: the
environment variable ``BOOK_PROGRESS`` holds its absolute path, and any process appends lines to it, each one JSON
object written by a single ``write`` to a file opened with ``O_APPEND``::

    {"task": "training four networks", "total": 400, "advance": 1, "note": "relu loss 0.31"}

``task`` names the bar, ``total`` says how many steps it has, ``advance`` how many were just done (the bar adds
them up, whichever process they come from), ``note`` is shown beside it and may be left out. A task is finished
when the sum reaches the total. Without the variable the pipeline does not listen; the writers in
``book/experiments/page/progress.py`` then draw a bar of their own.
"""

from __future__ import annotations

import codecs
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

BAR_FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}, {remaining} left{postfix}"
LINE_FORMAT = "{desc} {n_fmt}/{total_fmt}, {remaining} left{postfix}"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Task:
    """A bar: how far a named piece of work is.

    Attributes
    ----------
    name : str
        What is shown in front of the bar.
    total, done : float
        Steps there are, and steps done so far.
    note : str
        What is shown behind it.
    started : float
        When it was first heard of, in the seconds of ``time.monotonic``.
    """

    name: str
    total: float
    done: float = 0
    note: str = ""
    started: float = 0.0

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.total


class Tasks:
    """The tasks that a progress file tells of, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Task] = {}
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take in what was appended to the file; the last line may be incomplete and waits for its rest.

        A line that is not of the format is skipped: progress never stops the work.
        """
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            try:
                entry = json.loads(line)
                name, total, advance = str(entry["task"]), float(entry["total"]), float(entry["advance"])
            except (ValueError, TypeError, KeyError):
                continue
            task = self.by_name.get(name)
            if task is None or task.is_finished:
                # The same name after its end is the same work once more.
                task = self.by_name[name] = Task(name, total, started=time.monotonic())
            task.total = total
            task.done += advance
            task.note = str(entry.get("note") or "")


class Progress:
    """Shows how far a chapter is: bars in a terminal, a line now and then in a log.

    Parameters
    ----------
    name : str
        The chapter.
    cells : int
        How many code cells it has.
    path : pathlib.Path
        The progress file; made empty at the start.
    stream : file
        Where to draw, the error output by default.
    seconds_between_lines : float
        How often a log gets a line at most.
    on_look : callable, optional
        Called at each look at the file, five times a second, in the thread that looks.
    """

    def __init__(
        self,
        name: str,
        cells: int,
        path: Path,
        stream: IO[str] | None = None,
        seconds_between_lines: float = SECONDS_BETWEEN_LINES,
        on_look: Callable[[], object] | None = None,
    ) -> None:
        self._on_look = on_look or (lambda: None)
        self.stream = stream or sys.stderr
        self.tasks = Tasks()
        self._cells = Task(f"{name}, cell", total=cells, started=time.monotonic())
        self._path = path
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_terminal = self.stream.isatty()
        self._seconds_between_lines = seconds_between_lines
        self._last_line = time.monotonic()
        self._bars: dict[str, tqdm] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(b"")
        self._show()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        for bar in reversed(self._bars.values()):
            bar.close()
        self._path.unlink(missing_ok=True)

    def cell_done(self) -> None:
        """Count one more code cell."""
        self._cells.done += 1
        self._on_look()

    def _watch(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            self._on_look()
            self._look()
            self._show()

    def _look(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                appended = file.read()
        except FileNotFoundError:
            return
        self._offset += len(appended)
        self.tasks.feed(self._decoder.decode(appended))

    def _show(self) -> None:
        if self._has_terminal:
            self._draw_bars()
        elif time.monotonic() - self._last_line >= self._seconds_between_lines:
            self._last_line = time.monotonic()
            running = [task for task in self.tasks.by_name.values() if not task.is_finished]
            print("; ".join(_line(task) for task in [self._cells, *running]), file=self.stream, flush=True)

    def _draw_bars(self) -> None:
        for task in [self._cells, *self.tasks.by_name.values()]:
            bar = self._bars.get(task.name)
            if bar is None and not task.is_finished:
                bar = self._bars[task.name] = tqdm(
                    desc=task.name,
                    total=task.total,
                    file=self.stream,
                    leave=False,
                    dynamic_ncols=True,
                    bar_format=BAR_FORMAT,
                )
            if bar is None:
                continue
            bar.total = task.total
            bar.set_postfix_str(task.note, refresh=False)
            bar.update(task.done - bar.n)
            bar.refresh()
            if task.is_finished and task is not self._cells:
                bar.close()
                del self._bars[task.name]


def _line(task: Task) -> str:
    return tqdm.format_meter(
        n=int(task.done),
        total=int(task.total),
        elapsed=time.monotonic() - task.started,
        prefix=task.name,
        postfix=task.note,
        bar_format=LINE_FORMAT,
    ).strip()
