"""A table of constraints with every field that there is, and values that it allows."""

import random

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
    "widths": {"type": "mapping", "keys": ["1x1", "pool"], "items": {"type": "integer", "minimum": 1}},
    "num_train": {"type": "integer", "minimum": 0},
    "batch_size": {"type": "integer"},
    "num_steps": {"type": "integer", "minimum": 1, "above": "99 // batch_size", "maximum": "num_train // batch_size"},
    "num_random": {"type": "integer", "minimum": "checkpoint_epochs[0] * (num_epochs - 2) + 1"},
    "mixup": {"type": "number", "minimum": 0.05, "or": 0},
    "p": {"type": "list", "sum": 1, "items": {"type": "number", "minimum": 0}},
    "q": {"type": "list", "as_long_as": "p", "items": {"type": "number"}},
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
    "widths": {"1x1": 64, "pool": 1},
    "num_train": 1000,
    "batch_size": 32,
    "num_steps": 31,
    "num_random": 25,
    "mixup": 0,
    "p": [0.7, 0.1, 0.2],
    "q": [1.5, 0, 1],
}


def random_value(rng: random.Random, depth: int = 0):
    simple = [
        *(-1, 0, 1, 2, 5, 8, 32, 784, 10**400, -0.5, 0.1, 1e300, 2.0),
        *(float("nan"), float("inf"), -float("inf"), True, False, None),
        *("", "offline", "online", "5", "nan", "seed", b"x", object(), {1}, {}, {"a": 1}, {"a": float("nan")}, 1j),
    ]
    if depth < 3 and rng.random() < 0.4:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return rng.choice(simple)
