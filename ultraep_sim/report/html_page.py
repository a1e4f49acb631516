"""One HTML file that needs nothing beside it: data, our scripts and the charting library.

A content security policy lets only the scripts that are in the file run, by their digests, and
forbids every connection: the page cannot load or send anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

# Order matters: later files use what earlier ones define.
SCRIPTS = ("decode", "levels", "colour", "paint", "charts", "record", "app")
_PACKAGE = "ultraep_sim.report"


def assemble(
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
    parts: Mapping[str, str],
    *,
    page: str = "page.html",
    scripts: Sequence[str] = SCRIPTS,
    styles: Sequence[str] = ("style",),
) -> str:
    """Put the page together.

    Parameters
    ----------
    manifest : mapping
        What the scripts read first; plain JSON values.
    texts : mapping of str to str
        Base64 by element id.
    parts : mapping of str to str
        HTML for the places ``{{name}}`` of the page, escaped by the caller.
    page : str
        File of ``viewer/`` that has the places.
    scripts, styles : sequence of str
        Files of ``viewer/``, without their suffix, in order.

    Returns
    -------
    str
    """
    library = _read("vendor/uplot/uPlot.iife.min.js")
    code = [library, "\n".join(_read(f"viewer/{name}.js") for name in scripts)]
    data = [_data("manifest", "application/json", _json(manifest))]
    data += [_data(name, "text/plain", text) for name, text in texts.items()]
    filled = {
        "style": "<style>\n{}\n{}</style>".format(
            _read("vendor/uplot/uPlot.min.css"),
            "\n".join(_read(f"viewer/{name}.css") for name in styles),
        ),
        "policy": html.escape(_policy(code)),
        "licence": html.escape(_read("vendor/uplot/LICENSE")),
        "data": "\n".join(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in code),
        **parts,
    }
    # One pass, so that text of a trace which looks like a place is left alone.
    pieces = _read(f"viewer/{page}").split("{{")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        out += [filled[name.strip()], rest]
    return "".join(out)


def table(rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    """Return the summary as an HTML table: exact numbers, readable without any script."""
    body = []
    for row in rows:
        label = html.escape(str(row["contender"]))
        square = f'<rect width="12" height="12" fill="{colours[row["contender"]]}"/>'
        swatch = f'<svg width="12" height="12" aria-hidden="true">{square}</svg>'
        cells = "".join(f"<td>{row[key]:.3f}</td>" for key in ("mean", "median", "p99", "max"))
        body.append(f'<tr><th scope="row">{swatch} {label}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "mean", "median", "p99", "max"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def items(texts: Sequence[str]) -> str:
    """Return a list of sentences."""
    return "".join(f"<li>{html.escape(text)}</li>" for text in texts)


def _policy(scripts: Sequence[str]) -> str:
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:"


def _data(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{html.escape(name)}">{text}</script>'


def _json(value: Any) -> str:
    # "<" could begin "</script>" or a comment: a text in the data must not end its element.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _read(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")
