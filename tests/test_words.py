"""What the text must not say again, and how wide the code may be that a page shows.

Both read the sources, so that they say at once which line is to be changed.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from sphinx.config import Config
from sphinx.directives.code import LiteralIncludeReader

from book.constraints import read_front_matter

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book" / "chapters").glob("*.md"))
MODULES = sorted(
    path for folder in ("book", "data", "mlp_core", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
PAPERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md")]
TEXTS = [*PAPERS, ROOT / "submission" / "Q1.py", *CHAPTERS, *MODULES]

WORDS = {
    r"named (rightly|wrongly)": "correctly classified, misclassified",
    r"told (apart|from it) by the test|not told from": "(not) significantly different",
    r"\btrunk\b": "backbone",
    r"head of (our|its|one's) own|\bkept head\b|our own head": "classifier head, new head, the selected head",
    r"\bfine-tuned\b": "transfer learning with a frozen backbone",
    r"\btrainings\b": "training runs",
    r"\bmirror(ed|ing)\b": "horizontal flip",
    r"\bliker\b|\blikeness\b": "correlation with the class mean",
    r"\bdead pictures?\b|\b(shut|open) units?\b": "inactive or active unit, dead unit",
    r"\bsurer\b": "more confident",
    r"\bby heart\b": "memorised",
    r"\bpupils?\b": "student",
    r"\b(held|moving) \*?\*?\$?P\b": "detached (stop-gradient) target, target that depends on the model",
    r"\bpoolings\b": "max pooling layers",
    r"\b(robust|plain) form\b": "with regularisation, without regularisation",
    r"(wants|wishes|wishing) to see": "maximises, responds to",
    r"\bmend": "fix, patch",
    r"\brivals?\b": "models not significantly worse than the best",
    r"\brefuse_": "check_",
    r"\b(images|operations|bytes|periods|multiplications|steps|products) a (second|pixel|step|minute)\b": "per …",
    r"settings of this chapter stand in one cell": "(nothing: the cell shows it)",
    r"^\*\*(Question|Reading|Caveat)\.\*\*": "(no label)",
    r"follow the straight way and multiply": "the path integral in words of the method",
    r"worth as much as the comparison": "a conclusion",
    r"make room for ours|makes room for": "are replaced by",
}
"""Phrases that were in the book, as regular expressions, and what stands in their place."""

MAX_COLUMNS = 80


@cache
def prose(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that people read: Markdown without code cells, or the docstrings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return docstring_lines(text)
    lines, fence = [], None
    for number, line in enumerate(text.splitlines(), start=1):
        opened = re.match(r"(`{3,})(.*)", line)
        if fence is None and opened and is_code(opened[2]):
            fence = opened[1]
        elif fence is not None:
            fence = None if line.strip() == fence else fence
        else:
            lines.append((number, line))
    return lines


def is_code(info: str) -> bool:
    """Whether a fence holds code; directives such as glue:figure hold text."""
    return info.startswith("{code-cell}") or not info.startswith("{")


def docstring_lines(text: str) -> list[tuple[int, str]]:
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    constants = [node.value for node in nodes if isinstance(node.value, ast.Constant)]
    return [
        (constant.lineno + i, line)
        for constant in constants
        if isinstance(constant.value, str)
        for i, line in enumerate(constant.value.splitlines())
    ]


def found_phrases(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write: {instead}"
        for number, line in prose(path)
        for pattern, instead in WORDS.items()
        if (match := re.search(pattern, line, re.IGNORECASE))
    ]


def cells(path: Path) -> list[tuple[int, list[str], str]]:
    """The code cells of a chapter: the line of their first code, their tags, their code."""
    text = path.read_text(encoding="utf-8")
    result = []
    for match in re.finditer(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        options = re.match(r"---\n.*?^---\n|(?::[^\n]*\n)+\n?|", match[1], re.MULTILINE | re.DOTALL)[0]
        tags = re.search(r"tags: \[([^\]]*)\]", options)
        start = text.count("\n", 0, match.start(1) + len(options)) + 1
        result.append((start, tags[1].split(", ") if tags else [], match[1][len(options) :]))
    return result


def listed_lines(path: Path) -> list[tuple[Path, int, str]]:
    """The lines of the files that a chapter includes as listings, as Sphinx selects them; numbered in each listing."""
    text = path.read_text(encoding="utf-8")
    result = []
    for match in re.finditer(r"^```\{literalinclude\} (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        source = (path.parent / match[1]).resolve()
        options = {
            name: value.strip("\"'") for name, value in re.findall(r"^:([\w-]+): ?(.*)$", match[2], re.MULTILINE)
        }
        selecting = {name: options[name] for name in ("pyobject", "start-at", "end-before", "lines") if name in options}
        dedented = {"dedent": int(options["dedent"])} if "dedent" in options else {}
        listing, _ = LiteralIncludeReader(str(source), selecting | dedented, Config()).read()
        result += [(source, number, line) for number, line in enumerate(listing.splitlines(), start=1)]
    return result


def wide_lines(path: Path) -> list[str]:
    numbered = [
        (f"{path.relative_to(ROOT)}:{start + i}", line)
        for start, tags, code in cells(path)
        if not {"remove-cell", "remove-input"} & set(tags)
        for i, line in enumerate(code.splitlines())
    ]
    numbered += [
        (f"{source.relative_to(ROOT)}, listed line {number}", line) for source, number, line in listed_lines(path)
    ]
    return [f"{place}: {len(line)} characters" for place, line in numbered if len(line) > MAX_COLUMNS]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_uses_the_standard_terms(path):
    assert found_phrases(path) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_shown_line_of_code_is_wider_than_the_page(path):
    assert wide_lines(path) == []


def test_a_phrase_is_found_in_prose_and_docstrings_but_not_in_code(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    chapter, module = tmp_path / "chapter.md", tmp_path / "module.py"
    chapter.write_text(
        "Text.\n\n```{code-cell} ipython3\ntrunk = 1\n```\n\nThe trunk.\n\n```{note}\nTwo trainings\n```\n"
    )
    module.write_text('"""Module."""\n\ntrunk = 1\n\n\ndef f():\n    """Do it.\n\n    The trunk.\n    """\n')
    assert [line.split(";")[0] for line in found_phrases(chapter)] == [
        "chapter.md:7: 'trunk'",
        "chapter.md:10: 'trainings'",
    ]
    assert found_phrases(module) == ["module.py:9: 'trunk'; write: backbone"]


def test_a_wide_line_is_found_in_a_cell_and_in_a_listing_but_not_where_nothing_is_shown(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    wide = "x = 1  # " + 80 * "x"
    (tmp_path / "module.py").write_text(f"{wide}\n\n\n@cache\ndef f():\n    {wide}\n\n\ndef g():\n    pass\n")
    listing = "```{literalinclude} module.py\n:pyobject: %s\n```\n"
    chapter = tmp_path / "chapter.md"
    shown = f"```{{code-cell}} ipython3\n---\ntags: [hide-input]\n---\n{wide}\n```\n"
    hidden = f"```{{code-cell}} ipython3\n:tags: [remove-cell]\n\n{wide}\n```\n"
    chapter.write_text(shown + hidden + listing % "f" + listing % "g")
    assert wide_lines(chapter) == ["chapter.md:5: 89 characters", "module.py, listed line 3: 93 characters"]


def test_chapters_have_cells_and_listings_to_look_at():
    with_parameters = [path for path in CHAPTERS if read_front_matter(path.stem).get("parameters")]
    assert all(cells(path) for path in with_parameters)
    assert sum(bool(listed_lines(path)) for path in CHAPTERS) > 5
