"""A Dask cluster on this machine, of a scheduler and two workers that can't import the project."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed

SECONDS = 60


@contextmanager
def running_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Start a cluster in an empty folder; gives its address and the workers' processes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    file = folder / "scheduler.json"

    def start(program, *arguments):
        command = [sys.executable, "-P", "-m", f"distributed.cli.{program}", "--scheduler-file", str(file), *arguments]
        with open(folder / "log", "ab") as log:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    processes = [start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        until(file.exists)
        for _ in range(2):
            processes.append(start("dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"))
        address = json.loads(file.read_text())["address"]
        with distributed.Client(address) as client:
            # The data are copied to the workers that are there: a worker that comes later holds no second copy yet.
            client.wait_for_workers(2, timeout=SECONDS)
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
