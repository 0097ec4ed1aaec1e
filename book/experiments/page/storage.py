"""Where chapters leave files: results of a run, and expensive steps kept under what they depend on."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]
DEFAULT_OUTPUT = "_build/manual"


def models_folder(chapter: str) -> Path:
    """Folder for the files that ``chapter`` leaves to others.

    It lies in the output folder of the run, which the pipeline names in the environment variable ``BOOK_OUTPUT``;
    a chapter that is run by hand writes to ``_build/manual``. Both are relative to the project's root, wherever the
    kernel was started.
    """
    folder = ROOT / os.environ.get("BOOK_OUTPUT", DEFAULT_OUTPUT) / "models" / chapter
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keyed_folder(name: str, depends_on: Mapping[str, Any]) -> Path:
    """Folder in ``_build/cache`` for an expensive step, named by a hash of all that its result depends on.

    Parameters
    ----------
    name : str
        What the step is, readable.
    depends_on : mapping
        Values that JSON can write.
    """
    text = json.dumps(depends_on, sort_keys=True)
    folder = ROOT / "_build" / "cache" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def source_digest(*modules: ModuleType) -> str:
    """Hash of the source of modules; of a package, that of all its files."""
    digest = hashlib.sha256()
    for module in modules:
        path = Path(module.__file__)
        for file in sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON beside its place and move it there, so that a file that exists is whole."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(content, file)
    os.replace(file.name, path)
