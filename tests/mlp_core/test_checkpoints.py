"""Checkpoints: what is written, that it resumes exactly, and what the loader refuses."""

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import mlp_core
from mlp_core import (
    CheckpointError,
    NeuralNetwork,
    NotFittedError,
    checkpoint_files,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)

SIZES = [4, 7, 5, 3]


@pytest.fixture(autouse=True)
def one_thread():
    """Keep BLAS to one thread: on small matrices its threads wait for each other, for minutes on a busy machine."""
    with threadpool_limits(1):
        yield


def samples(n=50, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.standard_normal((3, 4))[y] * 2 + rng.standard_normal((n, 4)), y


X, Y = samples()
VALIDATION = samples(20, seed=1)


def make_network(activation="relu", num_epochs=2, **parameters):
    settings = {"learning_rate": 0.3, "batch_size": 8, "seed": 0}
    return NeuralNetwork(4, SIZES, activation, num_epochs=num_epochs, **(settings | parameters))


@pytest.fixture
def saved(tmp_path):
    """Folder with the checkpoint of a network trained for two epochs, and the network."""
    network = make_network().fit(X, Y, VALIDATION)
    save_checkpoint(network, tmp_path)
    return tmp_path, network


def parameters_of(network):
    return network.weights_ + network.biases_


def assert_same_bits(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def digest(network):
    """SHA-256 of the parameters and the history, to the last bit."""
    content = b"".join(parameter.tobytes() for parameter in parameters_of(network))
    return hashlib.sha256(content + json.dumps(network.history_, sort_keys=True).encode()).hexdigest()


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# What is written


def test_checkpoints_of_a_training_have_the_assignments_names(tmp_path):
    def save(network, epoch):
        if epoch in (50, 100):
            save_checkpoint(network, tmp_path)

    activations = ("relu", "sigmoid", "linear", "tanh")
    for activation in activations:
        NeuralNetwork(3, [4, 3, 3], activation, batch_size=50, seed=0).fit(X, Y, on_epoch_end=save)
    expected = {
        f"{epoch}_{activation}_{part}"
        for epoch in (50, 100)
        for activation in activations
        for part in ("weights.pkl", "biases.pkl", "state.npz")
    }
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_checkpoint_files_are_named_by_epoch_and_activation(saved):
    folder, _ = saved
    files = checkpoint_files(folder, 2, "relu")
    assert files.weights == folder / "2_relu_weights.pkl"
    assert files.biases == folder / "2_relu_biases.pkl"
    assert files.state == folder / "2_relu_state.npz"
    assert set(folder.iterdir()) == set(files)


def test_save_returns_the_files_and_makes_the_folder(tmp_path):
    folder = tmp_path / "not" / "there"
    network = make_network().fit(X, Y)
    assert save_checkpoint(network, str(folder)) == checkpoint_files(folder, 2, "relu")
    assert all(path.is_file() for path in checkpoint_files(folder, 2, "relu"))


def test_pickles_are_lists_of_arrays_that_python_reads_without_us(saved):
    folder, network = saved
    files = checkpoint_files(folder, 2, "relu")
    assert_same_bits(pickle.loads(files.weights.read_bytes()), network.weights_)
    assert_same_bits(pickle.loads(files.biases.read_bytes()), network.biases_)


def test_same_training_gives_the_same_pickles_byte_for_byte(saved, tmp_path):
    folder, _ = saved
    files = save_checkpoint(make_network().fit(X, Y, VALIDATION), tmp_path / "again")
    for path in (files.weights, files.biases):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_others_may_read_the_files(saved):
    for path in saved[0].iterdir():
        assert path.stat().st_mode & 0o777 == 0o644


def test_saving_does_not_change_the_network(tmp_path):
    network = make_network().fit(X, Y)
    before = copy.deepcopy(vars(network))
    save_checkpoint(network, tmp_path)
    assert_same_bits(parameters_of(network), before["weights_"] + before["biases_"])
    assert network.history_ == before["history_"]
    assert network._shuffle_rng.bit_generator.state == before["_shuffle_rng"].bit_generator.state


def test_each_file_is_written_by_the_given_function_and_the_state_last(tmp_path):
    written = []

    def write(path, content):
        written.append(path.name)
        path.write_bytes(content)

    save_checkpoint(make_network().fit(X, Y), tmp_path, write=write)
    assert written == ["2_relu_weights.pkl", "2_relu_biases.pkl", "2_relu_state.npz"]


@pytest.mark.parametrize("part", ["weights", "biases"])
def test_parameters_that_are_not_those_of_the_state_are_refused(saved, part):
    folder, network = saved
    path = getattr(checkpoint_files(folder, 2, "relu"), part)
    arrays = [array + 1 for array in getattr(network, f"{part}_")]
    path.write_bytes(pickle.dumps(arrays, 4))
    with pytest.raises(CheckpointError, match=f"{part}.pkl is damaged"):
        load_checkpoint(make_network(), folder, 2)


def test_saving_before_training_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        save_checkpoint(make_network(), tmp_path)
    with pytest.raises(NotFittedError, match="has not finished an epoch yet"):
        save_checkpoint(make_network().initialize(Y), tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("epoch", [0, -50, 1.5, "50", None])
def test_an_epoch_that_is_no_positive_integer_is_refused(tmp_path, epoch):
    for use in (checkpoint_files, load_parameters):
        with pytest.raises(ValueError, match=r"epoch must be an integer of at least 1; got"):
            use(tmp_path, epoch, "relu")


# What is read


def test_loaded_parameters_are_those_saved(saved):
    folder, network = saved
    weights, biases = load_parameters(folder, 2, "relu")
    assert_same_bits(weights, network.weights_)
    assert_same_bits(biases, network.biases_)


def test_a_loaded_network_predicts_as_the_saved_one(saved):
    folder, network = saved
    loaded = make_network(seed=9)
    assert load_checkpoint(loaded, folder, 2) is loaded
    np.testing.assert_array_equal(loaded.predict_proba(X), network.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), network.predict(X))
    assert loaded.score(X, Y) == network.score(X, Y)
    assert loaded.history_ == network.history_


def test_string_labels_come_back(tmp_path):
    names = np.array(["bag", "coat", "long dress"])
    save_checkpoint(make_network().fit(X, names[Y]), tmp_path)
    loaded = load_checkpoint(make_network(), tmp_path, 2)
    np.testing.assert_array_equal(loaded.classes_, names)
    assert loaded.resume(X, names[Y]).score(X, names[Y]) > 0


def test_pickles_written_before_numpy_2_can_be_read(saved):
    folder, network = saved
    path = checkpoint_files(folder, 2, "relu").weights
    # Protocol 3 names the functions in plain lines, so that the old name, shorter than the new, can be put in.
    old = pickle.dumps(network.weights_, 3).replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    assert b"numpy._core" not in old
    assert b"numpy.core" in old
    path.write_bytes(old)
    assert_same_bits(load_parameters(folder, 2, "relu")[0], network.weights_)


@pytest.mark.parametrize("validation", [None, VALIDATION], ids=["plain", "validated"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "linear", "tanh", "softmax"])
def test_training_resumed_by_a_new_object_equals_uninterrupted_training_bit_for_bit(
    activation, dtype, validation, tmp_path
):
    whole = make_network(activation, 6, dtype=dtype).fit(X, Y, validation)
    save_checkpoint(make_network(activation, 2, dtype=dtype).fit(X, Y, validation), tmp_path)
    resumed = make_network(activation, 6, dtype=dtype, seed=None)  # the seed has done its work
    load_checkpoint(resumed, tmp_path, 2).resume(X, Y, validation)
    assert_same_bits(parameters_of(resumed), parameters_of(whole))
    assert resumed.history_ == whole.history_
    assert digest(resumed) == digest(whole)


def test_training_resumed_by_a_new_process_equals_uninterrupted_training_bit_for_bit(saved, tmp_path):
    folder, _ = saved
    whole = make_network(num_epochs=6).fit(X, Y, VALIDATION)
    script = """
        import sys
        from test_checkpoints import VALIDATION, X, Y, digest, load_checkpoint, make_network

        network = load_checkpoint(make_network(num_epochs=6), sys.argv[1], 2)
        print(digest(network.resume(X, Y, VALIDATION)))
    """
    search = os.pathsep.join([str(Path(mlp_core.__file__).parents[1]), str(Path(__file__).parent)])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        env=os.environ | {"PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == digest(whole)


def test_training_interrupted_in_the_callback_resumes_from_the_last_checkpoint(tmp_path):
    def save_then_stop(network, epoch):
        save_checkpoint(network, tmp_path)
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_network(num_epochs=6).fit(X, Y, on_epoch_end=save_then_stop)
    resumed = load_checkpoint(make_network(num_epochs=6), tmp_path, 3).resume(X, Y)
    assert digest(resumed) == digest(make_network(num_epochs=6).fit(X, Y))


# What is refused


class Execute:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def arrays(**changed):
    """Return weights that fit the network, some of them replaced."""
    found = [np.zeros((n_in, n_out), np.float32) for n_in, n_out in pairwise(SIZES)]
    for index, array in changed.items():
        found[int(index.removeprefix("layer"))] = array
    return found


def with_nan(value):
    array = np.zeros((4, 7), np.float32)
    array[2, 3] = value
    return array


OBJECTS = np.empty((4, 7), object)
REFUSED = {
    "a call of a function": pickle.dumps(Execute(print, "called")),
    "a call beside arrays": pickle.dumps([*arrays(), Execute(print, "called")]),
    "a call hidden in an object array": pickle.dumps(arrays(layer0=np.array([Execute(print, "called")], object))),
    "an eval": pickle.dumps(Execute(eval, "print('called')")),
    "a class of NumPy that is no array": pickle.dumps(np.random.default_rng(0)),
    "a number": pickle.dumps(3.0),
    "a list of numbers": pickle.dumps([1.0, 2.0]),
    "an array outside a list": pickle.dumps(np.zeros(3)),
    "an empty list": pickle.dumps([]),
    "a dict of arrays": pickle.dumps(dict(enumerate(arrays()))),
    "a tuple of arrays": pickle.dumps(tuple(arrays())),
    "a list with a list": pickle.dumps([arrays()]),
    "an array of objects": pickle.dumps(arrays(layer0=OBJECTS)),
    "an array of integers": pickle.dumps(arrays(layer0=np.zeros((4, 7), int))),
    "an array of complex numbers": pickle.dumps(arrays(layer0=np.zeros((4, 7), complex))),
    "an array of strings": pickle.dumps(arrays(layer0=np.full((4, 7), "1"))),
    "NaN": pickle.dumps(arrays(layer0=with_nan(np.nan))),
    "infinity": pickle.dumps(arrays(layer0=with_nan(-np.inf))),
    "a truncated file": pickle.dumps(arrays())[:-20],
    "an empty file": b"",
    "text": b"weights",
    "an npz file": b"PK\x03\x04" + bytes(100),
}


def assert_refused_unchanged(folder, match, network=None):
    """Neither loader accepts; a trained network keeps all it has."""
    network = make_network(seed=5).fit(X, Y) if network is None else network
    before = copy.deepcopy(vars(network))
    references = {name: id(value) for name, value in vars(network).items()}
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(network, folder, 2)
    assert {name: id(value) for name, value in vars(network).items()} == references
    if "weights_" in before:
        assert_same_bits(parameters_of(network), before["weights_"] + before["biases_"])
        assert network.history_ == before["history_"]


@pytest.mark.parametrize("part", ["weights", "biases"])
@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_a_pickle_of_anything_but_finite_arrays_is_refused_and_not_run(content, part, saved, capsys):
    folder, _ = saved
    path = getattr(checkpoint_files(folder, 2, "relu"), part)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=path.name):
        load_parameters(folder, 2, "relu")
    assert_refused_unchanged(folder, path.name)
    assert_refused_unchanged(folder, path.name, make_network())
    assert "called" not in capsys.readouterr().out


@pytest.mark.parametrize("part", ["weights", "biases"])
def test_a_malicious_pickle_runs_no_command(part, saved):
    folder, _ = saved
    marker = folder / "marker"
    attack = pickle.dumps([Execute(os.system, f"touch '{marker}'")])
    pickle.loads(attack)
    assert marker.exists(), "the attack works on a loader without a guard"
    marker.unlink()
    getattr(checkpoint_files(folder, 2, "relu"), part).write_bytes(attack)
    with pytest.raises(CheckpointError, match=r"(posix|nt)\.system is not part of a NumPy array"):
        load_parameters(folder, 2, "relu")
    assert_refused_unchanged(folder, r"\.system is not part of a NumPy array")
    assert not marker.exists()


@pytest.mark.parametrize("part", ["weights", "biases", "state"])
def test_a_missing_file_is_named(part, saved):
    folder, _ = saved
    path = getattr(checkpoint_files(folder, 2, "relu"), part)
    path.unlink()
    assert_refused_unchanged(folder, rf"{path.name} is missing")


def test_an_epoch_or_activation_that_was_not_saved_is_named(saved):
    folder, _ = saved
    with pytest.raises(CheckpointError, match=r"50_relu_weights\.pkl is missing"):
        load_parameters(folder, 50, "relu")
    with pytest.raises(CheckpointError, match=r"2_tanh_weights\.pkl is missing"):
        load_checkpoint(make_network("tanh"), folder, 2)


@pytest.mark.parametrize(
    ("n_layers", "sizes", "dtype"),
    [
        (3, [4, 7, 3], "float32"),
        (5, [4, 7, 5, 5, 3], "float32"),
        (4, [4, 5, 7, 3], "float32"),
        (4, [3, 7, 5, 4], "float32"),
        (4, SIZES, "float64"),
    ],
)
def test_parameters_of_another_architecture_or_precision_are_refused(n_layers, sizes, dtype, saved):
    folder, _ = saved
    network = NeuralNetwork(n_layers, sizes, dtype=dtype)
    assert_refused_unchanged(folder, "the network needs parameters .* the files hold", network)


@pytest.mark.parametrize("count", [2, 4])
def test_weights_and_biases_that_differ_in_number_are_refused(count, saved):
    folder, network = saved
    path = checkpoint_files(folder, 2, "relu").biases
    path.write_bytes(pickle.dumps([*network.biases_, network.biases_[-1]][:count]))
    assert_refused_unchanged(folder, "the network needs parameters")


def rewrite_state(folder, **changed):
    """Write the state anew with some entries replaced; None removes one."""
    path = checkpoint_files(folder, 2, "relu").state
    with np.load(path) as state:
        content = dict(state) | changed
    np.savez(path, **{key: value for key, value in content.items() if value is not None})


BAD_STATES = {
    "no shuffle": {"shuffle": None},
    "a shuffle that is no JSON": {"shuffle": np.array("nonsense")},
    "the state of another generator": {"shuffle": np.array(json.dumps(np.random.MT19937(0).state, default=str))},
    "no classes": {"classes": None},
    "objects": {"classes": np.array([Execute(print, "called"), 1, 2], object)},
    "another number of classes": {"classes": np.arange(4)},
    "no history": {key: None for key in ("history_train_loss", "history_train_accuracy", "history_gradient_norm")},
    "a history of another length": {"history_train_loss": np.arange(50.0)},
}


@pytest.mark.parametrize("changed", BAD_STATES.values(), ids=BAD_STATES.keys())
def test_a_state_that_training_could_not_have_written_is_refused(changed, saved, capsys):
    folder, _ = saved
    rewrite_state(folder, **changed)
    assert_refused_unchanged(folder, r"2_relu_state\.npz (is damaged|must hold 3 classes and a history of 2 epochs)")
    assert "called" not in capsys.readouterr().out


BAD_CHECKSUMS = {
    "none": None,
    "an empty list": np.array([], dtype=str),
    "numbers": np.zeros(2),
    "one text that is no list": np.array("0" * 64),
    "texts that are no checksums": np.array(["", ""]),
    "bytes": np.array([b"0" * 64] * 2),
}


@pytest.mark.parametrize("checksums", BAD_CHECKSUMS.values(), ids=BAD_CHECKSUMS.keys())
def test_a_state_without_the_checksums_of_both_files_is_refused(checksums, saved):
    folder, _ = saved
    rewrite_state(folder, sha256=checksums)
    assert_refused_unchanged(folder, r"2_relu_\w+\.\w+ is damaged")


@pytest.mark.parametrize(("kept", "refused"), [(0, "biases"), (1, "weights")])
def test_a_state_with_the_checksum_of_one_file_alone_is_refused(kept, refused, saved):
    folder, _ = saved
    with np.load(checkpoint_files(folder, 2, "relu").state) as state:
        one = state["sha256"][[kept]]
    rewrite_state(folder, sha256=one)
    assert_refused_unchanged(folder, rf"2_relu_{refused}\.pkl is damaged")


def test_each_file_is_read_once_so_that_what_is_checked_is_what_is_used(saved, monkeypatch):
    folder, _ = saved
    read, read_bytes = [], Path.read_bytes

    def counted(path):
        read.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    load_checkpoint(make_network(), folder, 2)
    assert sorted(read) == ["2_relu_biases.pkl", "2_relu_weights.pkl"]


@pytest.mark.parametrize("kept", [0, 10, 200, -10])
def test_a_truncated_state_is_refused(kept, saved):
    folder, _ = saved
    path = checkpoint_files(folder, 2, "relu").state
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused_unchanged(folder, r"2_relu_state\.npz is damaged")


def test_the_state_of_another_epoch_is_refused(saved):
    folder, _ = saved
    save_checkpoint(make_network(num_epochs=3).fit(X, Y, VALIDATION), folder)
    os.replace(checkpoint_files(folder, 3, "relu").state, checkpoint_files(folder, 2, "relu").state)
    assert_refused_unchanged(folder, "history of 2 epochs")


def test_a_state_rewritten_unchanged_is_accepted(saved):
    folder, network = saved
    rewrite_state(folder)
    assert load_checkpoint(make_network(), folder, 2).history_ == network.history_


def test_a_state_saved_at_another_time_has_the_same_bytes(tmp_path, monkeypatch):
    network = make_network().fit(*samples())
    first = save_checkpoint(network, tmp_path / "first").state.read_bytes()
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    assert save_checkpoint(network, tmp_path / "second").state.read_bytes() == first
