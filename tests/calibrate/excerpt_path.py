"""The committed excerpt of the public kernel tables."""

from pathlib import Path

EXCERPT = Path(__file__).parent / "excerpt"
