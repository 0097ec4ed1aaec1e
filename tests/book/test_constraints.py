"""What parameters may be: what is refused, and in which words."""

import random
import re

import pytest

from book.constraints import allowed, check
from tests.parameter_table import TABLE, VALUES, random_value


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
        (
            {"widths": {"1x1": 0, "pool": 1}},
            "widths must be a mapping of '1x1', 'pool', each an integer at least 1; got {'1x1': 0, 'pool': 1}",
        ),
        (
            {"widths": {"1x1": 1}},
            "widths must be a mapping of '1x1', 'pool', each an integer at least 1; got {'1x1': 1}",
        ),
        (
            {"num_steps": 32},
            "num_steps must be an integer from 1 to num_train // batch_size = 31 and above 99 // batch_size = 3; got",
        ),
        ({"num_steps": 3}, "num_steps must be an integer from 1 to num_train // batch_size = 31 and above 99 // batch"),
        (
            {"num_random": 24},
            "num_random must be an integer at least checkpoint_epochs[0] * (num_epochs - 2) + 1 = 25; got 24",
        ),
        ({"mixup": 0.04}, "mixup must be a finite number at least 0.05, or 0; got 0.04"),
        ({"mixup": -0.1}, "mixup must be a finite number at least 0.05, or 0; got -0.1"),
        (
            {"p": [0.7, 0.1, 0.1]},
            "p must be a list of items, each a finite number at least 0, with the sum 1; got [0.7",
        ),
        ({"q": [1, 2]}, "q must be a list of items, each a finite number, as many as p; got [1, 2]"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(TABLE, VALUES | changes)


@pytest.mark.parametrize(
    "open_limit",
    [{"batch_size": 0}, {"checkpoint_epochs": [], "num_random": -1}, {"batch_size": None}, {"num_epochs": "many"}],
)
def test_a_limit_that_cannot_be_computed_is_left_open_and_shown_without_a_value(open_limit):
    table = {name: TABLE[name] for name in ("num_steps", "num_random")}
    check(table, VALUES | {"num_steps": 31} | open_limit)
    words = allowed(table["num_steps"], VALUES | {"batch_size": 0})
    assert words == "an integer from 1 to num_train // batch_size and above 99 // batch_size"


def test_a_factor_of_zero_leaves_a_multiple_open():
    table = {"n": {"type": "integer", "multiple_of": "k - 1"}}
    check(table, {"n": 5, "k": 1})
    with pytest.raises(ValueError, match=re.escape("n must be an integer, a multiple of k - 1 = 2; got 5")):
        check(table, {"n": 5, "k": 3})


def test_an_integer_does_for_a_number():
    check(TABLE, VALUES | {"learning_rate": 1})


def test_without_values_a_limit_is_named_by_its_parameter():
    assert allowed(TABLE["checkpoint_epochs"]).startswith(
        "a list of increasing items, each an integer from 1 to num_epochs"
    )
    assert allowed(TABLE["filter_pos"]) == "an integer at least 0 and below a limit that depends on cnn_layer"


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
