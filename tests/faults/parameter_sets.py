"""Random sets of parameters for the real chapters, judged by JSON Schema and by relations that are written here."""

import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, validators

from book.experiments.checks import check_parameters as check_in_chapter
from book.pipeline.errors import BookError
from book.pipeline.parameters import check_parameters, run_build
from book.pipeline.project import Chapter, load_project
from tests.faults.tries import Try
from tests.small_project import ROOT

ODD = (
    *(None, True, False, 0, -1, 1, 2, 9, 10, 11, 31, 32, 784, 5_600, 5_610, 56_000, 2**32 - 1, 2**32, 10**400),
    *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1e-3, 1e-9, 0.5, 1.0, 1e300),
    *("", "relu", "3", "online", "normal", "IMAGENET1K_V1", "nan", "$(touch x)", "ß"),
    *(
        [],
        [10],
        [784, 10],
        [784, 0, 10],
        [784, 32, 10],
        [784, 32.0, 10],
        [1, 1],
        [2, 1],
        [1, 2],
        [0.1, 0.2],
        [[32, 17]],
    ),
    *([None], ["a"], [True, True], {}, {"a": 1}, {"a": -1}, {"a": "x"}),
)
MESSAGE = re.compile(r"(\w+) must be .+; got .+", re.DOTALL)
FILTERS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, **dict.fromkeys((17, 19, 21, 24, 26, 28), 512)}


def _has_room(p: Mapping[str, Any], channels: Iterable[int]) -> bool:
    return all(p["height"] * p["width"] * count <= 2**28 for count in channels)


def _fits_kernel(p: Mapping[str, Any], side: int) -> bool:
    return p["padding"] is None or p["dilation"] * (p["kernel"] - 1) + 1 <= side + 2 * p["padding"]


def _num_steps(p: Mapping[str, Any], epochs: str, images: str) -> int:
    return p[epochs] * (p[images] // p["batch_size"])


# What a table says with the name of another parameter, by chapter.
RELATIONS: dict[tuple[str, str], Callable[[Mapping[str, Any]], bool]] = {
    ("all_models", "batch_size"): lambda p: p["batch_size"] <= p["num_train"],
    ("all_models", "checkpoint_epochs"): lambda p: max(p["checkpoint_epochs"]) <= p["num_epochs"],
    ("convolutions", "filter_pos"): lambda p: p["filter_pos"] < FILTERS[p["cnn_layer"]],
    ("convolutions", "num_scored_images"): lambda p: p["num_scored_images"] <= p["num_scanned"],
    ("convolutions", "random_low"): lambda p: p["random_low"] <= p["random_high"],
    ("cross_entropy_and_kl", "curve_batch_size"): lambda p: p["curve_batch_size"] <= p["num_curve_images"],
    ("cross_entropy_and_kl", "q"): lambda p: len(p["q"]) == len(p["p"]),
    ("dense_to_convolution", "batch_size"): lambda p: p["batch_size"] <= p["num_train"],
    ("dense_to_convolution", "num_shuffled_seeds"): lambda p: p["num_shuffled_seeds"] <= p["num_seeds"],
    ("fashion_mnist", "neighbour_counts"): lambda p: max(p["neighbour_counts"]) <= p["num_fitted"],
    ("fashion_mnist", "num_steps"): lambda p: p["num_steps"] * p["batch_size"] <= 56_000,
    ("four_activations", "batch_size"): lambda p: p["batch_size"] <= p["num_train"],
    ("four_activations", "checkpoint_epochs"): lambda p: max(p["checkpoint_epochs"]) <= p["num_epochs"],
    ("four_activations", "num_replayed"): lambda p: p["num_replayed"] <= p["num_seeds"],
    ("four_activations", "sharpness_images"): lambda p: p["sharpness_images"] <= p["num_train"],
    ("numpy_network", "batch_size"): lambda p: p["batch_size"] <= p["num_images"],
    ("one_by_one_convolutions", "bottleneck"): lambda p: _has_room(p, [p["bottleneck"]]),
    ("one_by_one_convolutions", "dilation"): lambda p: _fits_kernel(p, p["width"]),
    ("one_by_one_convolutions", "in_channels"): lambda p: _has_room(p, [p["in_channels"]]),
    ("one_by_one_convolutions", "inception"): lambda p: _has_room(p, p["inception"].values()),
    ("one_by_one_convolutions", "kernel"): lambda p: _fits_kernel(p, p["height"]),
    ("one_by_one_convolutions", "out_channels"): lambda p: _has_room(p, [p["out_channels"]]),
    ("one_by_one_convolutions", "timed_widths"): lambda p: _has_room(p, p["timed_widths"]),
    ("scikit_learn", "batch_size"): lambda p: p["batch_size"] <= p["num_train"],
    ("scikit_learn", "checkpoint_epochs"): lambda p: max(p["checkpoint_epochs"]) <= p["num_epochs"],
    ("scikit_learn", "num_parity_steps"): lambda p: 200 <= p["num_parity_steps"] * p["batch_size"] <= p["num_train"],
    ("scikit_learn", "num_searched"): lambda p: p["num_searched"] <= p["num_train"],
    ("vgg16", "batch_size"): lambda p: p["batch_size"] <= p["num_compared_train"],
    ("vgg16", "num_compared_epochs"): lambda p: _num_steps(p, "num_compared_epochs", "num_compared_train") > 5,
    ("vgg16", "num_compared_train"): lambda p: p["num_compared_train"] <= p["num_train"],
    ("vgg16", "num_compared_validation"): lambda p: p["num_compared_validation"] <= p["num_validation"],
    ("vgg16", "num_epochs"): lambda p: _num_steps(p, "num_epochs", "num_train") > 5,
    ("vgg16_analysis", "num_compared_validation"): lambda p: p["num_compared_validation"] <= p["num_validation"],
    ("vgg16_analysis", "num_labels"): lambda p: max(p["num_labels"]) <= p["num_train"],
    ("vgg16_analysis", "num_mapped"): lambda p: p["num_mapped"] <= p["num_test"],
    ("vgg16_analysis", "num_random"): lambda p: min(p["num_labels"]) <= p["num_random"] <= p["num_train"],
}
_NAME = re.compile(r"[a-z_]\w*")
_TYPES = {"integer": "integer", "number": "finite", "text": "string", "boolean": "boolean"}
_FIELDS = {
    **{"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"},
    **{"multiple_of": "multipleOf", "min_length": "minItems", "max_length": "maxItems"},
}


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    """What JSON Schema compares with limits."""
    return _is_integer(_, value) or (isinstance(value, float) and isfinite(value))


def _is_finite(_: Any, value: Any) -> bool:
    # 10**400 is an integer, but no float can hold it.
    return _is_number(_, value) and abs(value) <= sys.float_info.max


_CHECKER = Draft202012Validator.TYPE_CHECKER
_CHECKER = _CHECKER.redefine_many({"integer": _is_integer, "number": _is_number, "finite": _is_finite})
_VALIDATOR = validators.extend(Draft202012Validator, type_checker=_CHECKER)


def parameter_sets(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Check random parameters as the pipeline, a chapter and the command line do."""
    book = load_project(ROOT)
    chapters = [chapter for chapter in book.executable if chapter.parameters]
    for chapter in chapters:
        named = {name for name, constraint in chapter.constraints.items() if _names_another(constraint, chapter)}
        known = _relations(chapter).keys()
        if named != known:
            yield Try("parameters", "oracle", f"{chapter.name}: its table relates {named}, the oracle {known}")
    for _ in range(tries):
        chapter = rng.choice(chapters)
        if rng.random() < 0.4:
            values = _near_a_relation(rng, chapter)
        else:
            values = {
                name: _drawn(rng, chapter.parameters[name], chapter.constraints[name], chapter.parameters)
                for name in rng.sample(list(chapter.parameters), rng.randint(1, min(3, len(chapter.parameters))))
            }
        yield _judged(book, chapter, values)


def is_allowed(chapter: Chapter, values: Mapping[str, Any]) -> bool:
    """Tell whether all parameters of a chapter are allowed, without the book's own checks."""
    if not all(_fits(chapter.constraints[name], values[name]) for name in chapter.constraints):
        return False
    return all(holds(values) for holds in _relations(chapter).values())


def _relations(chapter: Chapter) -> dict[str, Callable[[Mapping[str, Any]], bool]]:
    found = {name: holds for (other, name), holds in RELATIONS.items() if other == chapter.name}
    return {name: holds for name, holds in found.items() if name in chapter.parameters}


def _judged(project: Any, chapter: Chapter, values: dict[str, Any]) -> Try:
    merged = chapter.parameters | values
    wanted = is_allowed(chapter, merged)
    shown = f"{chapter.name} with {values!r:.300}"
    texts = [(name, value if isinstance(value, str) else repr(value)) for name, value in values.items()]
    checks: dict[str, Callable[[], Any]] = {
        "the pipeline": lambda: check_parameters(chapter, values, chapter.name),
        "the chapter": lambda: check_in_chapter(chapter.name, merged),
        "the command line": lambda: run_build(project, chapter, texts),
    }
    for who, check in checks.items():
        try:
            check()
        except (BookError, ValueError) as error:
            if isinstance(error, ValueError) != (who == "the chapter"):
                return Try("parameters", "traceback", f"{who}: {shown}: {error!r}")
            message = str(error)
            is_of_another = ", which " in message.split(" must be ")[0]
            if wanted and not is_of_another:
                return Try("parameters", "refused", f"{who}: {shown} is allowed, but: {message}")
            words = MESSAGE.search(message)
            if not words or (words[1] not in chapter.parameters and not is_of_another):
                return Try("parameters", "refused", f"{who}: {shown}: not in the one form of words: {message}")
        except Exception as error:
            return Try("parameters", "traceback", f"{who}: {shown}: {error!r}")
        else:
            # What a command line can't say is another value there: nan is a text, and None may be one.
            if not wanted and who != "the command line":
                return Try("parameters", "accepted", f"{who}: {shown} is not allowed")
            if not wanted and all(_comes_back(value) for value in values.values()):
                return Try("parameters", "accepted", f"{who}: {shown} is not allowed")
    return Try("parameters", "accepted as allowed" if wanted else "refused by name")


def _comes_back(value: Any) -> bool:
    return not isinstance(value, str) and value is not None


def _names_another(constraint: Mapping[str, Any], chapter: Chapter) -> bool:
    limits = [value for field, value in constraint.items() if field not in ("type", "choices", "items", "keys")]
    if any(isinstance(limit, dict) for limit in limits) or _others(constraint, chapter):
        return True
    items = constraint.get("items", [])
    return any(_names_another(item, chapter) for item in (items if isinstance(items, list) else [items]))


def _others(constraint: Mapping[str, Any], chapter: Chapter) -> list[str]:
    """List the parameters that a constraint's expressions name."""
    texts = [value for field, value in constraint.items() if isinstance(value, str) and field != "type"]
    return sorted(set(_NAME.findall(" ".join(texts))) & set(chapter.parameters))


def _near_a_relation(rng: random.Random, chapter: Chapter) -> dict[str, Any]:
    """Draw the parameters that an expression names, within their own limits, and the one that it limits near it."""
    values = dict(rng.choice(({}, chapter.quick)))
    related = [name for name, constraint in chapter.constraints.items() if _others(constraint, chapter)]
    if not related:
        return values
    name = rng.choice(related)
    for other in _others(chapter.constraints[name], chapter):
        default, lowest = (chapter.parameters | values)[other], chapter.constraints[other].get("minimum")
        if isinstance(default, int) and isinstance(lowest, int):
            values[other] = rng.randint(lowest, rng.choice((lowest + 8, max(default, lowest))))
    merged = chapter.parameters | values
    if limits := _limits(chapter.constraints[name], merged):
        values[name] = rng.choice(limits) + rng.choice((-1, 0, 1))
    return values


def _limits(constraint: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Real]:
    """List the numbers at which a constraint begins to refuse, those computed from the other defaults included."""
    found = []
    for field, limit in constraint.items():
        if isinstance(limit, str) and field not in ("type", "as_long_as"):
            try:
                limit = eval(limit, {"__builtins__": {}}, dict(parameters))
            except (TypeError, ZeroDivisionError):  # of a parameter that is None, and of a kernel of 1
                continue
        if isinstance(limit, dict) and "by" in limit:
            limit = limit["values"][str(parameters[limit["by"]])]
        if isinstance(limit, Real) and not isinstance(limit, bool):
            found.append(limit)
    return found


def _drawn(rng: random.Random, default: Any, constraint: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    """Draw a value: an odd one, one near a limit, or one like the default."""
    what = rng.random()
    if what < 0.4:
        return deepcopy(rng.choice(ODD))
    if what < 0.7:
        near = (-1, 0, 1) if rng.random() < 0.8 else (0.5, -1e-9)
        items = constraint.get("items")
        if isinstance(default, list) and default and isinstance(items, dict) and (limits := _limits(items, parameters)):
            changed = deepcopy(default)
            changed[rng.choice((0, -1))] = rng.choice(limits) + rng.choice(near)
            return changed
        if not isinstance(default, list | dict) and (limits := _limits(constraint, parameters)):
            return rng.choice(limits) + rng.choice(near)
    if "choices" in constraint:
        return rng.choice(constraint["choices"])
    if isinstance(default, list) and default:
        changed = deepcopy(default)
        match rng.randrange(5):
            case 0:
                changed.pop(rng.randrange(len(changed)))
            case 1:
                changed.insert(rng.randint(0, len(changed)), rng.choice(ODD))
            case 2:
                rng.shuffle(changed)
            case 3:
                changed[rng.randrange(len(changed))] = deepcopy(rng.choice(ODD))
        return changed
    if isinstance(default, Real) and not isinstance(default, bool):
        factor = rng.choice((1, 2, 0.5, 10, 100, -1))
        return type(default)(default * factor)
    return default


def _fits(constraint: Mapping[str, Any], value: Any) -> bool:
    return _VALIDATOR(_schema(constraint)).is_valid(value) and _has_ends_and_order(constraint, value)


def _has_ends_and_order(constraint: Mapping[str, Any], value: Any) -> bool:
    """Check what JSON Schema does not know of lists, of numbers that are known to fit."""
    if not isinstance(value, list):
        return True
    ends = [("first", 0), ("last", -1)]
    return all(value and value[place] == constraint[field] for field, place in ends if field in constraint) and (
        (not constraint.get("increasing") or value == sorted(set(value)))
        and ("sum" not in constraint or abs(sum(value) - constraint["sum"]) <= 1e-6)
    )


def _schema(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a constraint, without limits that name another parameter."""
    if constraint["type"] == "list":
        schema: dict[str, Any] = {"type": "array"}
        items = constraint.get("items")
        if isinstance(items, list):
            schema |= {"prefixItems": [_schema(item) for item in items], "minItems": len(items), "maxItems": len(items)}
        elif items:
            schema["items"] = _schema(items)
        if "length" in constraint:
            schema |= {"minItems": constraint["length"], "maxItems": constraint["length"]}
        if constraint.get("unique"):
            schema["uniqueItems"] = True
    elif constraint["type"] == "mapping":
        schema = {"type": "object", "additionalProperties": _schema(constraint["items"])}
        if "keys" in constraint:
            schema |= {"required": constraint["keys"], "maxProperties": len(constraint["keys"])}
    else:
        schema = {"type": _TYPES[constraint["type"]]}
    for field, name in _FIELDS.items():
        if isinstance(constraint.get(field), Real):
            schema[name] = constraint[field]
    if "choices" in constraint:
        schema["enum"] = constraint["choices"]
    if "or" in constraint:
        schema = {"anyOf": [{"const": constraint["or"]}, schema]}
    return {"anyOf": [{"type": "null"}, schema]} if constraint.get("optional") else schema
