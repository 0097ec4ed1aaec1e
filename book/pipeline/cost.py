"""What runs cost: time and memory of a process and of everything that it starts, and sums over runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What the numbers of one or more runs cost, those of the steps included that the runs found in the cache.

    Attributes
    ----------
    cpu_seconds : float
        Processor seconds, of the runs and of the steps found.
    wall_seconds : float
        Seconds by the clock, of the runs and of the steps found.
    found_cpu_seconds : float
        Processor seconds of the steps found, as recorded when they were computed.
    peak_mib : float
        The largest memory of a run, in MiB.
    """

    cpu_seconds: float
    wall_seconds: float
    found_cpu_seconds: float
    peak_mib: float


def cost_of(*records: dict[str, Any]) -> Cost:
    """Sum up the costs that runs recorded; a step that several of them computed or found counts once."""
    costs = [record["cost"] for record in records]
    steps = [step for cost in costs for step in cost["steps"]]
    computed = {step["folder"] for step in steps if not step["found"]}
    found = {step["folder"]: step for step in steps if step["found"] and step["folder"] not in computed}.values()
    found_cpu_seconds = sum(step["cpu_seconds"] for step in found)
    return Cost(
        cpu_seconds=sum(cost["cpu_seconds"] for cost in costs) + found_cpu_seconds,
        wall_seconds=sum(cost["wall_seconds"] for cost in costs) + sum(step["wall_seconds"] for step in found),
        found_cpu_seconds=found_cpu_seconds,
        peak_mib=max((cost["peak_mib"] for cost in costs), default=0),
    )


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
