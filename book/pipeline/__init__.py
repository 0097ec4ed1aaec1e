"""Execute the chapters and render the book.

The pipeline knows chapters as files. Of the modules that they import, it imports ``book.sources``, ``book.files`` and
what a parameter may be, ``book.constraints`` and ``book.expressions``, and no other:

=================  ================================================================================
``errors``         the errors that are shown without a traceback, and what their messages are made of
``git``            what git says of the project, whatever the user's shell says to git
``project``        what there is: folders, chapters, their order, needs and parameters
``build``          the project in one profile, with the folders that belong to it
``parameters``     what a profile (``full``, ``quick``) or a command line overrides, checked
``tables``         the constraints in a chapter's front matter: can they be understood
``content_key``    is a chapter's result still that of the sources, and if not, why
``kernel``         the process that a chapter runs in: its clean environment, and its certain end
``cost``           time and memory of a process and of everything that it starts, and their sums
``execute``        run one chapter with papermill and store its result, or leave everything as it was
``results``        store, read and check results: an executed notebook with the files for others
``plan``           run what is stale, in order; what an interrupted rerun has left to do
``progress_bars``  progress in the terminal
``restamp``        give results the current key where a refactoring leaves every output as it was
``provenance``     what a run was: the box of a page, and the tables of run times and environment
``publish``        the executed notebooks as readers download and launch them; the README's figures
``pages``          the pages as Jupyter Book gets them: sources with their results
``excerpts``       what the report shows of other chapters: figures, and outputs of a section
``configuration``  the book's configuration as Jupyter Book gets it
``render``         build HTML and PDF from the pages
``submission``     the archive to hand in
``programs``       LaTeX and Chromium: are they here, and how to get them
=================  ================================================================================
"""
