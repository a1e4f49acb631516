"""Published prefill serving beside ours: imbalance, and request rate at the line, by policy.

Fitted are a mean prompt length a workload and the load dynamics, by
`ultraep_sim.validate.serving_fit`; the other imbalances and all relative rates are predicted.
Searching rates takes many minutes, so `simulate` is run by docs/refresh_serving.py, which stores
what it finds; `run` reads that. Beside stands the plain law, ``1 / (1 + s (I - 1))``, with s the
share of expert GEMM and all-to-all in the steps of ``ideal`` and I the published imbalance. It
knows no queue, no history and no price.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..serving.capacity import find_capacity
from ..serving.metrics import summarise
from ..serving.setup import make_setup
from .serving_cases import POLICIES, Case, Lengths, Variant, cases
from .serving_fit import SEARCHED, VARIANTS, Fitted, first_rate, serve, setting

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]

SIMULATED = Path(__file__).with_name("simulated_serving.csv")
COLUMNS = (
    "model", "workload", "variant", "policy", "imbalance", "rate_per_s", "share", "attention_share",
    "step_ms",
)  # fmt: skip
TOLERANCE = 0.02


def simulate(
    case: Case,
    variant: Variant,
    found: Fitted,
    policies: Sequence[str] = POLICIES,
    *,
    ideal_rate: float | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Find the imbalance, and in `SEARCHED` variants the rate at the line, of every policy.

    Parameters
    ----------
    case, variant, found : Case, Variant, Fitted
    policies : sequence of str
        ``ideal`` is taken whether it is named or not.
    ideal_rate : float, optional
        Where the search of ``ideal`` begins; its published rate by default.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    list of dict
        With the keys `COLUMNS`.
    """
    start = ideal_rate or case.rate("ideal")
    if start is None:
        raise ValueError("a search needs a rate to begin with")
    searched = variant in SEARCHED
    order = ("ideal", *(name for name in policies if name != "ideal"))
    shares: Row = {}
    rows = []
    for done, policy in enumerate(order):
        guess = first_rate(case, policy, start)
        rate, imbalance = None, None
        if searched:
            scenario = setting(case, variant, found, policy, guess)
            (best,) = find_capacity(scenario, seeds=[0], tolerance=TOLERANCE)
            rate, imbalance = best.rate_per_s, best.mean_rank_imbalance
        if policy == "ideal":
            start = rate or start
            shares = shares_of(case, variant, found, start)
        if imbalance is None:
            imbalance = serve(case, variant, found, policy, guess).mean_rank_imbalance
        rows.append(
            {
                "model": case.model, "workload": case.workload, "variant": variant.name,
                "policy": policy, "imbalance": imbalance, "rate_per_s": rate,
                **(shares if policy == "ideal" else {}),
            }
        )  # fmt: skip
        if progress is not None:
            progress(f"{case.model} {case.workload}, {variant.name}", done + 1, len(order))
    return rows


def shares_of(
    case: Case,
    variant: Variant,
    found: Fitted,
    rate_per_s: float,
    lengths: Lengths | None = None,
) -> Row:
    """Return what steps of ``ideal`` are spent on: all layers are alike, so one is simulated."""
    scenario = setting(case, variant, found, "ideal", rate_per_s, layers=1, lengths=lengths)
    setup = make_setup(scenario)
    (replay,) = setup.replays()
    service, model = setup.serve(replay, setup.requests)
    told = summarise("ideal", scenario, setup.requests, service, model.log)
    return {
        "share": told["share_experts"] + told["share_all_to_all"],
        "attention_share": told["share_attention"],
        "step_ms": told["step_ms"],
    }


def store(rows: Iterable[Row], path: Path = SIMULATED) -> None:
    """Write what `simulate` found where `simulated` reads it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(_written(name, row.get(name)) for name in COLUMNS)


def _written(name: str, value: Any) -> str:
    """Write four decimals, but all of a rate: a run flips where one of its digits is cut."""
    if value is None:
        return ""
    whole = name == "rate_per_s" or not isinstance(value, float)
    return str(value) if whole else f"{value:.4f}"


def simulated(path: Path = SIMULATED) -> list[Row]:
    """Return what was stored.

    Raises
    ------
    InputError
        Nothing is.
    """
    if not path.is_file():
        raise InputError(
            "no search of the published serving runs is stored yet",
            file=path.name,
            place="validate serving",
            remedy="search them with python docs/refresh_serving.py (half an hour on one core)",
        )
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {k: v if k in COLUMNS[:4] else (float(v) if v else None) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def table(rows: Sequence[Row]) -> list[Row]:
    """Put what is published beside what is simulated.

    Returns
    -------
    list of dict
        One a model, workload, variant and policy; ``error`` of a rate is simulated over published
        (both relative to ``ideal``) less one, None where nothing is published.
    """
    published = {(case.model, case.workload): case for case in cases()}
    ideals = {_key(row): row for row in rows if row["policy"] == "ideal"}
    found = []
    for row in rows:
        case = published.get((row["model"], row["workload"]))
        ideal = ideals.get(_key(row))
        if case is None or ideal is None:
            continue
        policy, given = row["policy"], case.imbalance(row["policy"])
        ours = _ratio(row["rate_per_s"], ideal["rate_per_s"])
        theirs = _ratio(case.rate(policy), case.rate("ideal"))
        law = None if given is None else 1 / (1 + ideal["share"] * (given - 1))
        found.append(
            row
            | {
                "published_imbalance": given,
                "imbalance_error": _error(row["imbalance"], given),
                "published_relative": theirs,
                "relative": ours,
                "relative_error": _error(ours, theirs),
                "law": law,
                "law_error": _error(law, theirs),
                "kind": _kind(policy, row["variant"], case),
            }
        )
    return found


def _key(row: Row) -> tuple[str, str, str]:
    return row["model"], row["workload"], row["variant"]


def _kind(policy: str, variant: str, case: Case) -> str:
    """Say what a row is worth: only ``predicted`` was neither fitted to nor looked at before."""
    if policy == "ideal":
        return "fitted" if case.rate("ideal") is not None else "predicted"
    if policy == "none" or (policy == "eplb" and variant == "fitted" and case.imbalance("eplb")):
        return "imbalance fitted"
    used = next((one for one in VARIANTS if one.name == variant), None)
    seen = used is not None and case.workload in used.chosen_on
    return "setting chosen" if seen and case.imbalance(policy) is not None else "predicted"


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or whole is None else part / whole


def _error(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours / theirs - 1


def orders(rows: Sequence[Row]) -> list[Row]:
    """Tell for every searched run whether the rates rank the policies as the published ones do.

    Returns
    -------
    list of dict
        ``order``, slowest first; ``agrees``: whether the policies that have a published rate come
        in its order, None where none has.
    """
    found = []
    for key in dict.fromkeys(_key(row) for row in rows):
        mine = [row for row in rows if _key(row) == key and row["relative"] is not None]
        if not mine:
            continue
        ranked = sorted(mine, key=lambda row: row["relative"])
        told = [row for row in ranked if row["published_relative"] is not None]
        theirs = [row["published_relative"] for row in told]
        found.append(
            {
                "model": key[0], "workload": key[1], "variant": key[2],
                "order": " < ".join(row["policy"] for row in ranked),
                "agrees": theirs == sorted(theirs) if len(told) > 1 else None,
            }
        )  # fmt: skip
    return found


def run(progress: Progress | None = None) -> dict[str, list[Row]]:
    """Compare everything published with what was simulated and stored.

    Returns
    -------
    dict of str to list of dict
        ``rows``, see `table`; ``orders``, see `orders`.
    """
    rows = table(simulated())
    if progress is not None:
        progress("reading", len(rows), len(rows))
    return {"rows": rows, "orders": orders(rows)}
