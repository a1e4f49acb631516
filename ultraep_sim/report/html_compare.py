"""One HTML page that sets two sweeps side by side."""

from __future__ import annotations

import html
from typing import Any

from .html_page import assemble, items
from .html_sweep import MAX_ROWS, STYLES, looks, rows_of
from .sweep_compare import Comparison

SCRIPTS = ("tools", "compare_app")


def comparison_page(found: Comparison) -> str:
    """Return the page of a comparison; names in it may be anything, all text is escaped here."""
    first, second = found.names
    said = []
    if len(found.changes) > MAX_ROWS:
        said.append(
            f"The table shows the largest {MAX_ROWS:,} of {len(found.changes):,} changes; all are "
            "in compare.csv and compare.json."
        )
    parts = {
        "title": html.escape(f"{first} against {second}"),
        "first": html.escape(first),
        "second": html.escape(second),
        "finding": html.escape(found.texts()[0]),
        "findings": items(found.texts()[1:]),
        "notes": items(said),
    }
    manifest: dict[str, Any] = {
        "names": list(found.names),
        "metrics": [{"name": name, "better": better} for name, better in found.metrics.items()],
        "policies": looks(found.policies),
        "axes": list(found.axes),
        "changes": rows_of(found.changes),
        "winners": rows_of(found.winners),
        "only": [rows_of(found.only_first), rows_of(found.only_second)],
    }
    return assemble(manifest, {}, parts, page="compare.html", scripts=SCRIPTS, styles=STYLES)
