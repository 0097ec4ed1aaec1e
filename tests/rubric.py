"""The rows of the assignment, which the page of the rubric and the report both answer."""

# Row and points, as the assignment gives them, in its order.
POINTS = {
    **{"1.1": 2, "1.2": 10, "1.3": 3, "1.4": 15, "1.5a": 16, "1.5b": 4, "1.5c": 8, "1.6a": 8, "1.6b": 4},
    **{"2.0": 10, "2.1": 10, "2.2": 15, "2.3": 10, "3.1": 5, "3.2": 5, "3.3": 5, "T.1": 5, "T.2": 10},
}
