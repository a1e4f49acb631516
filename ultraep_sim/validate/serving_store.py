"""What the stored searches of serving rest on, so that they are never stale in silence.

A search takes minutes, so `simulated_serving.csv` holds what was found, and `stored_serving.json`
with which code (a digest of every source file that decides it) and from which published cells.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..engine.digests import sources_digest
from .serving_cases import cases
from .tables import Cell, Tables, row_name

VERSION = Path(__file__).with_name("stored_serving.json")

_PACKAGES = (
    "compute", "engine", "fabric", "model", "planning", "policies", "scenario", "serving", "trace",
)  # fmt: skip
_HERE = ("serving.py", "serving_cases.py", "serving_fit.py")


@cache
def code_digest() -> str:
    """Return a digest of the sources that decide a search.

    Unlike `engine.digests.code_digest` it holds the cases and the fit, which lie here, and no
    versions of packages: what was stored is committed, and read under many of them.
    """
    root = Path(__file__).resolve().parents[1]
    files = [path for name in _PACKAGES for path in (root / name).rglob("*.py")]
    files += [root / "validate" / name for name in _HERE]
    return sources_digest(path.relative_to(root) for path in files)


def cells_of(inputs: Tables) -> dict[Cell, str]:
    """Return the published cells a fit of the serving runs reads, and what stands in them."""
    fresh = Tables(inputs.rows).inputs()
    cases(fresh)
    values = {(row_name("serving", row)): row for row in inputs["serving"]}
    return {cell: dict.__getitem__(values[cell[1]], cell[2]) for cell in sorted(fresh.read)}


def write_version(inputs: Tables, path: Path = VERSION) -> None:
    """Note what a search that was just stored rests on."""
    body = {
        "code": code_digest(),
        "cells": [[*cell, value] for cell, value in cells_of(inputs).items()],
    }
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def stored_version(path: Path = VERSION) -> dict[str, Any]:
    """Return ``code`` (digest) and ``cells`` (value by cell) of what is stored."""
    body = json.loads(path.read_text(encoding="utf-8"))
    return {"code": body["code"], "cells": {tuple(cell[:3]): cell[3] for cell in body["cells"]}}


def staleness(inputs: Tables) -> list[str]:
    """Say what has changed since the stored search; empty where nothing has."""
    kept = stored_version()
    told = []
    if kept["code"] != code_digest():
        told.append("the code has changed since")
    now = cells_of(inputs)
    changed = [cell for cell, text in kept["cells"].items() if now.get(cell) != text]
    added = [cell for cell in now if cell not in kept["cells"]]
    if changed:
        told.append(f"{len(changed)} published cells it was fitted to have changed")
    if added:
        told.append(f"{len(added)} cells were published since that a fit would use")
    return told
