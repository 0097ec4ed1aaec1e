"""Execute the chapters and render the book.

The pipeline knows chapters as files and imports nothing that they import:

=================  ================================================================================
``project``        what there is: folders, chapters, their order, needs and parameters
``profiles``       which parameters a profile (``full``, ``quick``) overrides, checked
``freshness``      the content key of a chapter: is its result still that of the sources, and if not, why
``execute``        run one chapter with papermill and store its result, or leave everything as it was
``update``         run what is stale, in order, and what it needs; what an interrupted rerun has left to do
``progress``       progress bars in the terminal
``stage``          the pages as Jupyter Book gets them: sources with their results, and where these come from
``run_times``      the tables of run times and environment
``render``         build HTML and PDF from the staged pages
``mends``          a Sphinx extension: what Sphinx and its theme leave to be mended
``notebooks``      the executed notebooks as readers download and launch them
``figures_of_readme``       the figures that the README shows, taken from the results
``latex``          is LaTeX here, and how to get it
``browser``        is Chromium here, and how to get it
``apt``            installs Debian's packages for both
=================  ================================================================================
"""
