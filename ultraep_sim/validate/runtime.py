"""Measured on GPUs beside predicted: the held-out cases of ``hw_runtime`` bench files.

Each file is one machine. For every kind of row that the time model has a law for, the law is fitted
to a part of the rows, and the others are predicted:

- ``gemm``: ``t0 + max(weight bytes / memory rate, FLOPs / P)``, by dtype and shape. Fitted on every
  other balanced row (on all, where those are fewer than three); held out are the other balanced
  rows and all skewed ones.
- ``block``: the busiest rank by the law of its shape and dtype, or of its dtype where its shape was
  not measured; nothing of it is fitted.
- ``stream``, ``reduction``: ``t0 + bytes / rate``, by path and transport or by path, dtype and SMs;
  fitted on every other row in the order of their bytes.

Planner, histogram and reroute rows have no law: their price is a constant of the policy. A group
with fewer than three rows to fit on is left out, and `run` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ..errors import InputError
from .rows import Row, make_row

SCHEMA = "hw_runtime.bench/1"
NONE_YET = "no measurement committed yet"
_LEAST = 3
_WIDTH = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1}

Law = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_WEIGHTS = 3  # matrices of an expert: gate, up, down


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
        ``table`` is ``runtime``, ``case`` is ``FILE/KIND/...``, ``metric`` is ``time_us``.
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
    files = sorted(where.glob("*.json")) if where.is_dir() else []
    rows: list[Row] = []
    gaps = [] if files else [NONE_YET]
    for path in files:
        document = _load(path)
        if document is None:
            continue
        try:
            found, missing = judge(document, path.stem)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "a row is not as the schema says", file=path, place="rows", value=str(error),
                remedy="measure again with the version of hw_runtime that is here",
            ) from error  # fmt: skip
        rows += found
        gaps += missing
    return rows, gaps or ([] if rows else [NONE_YET])


def _load(path: Path) -> dict[str, Any] | None:
    """Read a bench document; None for JSON of another kind (a log of checks)."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read: {error}", file=path, remedy="give a file written by `bench --out`"
        ) from error
    if not isinstance(document, dict) or not str(document.get("schema", "")).startswith(
        "hw_runtime.bench/"
    ):
        return None
    if document["schema"] != SCHEMA:
        raise InputError(
            "another schema", file=path, place="schema", value=document["schema"],
            remedy=f"this version reads {SCHEMA}; measure again",
        )  # fmt: skip
    return document


def judge(document: dict[str, Any], name: str) -> tuple[list[Row], list[str]]:
    """Fit and predict the rows of one document, see the module."""
    machine = document["machine"]["device"]
    told = f"measured on {machine}, {document['fabric']} fabric, {document['date']}"
    rows: list[Row] = []
    gaps: list[str] = []
    laws: dict[tuple[str, int, int], Law] = {}
    for key, group in _groups(document["rows"], "gemm", ("dtype", "hidden", "ffn")).items():
        balanced = sorted(
            (row for row in group if row["distribution"] == "balanced"), key=_gemm_order
        )
        fit_on = balanced[::2] if len(balanced[::2]) >= _LEAST else balanced
        if len(fit_on) < _LEAST:
            gaps.append(f"{name}: gemm {key}: {len(fit_on)} rows to fit on, {_LEAST} are needed")
            continue
        law = _fit_roof(_gemm_features(fit_on), _times(fit_on))
        laws[key] = law
        held = [row for row in group if not any(row is one for one in fit_on)]
        cases = [_gemm_case(row) for row in held]
        rows += _predicted(name, "gemm", cases, held, law(_gemm_features(held)), told)
    rows += _blocks(document["rows"], laws, name, told, gaps)
    for kind, size, fields in (
        ("stream", "stored_bytes", ("path", "transport")),
        ("reduction", "moved_bytes", ("path", "dtype", "sms")),
    ):
        for key, group in _groups(document["rows"], kind, fields).items():
            group = sorted(group, key=lambda row: (_moved(row, size), row["time"]["median_us"]))
            fit_on, held = group[::2], group[1::2]
            if len(fit_on) < _LEAST:
                gaps.append(f"{name}: {kind} {key}: too few rows to fit on")
                continue
            law = _fit_line(_bytes(fit_on, size), _times(fit_on))
            cases = ["/".join(str(part) for part in (*key, _moved(row, size))) for row in held]
            rows += _predicted(name, kind, cases, held, law(_bytes(held, size)), told)
    return rows, gaps


def _groups(
    rows: Sequence[dict[str, Any]], kind: str, fields: Sequence[str]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind:
            found.setdefault(tuple(row[field] for field in fields), []).append(row)
    return found


def _predicted(
    name: str,
    kind: str,
    cases: Sequence[str],
    held: Sequence[dict[str, Any]],
    predicted: NDArray[np.float64],
    told: str,
) -> Iterator[Row]:
    for case, row, value in zip(cases, held, predicted.tolist(), strict=True):
        yield make_row(
            "runtime", f"{name}/{kind}/{case}", "time_us", row["time"]["median_us"], value,
            fitted=False, provenance=f"{told}; held out",
        )  # fmt: skip


def _blocks(
    rows: Sequence[dict[str, Any]],
    laws: dict[tuple[str, int, int], Law],
    name: str,
    told: str,
    gaps: list[str],
) -> Iterator[Row]:
    for row in (row for row in rows if row["kind"] == "block"):
        law = laws.get((row["dtype"], row["hidden"], row["ffn"]))
        if law is None:
            gaps.append(f"{name}: block {row['policy']}: no gemm law for its shape and dtype")
            continue
        busiest = max(row["rank_pairs"])
        slots = row["slots"] if row["balanced"] else 0
        weights = (row["experts"] // row["ranks"] + slots) * _expert(row)
        features = np.array([[weights * _WIDTH[row["dtype"]], 2.0 * busiest * _expert(row)]])
        case = f"{row['policy']}/{row['ranks']} ranks/imbalance {row['imbalance']:.2f}"
        yield from _predicted(name, "block", [case], [row], law(features), told)


def _expert(row: dict[str, Any]) -> float:
    return float(_WEIGHTS * row["hidden"] * row["ffn"])


def _gemm_features(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Weight bytes and FLOPs of each row, [rows, 2]."""
    return np.array(
        [
            (
                row["experts"] * _expert(row) * _WIDTH[row["dtype"]],
                2.0 * row["experts"] * row["tokens_per_expert"] * _expert(row),
            )
            for row in rows
        ]
    ).reshape(-1, 2)


def _gemm_order(row: dict[str, Any]) -> tuple[float, ...]:
    return (row["experts"], row["tokens_per_expert"])


def _gemm_case(row: dict[str, Any]) -> str:
    shape = f"{row['hidden']}x{row['ffn']}"
    size = f"{row['experts']} experts/{row['tokens_per_expert']:g} tokens"
    return f"{row['dtype']}/{shape}/{size}/{row['distribution']}"


def _times(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([row["time"]["median_us"] for row in rows], float)


def _moved(row: dict[str, Any], size: str) -> int:
    """Bytes that bind: on memory loads and stores, over a link stores alone."""
    return int(row[size] + (row.get("loaded_bytes", 0) if row["path"] == "hbm" else 0))


def _bytes(rows: Sequence[dict[str, Any]], size: str) -> NDArray[np.float64]:
    return np.array([_moved(row, size) for row in rows], float)


def _fit_roof(features: NDArray[np.float64], times: NDArray[np.float64]) -> Law:
    """Fit ``t0 + max(a x, b y)`` by relative error; logarithms keep all three positive."""

    def law(logs: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
        start, a, b = np.exp(logs)
        return np.asarray(start + np.maximum(a * of[:, 0], b * of[:, 1]))

    # Begin where the smallest row is all floor, and the largest all of either roof.
    begin = np.log([times.min() / 2, times.max() / features[:, 0].max() / 4,
                    times.max() / features[:, 1].max()])  # fmt: skip
    found = least_squares(lambda x: np.log(law(x, features) / times), begin, loss="soft_l1").x
    return lambda of: law(found, of)


def _fit_line(sizes: NDArray[np.float64], times: NDArray[np.float64]) -> Law:
    """Fit ``t0 + bytes / rate`` by relative error, both positive."""

    def law(logs: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
        start, rate = np.exp(logs)
        return np.asarray(start + rate * of)

    begin = np.log([times.min() / 2, times.max() / sizes.max()])
    found = least_squares(lambda x: np.log(law(x, sizes) / times), begin, loss="soft_l1").x
    return lambda of: law(found, of)
