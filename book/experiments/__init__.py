"""What the chapters share and the tests cover."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The project's folder, which a chapter runs in."""
