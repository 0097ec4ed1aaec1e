"""What Sphinx and LaTeX leave to be patched, on a page of a table and a bibliography."""

import re

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

PAGE = """\
# A page

After {cite:t}`someone2001`, see [](other.md).

| name | count | share |
|---|---:|---:|
| one | 1 | 0.5 |
| two | 2 | 0.5 |

| left | middle |
|---|:---:|
| a | b |
"""
REFERENCES = """\
# References

```{bibliography}
```

## After them
"""
ENTRY = """\
@misc{someone2001,
  author = {Someone, Any},
  title  = {A title},
  year   = {2001},
  doi    = {10.1000/1}
}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Build the pages with a builder, and return the text of one file."""
    folder = tmp_path_factory.mktemp("patches")
    (folder / "index.md").write_text(PAGE + "\n```{toctree}\nother\n```\n")
    (folder / "other.md").write_text(REFERENCES)
    (folder / "some.bib").write_text(ENTRY)
    settings = {
        "extensions": ["myst_parser", "sphinxcontrib.bibtex", "book.sphinx.theme_patches"],
        "bibtex_bibfiles": ["some.bib"],
        "bibtex_reference_style": "author_year",
        "html_context": {"executed_pages": []},
        "latex_show_urls": "footnote",
        "project": "test",
    }

    def text(builder, name):
        out = folder / "out" / builder
        trees = folder / "trees" / builder
        with docutils_namespace():
            app = Sphinx(str(folder), None, str(out), str(trees), builder, settings, None, warningiserror=True)
            app.build()
        return (out / name).read_text()

    return text


def test_a_table_with_columns_of_numbers_has_them_to_the_right_in_latex(build):
    tex = build("latex", "test.tex")
    assert re.findall(r"\\begin\{tabulary\}\{\\linewidth\}\[t\]\{(\w+)\}", tex) == ["TRR", "TT"]


def test_latex_lists_the_references_where_they_stand_without_numbers_and_links_lead_there(build):
    tex = build("latex", "test.tex")
    assert "thebibliography" not in tex
    link = re.search(r"\\hyperlink\{(cite\.[^}]+)\}", tex)[1]
    places = [tex.index(text) for text in (r"\hyperlink", rf"\hypertarget{{{link}}}", "Any Someone.", "After them")]
    assert places == sorted(places)


def test_an_address_in_the_references_is_printed_and_not_in_a_footnote(build):
    tex = build("latex", "test.tex")
    assert r"\sphinxurl{https://doi.org/10.1000/1}" in tex
    assert r"\begin{footnote}" not in tex


def test_pages_list_the_references_without_numbers_and_links_lead_there(build):
    page = build("html", "other.html")
    name = re.search(r'<ul class="bibliography[^>]*>\s*<li id="(\w+)"><p>Any Someone\.', page)[1]
    assert 'role="doc-biblioentry"' not in page
    assert f'href="other.html#{name}"' in build("html", "index.html")
