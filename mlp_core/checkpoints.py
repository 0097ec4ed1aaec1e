"""Checkpoints: the parameters as pickles, everything else that training needs to go on as ``.npz``.

A pickle can run any code when it is loaded. The assignment asks for pickles, so they are read by an unpickler that
can build NumPy arrays and nothing else.
"""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from mlp_core.network import NeuralNetwork, NotFittedError
from mlp_core.validation import check_integer

PICKLE_PROTOCOL = 4
"""Fixed, so that the same weights give the same bytes under every Python version."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another network, or holds something else than arrays."""


class CheckpointFiles(NamedTuple):
    """The three files of a checkpoint."""

    weights: Path
    biases: Path
    state: Path


def checkpoint_files(folder: str | os.PathLike, epoch: int, activation: str) -> CheckpointFiles:
    """Paths ``<epoch>_<activation>_weights.pkl``, ``..._biases.pkl`` and ``..._state.npz`` in ``folder``."""
    check_integer("epoch", epoch, minimum=1)
    stem = f"{epoch}_{activation}"
    return CheckpointFiles(*(Path(folder) / f"{stem}_{part}" for part in ("weights.pkl", "biases.pkl", "state.npz")))


def save_checkpoint(
    network: NeuralNetwork,
    folder: str | os.PathLike,
    write: Callable[[Path, bytes], object] = Path.write_bytes,
) -> CheckpointFiles:
    """Save a trained network under the number of epochs it has seen.

    The state, which is written last, holds the checksums of the weights and the biases.

    Parameters
    ----------
    network : NeuralNetwork
    folder : path
    write : callable
        Writes a file. One that writes beside its place and then moves there never leaves half a file.

    Raises
    ------
    NotFittedError
        Before any epoch is finished.
    """
    network._check_fitted()
    epoch = len(network.history_["train_loss"])
    if epoch == 0:
        raise NotFittedError("this NeuralNetwork has not finished an epoch yet: there is nothing to save")
    files = checkpoint_files(folder, epoch, network.activation)
    Path(folder).mkdir(parents=True, exist_ok=True)
    contents = [pickle.dumps(arrays, PICKLE_PROTOCOL) for arrays in (network.weights_, network.biases_)]
    for path, content in zip((files.weights, files.biases), contents, strict=True):
        write(path, content)
    state = io.BytesIO()
    np.savez(
        state,
        classes=network.classes_,
        sha256=np.array([hashlib.sha256(content).hexdigest() for content in contents]),
        # JSON, because the generator's state is made of integers of 128 bits, which no NumPy type holds.
        shuffle=np.array(json.dumps(network._shuffle_rng.bit_generator.state)),
        **{f"history_{key}": np.array(values) for key, values in network.history_.items()},
    )
    write(files.state, state.getvalue())
    return files


def load_parameters(
    folder: str | os.PathLike, epoch: int, activation: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Read weights and biases.

    Returns
    -------
    weights, biases : list of ndarray
        ``weights[l]`` of shape (fan_in, fan_out), ``biases[l]`` of shape (fan_out,).

    Raises
    ------
    CheckpointError
        For a file that is missing or damaged, or that holds anything but a list of finite arrays of floats.
    """
    files = checkpoint_files(folder, epoch, activation)
    weights, biases = (_arrays_in(_read(path), path) for path in (files.weights, files.biases))
    return weights, biases


def load_checkpoint(network: NeuralNetwork, folder: str | os.PathLike, epoch: int) -> NeuralNetwork:
    """Restore a saved training run into ``network``, ready to predict or to :meth:`~NeuralNetwork.resume`.

    Parameters
    ----------
    network : NeuralNetwork
        With the layer sizes, activation and dtype of the saved one.
    folder : path
    epoch : int

    Returns
    -------
    NeuralNetwork
        The same object.

    Raises
    ------
    CheckpointError
        As :func:`load_parameters`; for a state that is missing, damaged, or of another number of epochs or classes; for
        parameters that are not those saved with the state, or do not fit the network. It is then left as it was.
    """
    files = checkpoint_files(folder, epoch, network.activation)
    contents = {path: _read(path) for path in (files.weights, files.biases)}
    weights, biases = (_arrays_in(content, path) for path, content in contents.items())
    path = files.state
    found = [(W.shape, b.shape, W.dtype.name) for W, b in zip(weights, biases, strict=False)]
    sizes = network.layer_sizes
    expected = [((n_in, n_out), (n_out,), network.dtype) for n_in, n_out in pairwise(sizes)]
    if found != expected or len(weights) != len(biases):
        raise CheckpointError(f"{path.parent}: the network needs parameters {expected}, the files hold {found}")
    try:
        with np.load(path, allow_pickle=False) as state:
            classes, checksums = state["classes"], list(state["sha256"])
            history = {key.removeprefix("history_"): state[key].tolist() for key in state if key.startswith("history_")}
            shuffle_rng = np.random.default_rng(0)
            shuffle_rng.bit_generator.state = json.loads(str(state["shuffle"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # a damaged archive fails in as many ways as zip, NumPy and JSON have
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if len(classes) != sizes[-1] or {len(history.get("train_loss", ())), *map(len, history.values())} != {epoch}:
        raise CheckpointError(f"{path} must hold {sizes[-1]} classes and a history of {epoch} epochs")
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() not in checksums:
            raise CheckpointError(f"{file} is damaged: it is not the file that was saved with {path.name}")
    network.weights_, network.biases_, network.classes_ = weights, biases, classes
    network.history_, network._shuffle_rng = history, shuffle_rng
    return network


class _FloatDtype:
    """Stands in for ``numpy.dtype`` in a pickle: plain floating-point numbers and nothing else."""

    def __init__(self, code, align=False, copy=True):
        if code not in ("f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"dtype {code!r} is not a floating-point number")
        self._code = code

    def __setstate__(self, state):
        byte_order = state[1]
        if byte_order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {byte_order!r} is none")
        self.dtype = np.dtype(byte_order + self._code)


class _PickledArray:
    """Stands in for the array that NumPy would build: its numbers are copied from the bytes, with NumPy's checks."""

    def __init__(self, subtype, shape, typecode):
        pass  # NumPy starts from an empty array as well; everything is in the state

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _FloatDtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array of something else than floating-point numbers")
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if is_fortran else "C").copy()


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that gives arrays of floats, as :class:`_PickledArray`, and never calls into anything else.

    NumPy's own constructors stay out of reach as well: ``dtype.__setstate__`` trusts what it is given.
    """

    STAND_INS: ClassVar = {
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _FloatDtype,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,  # its name before NumPy 2
    }

    def find_class(self, module, name):
        if (module, name) not in self.STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a NumPy array")
        return self.STAND_INS[module, name]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error


def _arrays_in(content: bytes, path: Path) -> list[np.ndarray]:
    try:
        arrays = _ArrayUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CheckpointError(f"{path} is damaged or holds something else than NumPy arrays: {error}") from error
    is_list = isinstance(arrays, list) and len(arrays) > 0
    if not is_list or not all(isinstance(array, _PickledArray) and hasattr(array, "array") for array in arrays):
        raise CheckpointError(f"{path} must hold a list of NumPy arrays of floats")
    arrays = [array.array for array in arrays]
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError(f"{path} holds values that are not finite")
    return arrays
