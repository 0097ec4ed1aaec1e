"""A project of three small pages, on which the pipeline is tested."""

import shutil
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]

FRONT_MATTER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
book:
  needs: {needs}
{parameters}
---
"""

FIRST_PARAMETERS = """\
  quick: {num_epochs: 2}
  parameters:
    num_epochs: {type: integer, minimum: 1}
    learning_rate: {type: number, above: 0}
    seed: {type: integer, minimum: 0}
    name: {type: text, choices: [relu, tanh]}
    widths: {type: list, min_length: 1, items: {type: integer, minimum: 1}}
    clip: {type: number, above: 0, optional: true}"""

SECOND_PARAMETERS = """\
  parameters:
    num_epochs: {type: integer, minimum: 1, maximum: 1000}"""

INTRODUCTION = """\
# Introduction

The sum is {glue:text}`first/total:.2f`, see {numref}`fig-line` in [the first chapter](first.md).

```{glue:} first/table
```

```{glue:figure} first/line
:alt: A line that rises
:name: fig-line-again

The line once more.
```

::::{grid} 2

:::{grid-item-card} The first chapter
:link: first
:link-type: doc

```{glue:figure} first/fig-line
:alt: A small line
```
:::
::::
"""

FIRST = """\
# The first chapter

```{code-cell} ipython3
:tags: [parameters]

num_epochs = 3  # how often
learning_rate = 0.5
seed = 7
name = "relu"
widths = [4, 2]
clip = None
```

```{code-cell} ipython3
%config InlineBackend.close_figures = True
import os
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Markdown
from matplotlib_inline.backend_inline import set_matplotlib_formats
from myst_nb import glue

from package import compute

set_matplotlib_formats("svg", "pdf")
plt.rcParams["svg.hashsalt"] = "constant"
```

(sec-sum)=
## The sum

```{code-cell} ipython3
total = compute.add(num_epochs, learning_rate)
folder = Path(os.environ["BOOK_MODELS"])
(folder / "total.txt").write_text(str(total))
print("total", total)
```

```{code-cell} ipython3
---
tags: [hide-input]
mystnb:
  figure:
    name: fig-line
    caption: A line.
  image:
    alt: A rising line
---
fig, ax = plt.subplots(figsize=(2, 1))
ax.plot(range(num_epochs))
plt.show()
```

```{code-cell} ipython3
:tags: [remove-cell]

glue("total", total, display=False)
glue("table", Markdown("| a | b |\\n|---|---|\\n| $x$ | 2 |"), display=False)
glue("line", fig, display=False)
```

```{literalinclude} ../../package/compute.py
:pyobject: add
```
"""

SECOND = """\
# The second chapter

```{code-cell} ipython3
:tags: [parameters]

num_epochs = 3
```

```{code-cell} ipython3
import os
from json import loads
from pathlib import Path

results = loads(os.environ["BOOK_NEEDS"])["first"]
total = float(Path(results, "models", "first", "total.txt").read_text())
total * num_epochs
```
"""

REPORT = """\
# Report

The sum is {glue:text}`first/total:.2f`, from {ref}`sec-sum`.

```{chapter-figure} first/fig-line
```

```{chapter-output} first/sec-sum
:holds: total
```
"""

FILES = {
    "_toc.yml": """\
        format: jb-book
        root: book/chapters/introduction
        options:
          numbered: true
        chapters:
          - file: book/chapters/first
          - file: book/chapters/second
          - file: book/chapters/report
        """,
    "requirements.txt": """\
        # comment
        matplotlib==3  # figures
        myst-nb==1
        """,
    "package/__init__.py": '"""A package."""\n',
    "package/compute.py": """\
        from . import helper


        def add(a, b):
            return helper.plus(a, b)
        """,
    "package/helper.py": """\
        def plus(a, b):
            from package.deep.constant import ZERO

            return a + b + ZERO
        """,
    "package/deep/__init__.py": "",
    "package/deep/constant.py": "ZERO = 0\n",
    "package/unrelated.py": "ONE = 1\n",
}


def make_project(root: Path) -> Path:
    """Write the small project into a folder."""
    chapters = root / "book" / "chapters"
    chapters.mkdir(parents=True)
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (chapters / "introduction.md").write_text(INTRODUCTION)
    (chapters / "report.md").write_text(REPORT)
    (chapters / "first.md").write_text(FRONT_MATTER.format(needs="{}", parameters=FIRST_PARAMETERS) + FIRST)
    (chapters / "second.md").write_text(
        FRONT_MATTER.format(needs="{first: [num_epochs]}", parameters=SECOND_PARAMETERS) + SECOND
    )
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    shutil.copytree(ROOT / "book" / "templates", root / "book" / "templates")
    return root


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
