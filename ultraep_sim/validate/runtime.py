"""Measured on GPUs beside predicted: the held-out cases of ``hw_runtime`` bench files.

Each file is one machine. The laws are those of `calibrate.bench`, bounded by the datasheet of the
GPU where it is one of ours; a profile holds the same, fitted to more rows. A law is fitted to two
thirds of its rows and predicts the others (a hash of what was timed picks them); besides, the
grouped product that balanced rows fitted predicts what it never saw:

- ``gemm_DTYPE, skewed``: the same product under skewed loads, instance by instance;
- ``block``: the busiest rank of an MoE block, its mains one call and its slots another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..calibrate.bench.document import Document, read_document
from ..calibrate.bench.fits import gemm_columns, jobs, product_rows
from ..calibrate.bench.profile import gpu_of
from ..calibrate.fit import FitResult, Floats, is_held_out
from ..errors import CalibrationError, InputError
from .rows import Row, make_row

NONE_YET = "no measurement committed yet"
#: One row in so many is held out.
HELD_OUT = 3
_FAMILY = "hw_runtime.bench/"
_PRODUCT = "gemm_"

Fits = Mapping[str, FitResult]


def committed() -> Path:
    """Return where measurements are committed: beside the checkout's ``hw_runtime``."""
    return Path(__file__).parents[2] / "hw_runtime" / "measurements"


def run(folder: str | Path | None = None) -> tuple[list[Row], list[str]]:
    """Predict the held-out rows of every bench file of a folder.

    Parameters
    ----------
    folder : path, optional
        By default where measurements are committed.

    Returns
    -------
    rows : list of dict
        ``table`` is ``runtime``, ``case`` is ``FILE/LAW/WHAT WAS TIMED``, ``metric`` is
        ``time_us``.
    gaps : list of str
        What could not be judged, and why.

    Raises
    ------
    InputError
        A given folder does not exist, or a file is no bench document.
    """
    where = committed() if folder is None else Path(folder)
    if folder is not None and not where.is_dir():
        raise InputError(
            "no such folder", file=where, place="--measurements",
            remedy="give a folder with files of `python -m hw_runtime bench --out`",
        )  # fmt: skip
    rows: list[Row] = []
    gaps: list[str] = []
    for path in sorted(where.glob("*.json")) if where.is_dir() else []:
        if _is_bench(path):
            found, missing = judge(read_document(path), path.stem)
            rows += found
            gaps += missing
    return rows, gaps if rows or gaps else [NONE_YET]


def _is_bench(path: Path) -> bool:
    """Whether a file is a bench document, of any version; logs of checks lie beside them."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return True  # reading it will say what is wrong
    return isinstance(document, dict) and str(document.get("schema", "")).startswith(_FAMILY)


def judge(document: Document, name: str) -> tuple[list[Row], list[str]]:
    """Fit and predict the rows of one document, see the module."""
    rows: list[Row] = []
    gaps: list[str] = []
    fits: dict[str, FitResult] = {}
    told = f"measured on {document.title}; held out"
    for law_name, job in jobs(document, gpu_of(document)):
        if law_name == "block_rank":
            continue  # predicted from the products, below
        try:
            found = fits[law_name] = job.fit(HELD_OUT)
        except CalibrationError as error:
            gaps.append(f"{name}: {law_name}: {error}")
            continue
        held = job.rows.take(is_held_out(job.rows.keys, HELD_OUT))
        cases = [f"{name}/{law_name}/{key}" for key in held.keys]
        rows += _rows(cases, held.seconds, found.predict(held.columns), told)
    rows += _skewed(document, fits, name, told)
    rows += _blocks(document, fits, name, told, gaps)
    return rows, gaps


def _rows(cases: Sequence[str], measured: Floats, predicted: Floats, told: str) -> Iterator[Row]:
    for case, value, said in zip(cases, measured * 1e6, predicted * 1e6, strict=True):
        yield make_row(
            "runtime", case, "time_us", float(value), float(said), fitted=False, provenance=told
        )


def _skewed(document: Document, fits: Fits, name: str, told: str) -> Iterator[Row]:
    """Predict products of skewed loads by the law that balanced ones fitted."""
    for law_name in [one for one in fits if one.startswith(_PRODUCT)]:
        dtype = law_name.removeprefix(_PRODUCT)
        rows = document.of("gemm", distribution="skewed", dtype=dtype)
        if not rows:
            continue
        timed = product_rows(document, rows, dtype)
        predicted = fits[law_name].predict(timed.columns)
        cases = [f"{name}/{law_name}, skewed/{key}" for key in timed.keys]
        yield from _rows(cases, timed.seconds, predicted, told)


def _blocks(document: Document, fits: Fits, name: str, told: str, gaps: list[str]) -> Iterator[Row]:
    for row in document.of("block"):
        found = fits.get(f"{_PRODUCT}{row.get('dtype')}")
        if found is None:
            gaps.append(f"{name}: block, {row.get('policy')}: no products of its format are fitted")
            continue
        timed = document.timed([row], "hidden", "ffn")
        calls = document.calls(row)  # one for the mains of a rank, and one for its slots
        hidden, ffn = (timed.columns[k].repeat(len(calls[0])) for k in ("hidden", "ffn"))
        each = [found.predict(gemm_columns(hidden, ffn, one, row["dtype"])) for one in calls]
        predicted = np.sum(each, axis=0).max(keepdims=True)
        case = f"{name}/block/{row.get('policy')}/{row.get('ranks')} ranks/busiest"
        yield from _rows([case], timed.seconds, predicted, told)
