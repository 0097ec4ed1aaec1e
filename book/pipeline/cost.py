"""What a run costs: processor time and memory of a process and of everything that it starts."""

from __future__ import annotations

from contextlib import suppress

import psutil

MIB = 2**20


class ProcessTree:
    """Measures a process and its descendants, by looking at them now and then.

    A process that ended counts with what was last seen of it.

    Attributes
    ----------
    peak_mib : float
        The largest sum of memory that was seen, in MiB. Memory that the descendants share with others is left out.
    """

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._seconds: dict[tuple[int, float], float] = {}

    @property
    def cpu_seconds(self) -> float:
        """The processor time of all processes together."""
        return sum(self._seconds.values())

    def kill_remaining(self) -> None:
        """End what was seen and still runs, such as a service in a session of its own."""
        for pid, created in self._seconds:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.create_time() == created:
                    process.kill()

    def look(self, pid: int) -> None:
        """Take down what the process and its descendants have used so far."""
        with suppress(psutil.Error):
            root = psutil.Process(pid)
            memory = 0
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error), process.oneshot():
                    times, used = process.cpu_times(), process.memory_info()
                    self._seconds[process.pid, process.create_time()] = times.user + times.system
                    memory += used.rss - (0 if process == root else getattr(used, "shared", 0))
            self.peak_mib = max(self.peak_mib, memory / MIB)
