"""The executable book: its chapters, the experiments they share, and the pipeline that builds it."""
