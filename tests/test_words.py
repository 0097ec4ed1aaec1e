"""What the text must not say again, and how wide the code may be that a page shows.

Both read the sources, so that they say at once which line is to be changed.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from book.constraints import read_front_matter

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book" / "chapters").glob("*.md"))
MODULES = sorted(
    path for folder in ("book", "data", "mlp_core", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *CHAPTERS, *MODULES]

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
    r"(wants?|wishes|wishing) to see": "maximises, responds to",
    r"\bmends?\b": "fix, patch",
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


def listings(path: Path) -> list[tuple[Path, dict[str, str]]]:
    """The files that a chapter includes as listings, and the options of each."""
    text = path.read_text(encoding="utf-8")
    pattern = r"^```\{literalinclude\} (\S+)\n(.*?)^```$"
    return [
        ((path.parent / match[1]).resolve(), dict(re.findall(r"^:([a-z-]+): ?(.*)$", match[2], re.MULTILINE)))
        for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    ]


def listed_lines(path: Path, options: dict[str, str]) -> list[tuple[int, str]]:
    """Numbered lines of a file that Sphinx lists with these options."""
    text = path.read_text(encoding="utf-8")
    lines = list(enumerate(text.splitlines(), start=1))
    if "pyobject" in options:
        node = ast.parse(text)
        for part in options["pyobject"].split("."):
            node = next(child for child in node.body if getattr(child, "name", None) == part)
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        lines = lines[first - 1 : node.end_lineno]
    if "start-at" in options:
        quoted = unquoted(options["start-at"])
        lines = lines[next(i for i, (_, line) in enumerate(lines) if quoted in line) :]
    if "end-before" in options:
        quoted = unquoted(options["end-before"])
        lines = lines[: next(i for i, (_, line) in enumerate(lines) if i and quoted in line)]
    unknown = set(options) - {"pyobject", "start-at", "end-before", "dedent", "caption", "name", "lineno-match"}
    assert not unknown, f"{path.name}: the test does not know the option {unknown} of a listing"
    dedent = int(options.get("dedent") or 0)
    return [(number, line[dedent:]) for number, line in lines]


def unquoted(option: str) -> str:
    """An option's text: YAML takes off quotation marks, and they keep spaces at its ends."""
    return option[1:-1] if option[:1] == option[-1:] == '"' else option


def wide_lines(path: Path) -> list[str]:
    numbered = [
        (path, start + i, line)
        for start, tags, code in cells(path)
        if not {"remove-cell", "remove-input"} & set(tags)
        for i, line in enumerate(code.splitlines())
    ]
    numbered += [
        (source, number, line) for source, options in listings(path) for number, line in listed_lines(source, options)
    ]
    return [
        f"{source.relative_to(ROOT)}:{number}: {len(line)} characters"
        for source, number, line in numbered
        if len(line) > MAX_COLUMNS
    ]


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
    listing = "```{literalinclude} module.py\n%s\n```\n"
    chapter = tmp_path / "chapter.md"
    shown = f"```{{code-cell}} ipython3\n---\ntags: [hide-input]\n---\n{wide}\n```\n"
    hidden = f"```{{code-cell}} ipython3\n:tags: [remove-cell]\n\n{wide}\n```\n"
    chapter.write_text(shown + hidden + listing % ":pyobject: f" + listing % ":start-at: def g")
    assert wide_lines(chapter) == ["chapter.md:5: 89 characters", "module.py:6: 93 characters"]


def test_chapters_have_cells_and_listings_to_look_at():
    with_parameters = [path for path in CHAPTERS if read_front_matter(path.stem).get("parameters")]
    assert all(cells(path) for path in with_parameters)
    assert sum(len(listings(path)) for path in CHAPTERS) > 5
