"""What the chapters on the networks of question 1 conclude is the same on another processor.

Processors differ in the order in which they add, hence in the last digits of every product of matrices, and training
enlarges such differences. Two BLAS kernels on one machine stand for two processors, each with the instructions for
NumPy's own loops that go with it. What the chapters glue into sentences must then be equal, where it is a name, an
order, a verdict or a count. Numbers that are measured may differ, and may do so by much: they are not compared.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from tests.small_project import ROOT

pytestmark = pytest.mark.xdist_group("words")  # one process builds for all the tests

# Each with what NumPy has to do without: a kernel of an older processor goes with that one's instructions. The first
# two that this machine can use are compared.
KERNELS = {
    "Haswell": {"X86_V4", "AVX512_ICL", "AVX512_SPR"},
    "Sandybridge": {"X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR"},
    "Nehalem": {"X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR"},
}

# Smaller than the quick profile, which takes minutes.
NETWORKS = {"num_train": 2000, "num_epochs": 6, "checkpoint_epochs": [3, 6], "num_seeds": 2}
PARAMETERS = {
    "numpy_network": {"num_images": 500, "num_epochs": 4, "symmetry_epochs": 2, "overfit_epochs": 100},
    "four_activations": NETWORKS
    | {
        "num_initialization_epochs": 3,
        "num_replayed": 1,
        "sharpness_images": 200,
        "sharpness_every": 100,
        "num_last_steps": 5,
        "num_orders": 2,
    },
    "scikit_learn": NETWORKS | {"num_fit_epochs": 2, "num_parity_steps": 20, "num_searched": 300},
}

# Measured numbers in a text, such as those of "84.2% (83.1% to 85.3%)"; integers count.
MEASURED = re.compile(r"[-+]?\d[\d,]*(\.\d+(e[-+]?\d+)?%?|%|e[-+]?\d+)")


def usable_kernels() -> list[str]:
    """List those of `KERNELS` that OpenBLAS takes on this machine."""
    code = "import numpy, threadpoolctl; print([pool.get('architecture') for pool in threadpoolctl.threadpool_info()])"
    return [
        kernel
        for kernel in KERNELS
        if kernel
        in subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"OPENBLAS_CORETYPE": kernel}, capture_output=True, text=True
        ).stdout
    ]


def environment_of(kernel: str) -> dict[str, str]:
    """Return the variables that make OpenBLAS and NumPy compute as on an older processor."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    # NumPy complains about instructions that it would not have used anyway.
    left_out = sorted(name for name in KERNELS[kernel] & set(__cpu_dispatch__) if __cpu_features__.get(name))
    variables = {"OPENBLAS_CORETYPE": kernel, "OMP_NUM_THREADS": "1"}
    return os.environ | variables | ({"NPY_DISABLE_CPU_FEATURES": " ".join(left_out)} if left_out else {})


def make_project(root: Path) -> Path:
    """Copy what the three chapters need, with their parameters in the quick profile and a cache of its own."""
    for folder in ("book", "mlp_core"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data", root / "data", ignore=shutil.ignore_patterns("__pycache__", "FashionMNIST", "vgg16"))
    (root / "data" / "FashionMNIST").symlink_to(ROOT / "data" / "FashionMNIST")
    for file in ("requirements.txt", "constraints.txt", "_config.yml"):
        shutil.copy(ROOT / file, root)
    contents = {"format": "jb-book", "root": "book/chapters/introduction"}
    contents["chapters"] = [{"file": f"book/chapters/{name}"} for name in PARAMETERS]
    (root / "_toc.yml").write_text(yaml.safe_dump(contents))
    for name, parameters in PARAMETERS.items():
        path = root / "book" / "chapters" / f"{name}.md"
        _, header, text = path.read_text().split("---\n", 2)
        front_matter = yaml.safe_load(header)
        front_matter["book"]["quick"] = parameters
        path.write_text(f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---\n{text}")
    return root


def words_of(notebook: Path) -> dict[str, object]:
    """Return the texts and integers that a chapter glues, by their keys; measured numbers in texts are left out."""
    words = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            key = output.metadata.get("scrapbook", {}).get("name") if "metadata" in output else None
            try:
                value = ast.literal_eval(output.data["application/papermill.record/text/plain"]) if key else None
            except (KeyError, SyntaxError, ValueError):  # a table or a figure
                continue
            if isinstance(value, str):
                words[key] = MEASURED.sub("#", value)
            elif isinstance(value, int):
                words[key] = value
    return words


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words of each chapter under two kernels: a mapping of kernels to chapters to keys to words."""
    kernels = usable_kernels()[:2]
    if len(kernels) < 2:
        pytest.skip(f"OpenBLAS takes only these of {', '.join(KERNELS)} here: {kernels}")
    roots = {kernel: make_project(tmp_path_factory.mktemp(kernel) / "project") for kernel in kernels}
    command = [sys.executable, "-m", "book", "build", "--profile", "quick", "--no-render", "--workers", "1"]
    builds = {
        kernel: subprocess.Popen(
            command, cwd=root, env=environment_of(kernel), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for kernel, root in roots.items()
    }
    outputs = {kernel: build.communicate()[0] for kernel, build in builds.items()}
    assert {kernel: outputs[kernel] for kernel, build in builds.items() if build.returncode} == {}
    results = Path("_build", "quick", "results")
    return {
        kernel: {name: words_of(root / results / f"{name}.ipynb") for name in PARAMETERS}
        for kernel, root in roots.items()
    }


@pytest.mark.parametrize("chapter", PARAMETERS)
def test_names_orders_verdicts_and_counts_are_the_same_under_another_blas_kernel(words, chapter):
    one, other = (by_chapter[chapter] for by_chapter in words.values())
    assert one.keys() == other.keys()
    assert len(one) > 5
    assert {key: (one[key], other[key]) for key in one if one[key] != other[key]} == {}


def test_the_two_kernels_compute_different_last_digits(words):
    code = (
        "import hashlib; import numpy as np; a = np.random.default_rng(0).normal(size=(32, 784)).astype('f'); "
        "print(hashlib.sha256((a @ a.T[:, :10].copy()).tobytes()).hexdigest())"
    )
    products = {
        subprocess.run([sys.executable, "-c", code], env=environment_of(kernel), capture_output=True, text=True).stdout
        for kernel in words
    }
    assert len(products) == 2
