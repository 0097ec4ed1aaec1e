"""Damage in files that are read: one flipped bit, a part, nothing, ``null``, or what tools such as nbstripout leave."""

import io
import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock
from zipfile import ZipFile

import nbformat
import numpy as np
import torch
from safetensors.numpy import save

import data.fashion_mnist
import data.vgg16
from book.experiments.mlp.runs import train_networks
from book.experiments.mlp.samples import LabelledSamples
from book.experiments.page import storage
from book.experiments.vgg import features as features_module
from book.experiments.vgg.backbone import BackboneSettings, load_backbone
from book.experiments.vgg.features import Features, backbone_features
from book.experiments.vgg.heads import HeadSettings, predict_logits, train_heads
from book.files import DamagedFileError, write_sealed_json
from book.pipeline.content_key import statuses
from book.pipeline.errors import BookError
from book.pipeline.pages import stage
from book.pipeline.parameters import load_build
from book.pipeline.plan import left_by_rerun
from book.pipeline.project import load_project
from book.pipeline.publish import publish_notebooks
from book.pipeline.render import _read_record
from tests.faults.tries import Try, copy_of

DETECTED = (BookError, DamagedFileError, storage.PublishedFileError, data.fashion_mnist.DataError)
COSTS = ("blocks.log", "machine.json")
HOWS = ("bit", "bit", "bit", "bit", "digit", "cut", "empty", "gone", "null")


class Recomputed(Exception):  # noqa: N818, no error: what was damaged is made anew
    """Said by a reader: the damage was noticed, and the value will be computed again."""


def damaged(rng: random.Random, content: bytes, how: str) -> bytes | None:
    """Return a file's content after damage; None if the file is gone."""
    match how:
        case "bit":
            place = rng.randrange(len(content))
            return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        case "digit":
            places = [place for place, byte in enumerate(content) if byte in b"0123456789"]
            if not places:
                return damaged(rng, content, "bit")
            place = rng.choice(places)
            other = rng.choice([digit for digit in b"0123456789" if digit != content[place]])
            return content[:place] + bytes([other]) + content[place + 1 :]
        case "cut":
            return content[: rng.randrange(len(content))]
        case "empty":
            return b""
        case "null":
            return b"null"
        case "structure":
            # Short lines are the notebook's own; long ones are figures.
            lines = content.split(b"\n")
            row = rng.choice([row for row, line in enumerate(lines) if 8 < len(line) < 80])
            lines[row] = damaged(rng, lines[row], "bit")
            return b"\n".join(lines)
        case "stripped":
            notebook = nbformat.reads(content.decode(), as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            return nbformat.writes(notebook).encode()
    return None


def tried(kind: str, rng: random.Random, path: Path, how: str, read: Callable[[], Any], name: str | None = None) -> Try:
    """Damage a file, read it as its readers do, and put it back.

    Parameters
    ----------
    kind : str
        What the table calls it.
    rng : random.Random
    path : pathlib.Path
        The file.
    how : str
        One of what `damaged` knows.
    read : callable
        Returns what the file gives its readers. Raises one of `DETECTED` that names the file, or `Recomputed`.
    name : str, optional
        What a message must name, the file's name by default.
    """
    wanted, content = read(), path.read_bytes()
    new = damaged(rng, content, how)
    if new is None:
        path.unlink()
    else:
        path.write_bytes(new)
    where = f"{path.name}, {how}"
    try:
        found = read()
    except Recomputed:
        return Try(kind, "recomputed")
    except DETECTED as error:
        message = str(error)
        return Try(kind, "detected and named", "" if (name or path.name) in message else f"{where}: {message}")
    except Exception as error:
        return Try(kind, "traceback", f"{where}: {error!r:.300}")
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if found != wanted:
        return Try(kind, "accepted", f"{where}: another value was accepted: {found!r:.200}")
    return Try(kind, "no part of what is read" if new != content else "the same")


def notebooks(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Damage result notebooks: what is shown of them must be as it was, or their damage be said."""
    root = copy_of(project, place / "notebooks")
    kept = {path: path.read_bytes() for path in root.rglob("*.ipynb")}

    def read(profile: str) -> dict[str, Any]:
        build = load_build(load_project(root), profile)
        _check_fresh(build)
        shown = stage(build, place / "staged")
        return {
            path.relative_to(shown).as_posix(): _without_counts(nbformat.read(path, as_version=4))
            for path in shown.rglob("*.ipynb")
        }

    places = {root / "results/first.ipynb": "full", root / "results/second.ipynb": "full"}
    places |= {root / "_build/quick/results/first.ipynb": "quick"}
    hows = (*HOWS, *("structure",) * len(HOWS), "stripped")
    for _ in range(tries):
        path, profile = rng.choice(list(places.items()))
        with redirect_stderr(io.StringIO()):
            yield tried(
                "notebook of a result",
                rng,
                path,
                rng.choice(hows),
                partial(read, profile),
                path.stem,
            )
        for other, content in kept.items():
            if other.read_bytes() != content:
                other.write_bytes(content)


def _without_counts(notebook: Any) -> str:
    """Return a notebook without the numbers of its runs, which show nowhere in the book."""
    for cell in notebook.cells:
        cell.pop("execution_count", None)
    return json.dumps(notebook, sort_keys=True)


def _check_fresh(build: Any) -> None:
    """Raise what the pipeline would say of a chapter that is not fresh."""
    for name, status in statuses(build).items():
        if status.is_damaged:
            raise BookError(f"{name}: {'; '.join(status.reasons)}")
        if not status.is_fresh:
            raise Recomputed


def models(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Damage files that a chapter left for others."""
    root = copy_of(project, place / "models")
    folder = root / "results" / "models" / "first"

    def read() -> dict[str, bytes]:
        _check_fresh(load_build(load_project(root), "full"))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def read_in_chapter() -> dict[str, bytes]:
        with mock.patch.object(storage, "ROOT", root):
            return {path.name: path.read_bytes() for path in storage.published_models("first").iterdir()}

    for _ in range(tries):
        path = rng.choice(sorted(folder.iterdir()))
        yield tried(f"model, {path.suffix}", rng, path, rng.choice(HOWS), rng.choice((read, read_in_chapter)))


def records(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Damage what the pipeline notes of rendering and of a rerun."""
    root = copy_of(project, place / "records")
    render, rerun = root / "_build/full/render.json", root / "_build/full/rerun.json"
    write_sealed_json(render, {"html": "0" * 64, "pdf": "1" * 64})

    def read_render() -> dict[str, str]:
        if not (found := _read_record(render)):
            raise Recomputed
        return found

    def read_rerun() -> list[str]:
        found = left_by_rerun(load_build(load_project(root), "full"))
        if not found and rerun.exists() and json.loads(rerun.read_text())["value"]:
            raise AssertionError("forgotten")
        if not found:
            raise DamagedFileError("rerun.json")
        return found

    for _ in range(tries):
        with redirect_stderr(io.StringIO()):
            if rng.random() < 0.5:
                yield tried("render.json", rng, render, rng.choice(HOWS), read_render)
            else:
                write_sealed_json(rerun, ["first", "second"])
                yield tried("rerun.json", rng, rerun, rng.choice(HOWS), read_rerun)


def sources(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Damage configuration and sources; what is still readable is a new source, what is not must be named."""
    root = copy_of(project, place / "sources")
    files = ["_toc.yml", "_config.yml", "requirements.txt", "book/references.bib", "book/chapters/first.md"]
    files += ["package/helper.py", "book/chapters/introduction.md"]
    codecs = (lambda text: b"\xef\xbb\xbf" + text.encode(), lambda text: text.encode("utf-16"))

    def read() -> None:
        build = load_build(load_project(root), "full")
        _check_fresh(build)
        publish_notebooks(build)
        stage(build, place / "staged")

    for _ in range(tries):
        path = root / rng.choice(files)
        content = path.read_bytes()
        if rng.random() < 0.2:
            path.write_bytes(rng.choice(codecs)(content.decode()))
        else:
            new = damaged(rng, content, rng.choice(HOWS))
            path.unlink() if new is None else path.write_bytes(new)
        try:
            with redirect_stderr(io.StringIO()):
                read()
            yield Try("sources", "read as they are")
        except Recomputed:
            yield Try("sources", "stale")
        except BookError as error:
            message = str(error)
            yield Try("sources", "named", "" if path.stem in message else f"{path.name}: {message}")
        except OSError as error:  # the command line names the file and the remedy
            yield Try("sources", "named", "" if error.filename else f"{path.name}: {error!r}")
        except Exception as error:
            yield Try("sources", "traceback", f"{path.name}: {error!r:.300}")
        path.write_bytes(content)


def data_files(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Damage the images, the labels and the backbone's weights."""
    raw = place / "raw"
    shutil.copytree(data.fashion_mnist.FOLDER, raw, dirs_exist_ok=True)
    weights = Path(shutil.copy(data.vgg16.FILE, place))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(data.fashion_mnist, "FOLDER", raw))
        stack.enter_context(mock.patch.object(data.vgg16, "FILE", weights))
        for _ in range(tries):
            path = rng.choice([weights, *raw.iterdir()])
            read = partial(data.fashion_mnist._unpack, path.name)
            if path == weights:
                read = _names_of_weights
            yield tried("data", rng, path, rng.choice([how for how in HOWS if how != "digit"]), read)


def _names_of_weights() -> list[str]:
    return list(data.vgg16.load_vgg16_features())


def caches(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Damage the folders of cached steps, finished and interrupted, and do the steps again: the same must come."""
    steps = {"any step": _any_step, "training": _training, "features": _features, "head": _head}
    environment = {"BOOK_WORKERS": "1", "BOOK_PROGRESS": str(place / "progress"), "BOOK_DEVICE": "cpu"}
    with (
        mock.patch.object(storage, "ROOT", place),
        mock.patch.object(features_module, "BLOCK_BYTES", 2_000),
        mock.patch.dict("os.environ", environment | {"BOOK_COSTS": str(place / "costs")}),
    ):
        folders = {name: step() for name, step in steps.items()}
        for _ in range(tries):
            name = rng.choices(list(steps), (4, 4, 1, 2))[0]
            yield _damaged_step(rng, f"cache, {name}", steps[name], folders[name], place)


def _damaged_step(
    rng: random.Random, kind: str, step: Callable[[], tuple[Path, Any]], done: tuple[Path, Any], place: Path
) -> Try:
    folder, wanted = done
    of_folder = folder.name.rpartition("-")[0]
    _reported(place, of_folder)
    step()
    costs = _reported(place, of_folder)
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    # Beside results a folder holds what they cost, which no page takes for a result.
    results = {path: content for path, content in kept.items() if path.name not in (storage.SEAL, *COSTS)}
    path, how = rng.choice(list(kept)), rng.choice(HOWS)
    if rng.random() < 0.25 and (folder / storage.SEAL) in kept:
        (folder / storage.SEAL).unlink()  # as an interrupt leaves it
        path = rng.choice(list(results))
    new = damaged(rng, kept[path], how)
    path.unlink() if new is None else path.write_bytes(new)
    (place / "progress").unlink(missing_ok=True)
    where = f"{kind}: {path.name}, {how}"
    try:
        again, found = step()
    except Exception as error:
        return Try(kind, "traceback", f"{where}: {error!r:.300}")
    else:
        differing = [one.name for one, content in results.items() if not one.exists() or not _is_same(one, content)]
        if again != folder or found != wanted or differing:
            return Try(kind, "accepted", f"{where}: another result: {differing}")
        reported = _reported(place, of_folder)
        if [one for one in reported if one["found"] and one not in costs and one["machine"] != "unknown"]:
            return Try(kind, "accepted", f"{where}: another cost: {reported} and not {costs}")
        told = "computed again" in (place / "progress").read_text() if (place / "progress").exists() else False
        return Try(kind, "told and recomputed" if told else "recomputed or no part of it")
    finally:
        for one, content in kept.items():
            one.write_bytes(content)


def _reported(place: Path, step: str) -> list[dict[str, Any]]:
    """Return what was reported of a step's costs since the last call."""
    path = place / "costs"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [one for one in map(json.loads, lines) if one["step"] == step]


def _is_same(path: Path, wanted: bytes) -> bool:
    """Whether a file holds what it should; the dates in an archive of arrays are no part of that."""
    content = path.read_bytes()
    if path.suffix != ".npz" or content == wanted:
        return content == wanted
    with ZipFile(path) as one, ZipFile(io.BytesIO(wanted)) as other:
        found, expected = ({name: archive.read(name) for name in archive.namelist()} for archive in (one, other))
    return found == expected


def _any_step() -> tuple[Path, Any]:
    numbers = np.linspace(0, 1, 32, dtype="float32")

    def make(folder: Path) -> None:
        np.save(folder / "numbers.npy", numbers)
        np.savez(folder / "numbers.npz", numbers=numbers)
        (folder / "numbers.json").write_text(json.dumps(numbers.tolist()))
        (folder / "numbers.pkl").write_bytes(pickle.dumps(numbers))
        (folder / "numbers.safetensors").write_bytes(save({"numbers": numbers}))

    folder = storage.cached("any", {"of": 1}, make)
    return folder, np.load(folder / "numbers.npz", allow_pickle=False)["numbers"].tolist()


def _training() -> tuple[Path, Any]:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 6)).astype("float32"), np.arange(30) % 3
    parameters = {"layer_sizes": [6, 8, 3], "activation": "relu", "learning_rate": 0.1, "batch_size": 8}
    parameters |= {"num_epochs": 4, "seed": 0}
    run = train_networks({"a": parameters}, LabelledSamples(X[:20], y[:20], X[20:], y[20:]), [2, 4], "task")["a"]
    return run.folder, run.history


def _features() -> tuple[Path, Any]:
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    backbone = load_backbone(BackboneSettings(cut=5, input_size=32))
    features = backbone_features(backbone, images, np.arange(6), "float32", "task")
    return storage.ROOT / storage.CACHE / features.name, np.asarray(features.values).tolist()


def _head() -> tuple[Path, Any]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 10
    values = 5 * torch.eye(10, 24)[labels] + torch.randn(60, 24, generator=generator)
    features = Features(values.numpy(), labels.numpy(), (24, 1, 1), "blobs")
    settings = HeadSettings(hidden=(8,), num_epochs=3, batch_size=16, learning_rate=0.01)
    run = train_heads({"a": settings}, [features], features, "task")["a"]
    folder = next((storage.ROOT / storage.CACHE).glob("head-*"))
    return folder, (run.history, predict_logits(run.head, features).tolist())
