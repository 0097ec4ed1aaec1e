"""Question 1: the network, its comparison with scikit-learn's, and the training of both from the command line.

``NeuralNetwork`` and ``compare_with_mlp`` are those of the packages ``mlp_core`` and ``book``, beside this file in the
archive. ``python Q1.py`` trains both libraries' networks with the assignment's hyperparameters; ``python Q1.py --help``
lists what can be changed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from book.experiments.mlp.comparison import compare_with_mlp
from book.experiments.mlp.runs import copy_checkpoints, train_networks
from book.experiments.mlp.samples import as_samples, training_samples
from book.experiments.mlp.sklearn_mlp import train_sklearn_mlps
from book.experiments.page.execution import parallel
from book.files import write_atomically
from data import split_80_10_10
from mlp_core import NeuralNetwork, load_parameters

__all__ = ["NeuralNetwork", "compare_with_mlp", "main"]

ACTIVATIONS = ("relu", "sigmoid", "linear", "tanh")


def main(arguments: list[str] | None = None) -> None:
    """Train, save the weights and biases, load them again, and write the test accuracies and the graphs."""
    parser = argparse.ArgumentParser(description="Train the networks of question 1.")
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=ACTIVATIONS)
    parser.add_argument("--num-epochs", type=int, default=100)
    parser.add_argument("--checkpoint-epochs", nargs="+", type=int, default=[50, 100], help="when to save")
    parser.add_argument("--num-train", type=int, default=56000, help="training images, a multiple of 10")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("Q1_results"), help="the folder to write into")
    options = parser.parse_args(arguments)

    split = split_80_10_10(options.seed)
    samples = training_samples(split, options.num_train)
    common = {
        "layer_sizes": [784, 256, 128, 64, 10],
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
        "num_epochs": options.num_epochs,
        "seed": options.seed,
    }
    ours = {name: common | {"activation": name, "weight_init": "normal"} for name in options.activations}
    if "linear" in ours:
        # Without it this network can diverge at the assignment's learning rate.
        ours["linear"]["max_grad_norm"] = 5.0
    theirs = {name: common | {"activation": name} for name in options.activations}
    if "linear" in theirs:
        # scikit-learn can't clip; the assignment allows a lower rate.
        theirs["linear"]["learning_rate"] = options.learning_rate / 10

    epochs = [epoch for epoch in options.checkpoint_epochs if epoch <= options.num_epochs] or [options.num_epochs]
    with parallel():
        runs = train_networks(ours, samples, epochs, "NumPy networks")
        sklearn_runs = train_sklearn_mlps(theirs, samples, epochs, "scikit-learn's networks")

    histories = {name: run.history for name, run in runs.items()}
    write_atomically(options.output / "histories.json", json.dumps(histories, indent=1))
    X_test, y_test = as_samples(split.test), split.test.labels
    for name, run in runs.items():
        copy_checkpoints(run, name, epochs, options.output)
        compare_with_mlp(name, [run.history], [sklearn_runs[name].history]).savefig(options.output / f"{name}.pdf")
        network = NeuralNetwork(len(common["layer_sizes"]), **ours[name]).initialize(samples.y)
        for epoch in epochs:
            network.weights_, network.biases_ = load_parameters(options.output, epoch, name)
            print(f"{name}, epoch {epoch}: test accuracy {network.score(X_test, y_test):.2%}")


if __name__ == "__main__":
    main()
