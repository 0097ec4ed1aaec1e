"""What parameters may be: what is refused, and in which words."""

import random
import re

import pytest

from book.constraints import allowed, check

TABLE = {
    "seed": {"type": "integer", "minimum": 0, "maximum": 4294967295},
    "num_epochs": {"type": "integer", "minimum": 1},
    "learning_rate": {"type": "number", "above": 0},
    "checkpoint_epochs": {
        "type": "list",
        "min_length": 1,
        "increasing": True,
        "items": {"type": "integer", "minimum": 1, "maximum": "num_epochs"},
    },
    "layer_sizes": {
        "type": "list",
        "min_length": 2,
        "first": 784,
        "last": 10,
        "items": {"type": "integer", "minimum": 1},
    },
    "wandb_mode": {"type": "text", "choices": ["offline", "online"]},
    "max_grad_norm": {"type": "number", "above": 0, "optional": True},
    "compared": {
        "type": "list",
        "unique": True,
        "items": {
            "type": "list",
            "length": 2,
            "items": [
                {"type": "integer", "minimum": 32, "maximum": 1024, "multiple_of": 2},
                {"type": "integer", "minimum": 1, "maximum": 31},
            ],
        },
    },
    "cnn_layer": {"type": "integer", "choices": [0, 2, 5]},
    "filter_pos": {
        "type": "integer",
        "minimum": 0,
        "below": {"by": "cnn_layer", "values": {"0": 64, "2": 64, "5": 128}},
    },
    "shuffle": {"type": "boolean"},
    "widths": {"type": "mapping", "items": {"type": "integer", "minimum": 1}},
}
VALUES = {
    "seed": 0,
    "num_epochs": 8,
    "learning_rate": 0.1,
    "checkpoint_epochs": [4, 8],
    "layer_sizes": [784, 64, 10],
    "wandb_mode": "offline",
    "max_grad_norm": None,
    "compared": [[32, 17], [48, 24]],
    "cnn_layer": 5,
    "filter_pos": 127,
    "shuffle": True,
    "widths": {"1x1": 64},
}


def test_values_within_all_limits_pass():
    check(TABLE, VALUES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295; got -1"),
        ({"seed": True}, "seed must be an integer from 0 to 4294967295; got True"),
        ({"num_epochs": 2.0}, "num_epochs must be an integer at least 1; got 2.0"),
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0; got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0; got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number above 0; got inf"),
        ({"learning_rate": 10**400}, "learning_rate must be a finite number above 0; got 1000"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number above 0; got '0.1'"),
        ({"learning_rate": None}, "learning_rate must be a finite number above 0; got None"),
        (
            {"checkpoint_epochs": [4, 10]},
            "checkpoint_epochs must be a list of increasing items, each an integer from 1 to num_epochs = 8, "
            "at least 1 of them; got [4, 10]",
        ),
        ({"checkpoint_epochs": []}, "checkpoint_epochs must be a list of increasing items"),
        ({"checkpoint_epochs": [8, 4]}, "checkpoint_epochs must be a list of increasing items"),
        ({"layer_sizes": [783, 10]}, "the first 784, the last 10; got [783, 10]"),
        ({"layer_sizes": [784, 9]}, "the first 784, the last 10; got [784, 9]"),
        ({"wandb_mode": "on"}, "wandb_mode must be 'offline' or 'online'; got 'on'"),
        ({"max_grad_norm": 0}, "max_grad_norm must be a finite number above 0, or None; got 0"),
        ({"compared": [[32, 17], [32, 17]]}, "compared must be a list of different items"),
        ({"compared": [[32, 17, 1]]}, "compared must be a list of different items"),
        ({"compared": [[33, 17]]}, "each a list of an integer from 32 to 1024, a multiple of 2 and an integer"),
        ({"cnn_layer": 1}, "cnn_layer must be 0, 2 or 5; got 1"),
        ({"filter_pos": 128}, "filter_pos must be an integer at least 0 and below 128 (for cnn_layer = 5); got 128"),
        ({"cnn_layer": 0}, "filter_pos must be an integer at least 0 and below 64 (for cnn_layer = 0); got 127"),
        ({"shuffle": 1}, "shuffle must be true or false; got 1"),
        ({"widths": {"1x1": 0}}, "widths must be a mapping; got {'1x1': 0}"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(TABLE, VALUES | changes)


def test_an_integer_does_for_a_number():
    check(TABLE, VALUES | {"learning_rate": 1})


def test_without_values_a_limit_is_named_by_its_parameter():
    assert allowed(TABLE["checkpoint_epochs"]).startswith(
        "a list of increasing items, each an integer from 1 to num_epochs"
    )
    assert allowed(TABLE["filter_pos"]) == "an integer at least 0 and below a limit that depends on cnn_layer"


def random_value(rng: random.Random, depth: int = 0):
    simple = [
        *(-1, 0, 1, 2, 5, 8, 32, 784, 10**400, -0.5, 0.1, 1e300, 2.0),
        *(float("nan"), float("inf"), -float("inf"), True, False, None),
        *("", "offline", "online", "5", "nan", "seed", b"x", object(), {1}, {}, {"a": 1}, {"a": float("nan")}, 1j),
    ]
    if depth < 3 and rng.random() < 0.4:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return rng.choice(simple)


@pytest.mark.parametrize("part", range(10))
def test_a_random_set_of_parameters_passes_or_is_refused_in_the_one_form(part):
    rng = random.Random(part)
    for _ in range(100):
        chosen = rng.sample(list(VALUES), rng.randrange(1, 5))
        values = VALUES | {name: random_value(rng) for name in chosen}
        try:
            check(TABLE, values)
        except ValueError as error:
            assert re.fullmatch(r"(?s)(\w+) must be .+; got .+", str(error)), error
