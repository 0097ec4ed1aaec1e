r"""A Sphinx extension: the definitions, theorems and proofs of sphinx-proof, as the report sets them.

sphinx-proof writes numbers of its own into the LaTeX. They come from Sphinx's count of chapters, which includes the
report's introduction, so every theorem would have one number on the pages and another in the report. Here LaTeX counts,
as it does for figures and equations. And a proof is set as text; sphinx-proof puts it below an empty title bar.

The LaTeX side is two environments in the preamble of ``_config.yml``: ``booktheorem``, which takes the kind, the label
and the title, and ``bookproof``.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.latex import LaTeXTranslator
from sphinx_proof.domain import ProofDomain
from sphinx_proof.nodes import NODE_TYPES, proof_node


class BookProofDomain(ProofDomain):
    """References to theorems, which LaTeX resolves in the report."""

    def resolve_xref(self, env, fromdocname, builder, typ, target, node, contnode) -> nodes.Node | None:
        """Return the reference; in LaTeX with the number that LaTeX gives the target."""
        if builder.format == "latex" and target in env.proof_list:
            kind = env.proof_list[target]["realtype"].title()
            return nodes.raw("", rf"\hyperref[{target}]{{{kind}~\ref*{{{target}}}}}", format="latex")
        return super().resolve_xref(env, fromdocname, builder, typ, target, node, contnode)


def _visit_theorem(self: LaTeXTranslator, node: nodes.Element) -> None:
    # The title follows in braces, as the third argument.
    self.body.append(f"\n\\begin{{booktheorem}}{{{node['realtype'].title()}}}{{{node['label']}}}")


def _depart_theorem(self: LaTeXTranslator, node: nodes.Element) -> None:
    self.body.append("\\end{booktheorem}\n")


def _visit_proof(self: LaTeXTranslator, node: nodes.Element) -> None:
    self.body.append("\n\\begin{bookproof}\n")
    for child in node[0].children:  # without the admonition around them
        child.walkabout(self)
    self.body.append("\\end{bookproof}\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Take the place of sphinx-proof's LaTeX."""
    app.setup_extension("sphinx_proof")
    app.add_domain(BookProofDomain, override=True)
    for theorem_node in NODE_TYPES.values():
        app.add_node(theorem_node, override=True, latex=(_visit_theorem, _depart_theorem))
    app.add_node(proof_node, override=True, latex=(_visit_proof, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
