"""The table of a chapter's constraints: what it may be made of."""

import random
import re

import pytest

from book.constraints import check
from book.pipeline.tables import check_table
from tests.parameter_table import TABLE, VALUES, random_value


def test_the_table_of_these_tests_can_be_understood():
    check_table(TABLE)


@pytest.mark.parametrize(
    "limit",
    [
        *(
            "num_epochs ** 2",
            "num_epochs / 2",
            "-num_epochs",
            "max(num_epochs, 2)",
            "num_epochs.real",
            "num_epochs < 2",
        ),
        *("checkpoint_epochs[0:1]", "checkpoint_epochs[seed]", "checkpoint_epochs[0][0]", "checkpoint_epochs[-1]"),
        *("1.5 * num_epochs", "True + num_epochs", "num_epochs +", "", "'a'", "(num_epochs, 1)", "(" * 10_000, "a\0"),
        *("learning_rate", "checkpoint_epochs", "layer_size[0]", "num_epoch", "compared[0]", "wandb_mode", "p[0]"),
    ],
)
def test_a_limit_is_made_of_integer_parameters_and_the_four_operations_alone(limit):
    with pytest.raises(ValueError, match=r"(?s)^seed: maximum must .+; got .+"):
        check_table(TABLE | {"seed": {"type": "integer", "maximum": limit}})


@pytest.mark.parametrize("part", range(5))
def test_a_random_table_is_understood_or_refused_in_the_one_form_and_then_checks_any_values(part):
    rng = random.Random(part)
    fields = sorted({field for constraint in TABLE.values() for field in constraint})
    for _ in range(200):
        table = {name: dict(constraint) for name, constraint in TABLE.items()}
        for _ in range(rng.randint(1, 3)):
            donor = rng.choice(list(TABLE.values()))
            value = rng.choice([*donor.values(), random_value(rng), "num_epochs // batch_size"])
            table[rng.choice(list(table))][rng.choice([*fields, *donor])] = value
        try:
            check_table(table)
        except ValueError as error:
            assert re.fullmatch(r"(?s)\w+.* must .+; got .+", str(error)), error
            continue
        try:
            check(table, VALUES | {name: random_value(rng) for name in rng.sample(list(VALUES), 2)})
        except ValueError as error:
            assert re.fullmatch(r"(?s)(\w+) must be .+; got .+", str(error)), error
