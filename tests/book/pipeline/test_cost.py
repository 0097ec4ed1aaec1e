"""What runs cost, as their notebooks recorded it."""

from book.pipeline.cost import Cost, cost_of


def record(cpu_seconds, *steps):
    return {
        "cost": {
            "cpu_seconds": cpu_seconds,
            "wall_seconds": cpu_seconds / 2,
            "peak_mib": 10 * cpu_seconds,
            "steps": [
                {"folder": folder, "found": found, "cpu_seconds": seconds, "wall_seconds": seconds}
                for folder, found, seconds in steps
            ],
        }
    }


def test_the_cost_of_a_run_includes_what_the_steps_took_that_it_found():
    assert cost_of(record(4.0, ("a", True, 10.0), ("b", False, 3.0))) == Cost(14.0, 12.0, 10.0, 40.0)


def test_the_cost_of_several_runs_counts_a_step_once_whether_computed_or_found():
    first = record(4.0, ("a", False, 3.0), ("b", True, 10.0))
    second = record(1.0, ("a", True, 3.0), ("b", True, 10.0))
    assert cost_of(first, second) == Cost(15.0, 12.5, 10.0, 40.0)
