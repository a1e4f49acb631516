"""Fit, search and write what docs/serving.md shows (a quarter of an hour on two cores).

``--verify`` serves at every stored rate instead (a minute): if all of them still meet the line
with the stored imbalance, the rows are marked as of this code. That shows that steps, plans and
times are what they were; it does not search. ``--pages`` writes the blocks anew from what is
stored.
`tests/validate/test_serving_page.py` fails where the page says anything else than what is stored,
and searches a small part of it again.
"""

from __future__ import annotations

import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ultraep_sim.report.pages import replaced
from ultraep_sim.scenario import load_scenario
from ultraep_sim.serving.capacity import find_capacity, measure
from ultraep_sim.serving.setup import make_setup
from ultraep_sim.validate import serving, serving_fit, serving_store
from ultraep_sim.validate.serving_cases import Case, Lengths, cases
from ultraep_sim.validate.serving_fit import VARIANTS, Fitted
from ultraep_sim.validate.serving_lengths import SETTINGS, lengths_row
from ultraep_sim.validate.show import ERROR, ORDERS, SERVING, Column, markdown
from ultraep_sim.validate.tables import load_tables

Rows = list[dict[str, Any]]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "serving.md"
SPARSE = ROOT / "docs" / "serving_sparse.csv"
LENGTHS = ROOT / "docs" / "serving_lengths.csv"
SPARSE_SCENARIO = ROOT / "scenarios" / "serving-sparse-attention.yaml"

#: Stored numbers have four decimals.
SAME_IMBALANCE = 5e-4

LENGTH_COLUMNS = (
    Column("workload", "workload"),
    Column("sigma", "sigma", "{:.1f}"),
    Column("longest", "longest", "{:.0f}"),
    Column("router", "router"),
    Column("mean_tokens", "mean prompt, fitted", "{:.0f}"),
    Column("share", "s", "{:.3f}"),
    Column("published_relative", "none over ideal, published", "{:.3f}"),
    Column("relative", "simulated", "{:.3f}"),
    Column("relative_error", "error", ERROR),
)

SPARSE_COLUMNS = (
    Column("attention", "attention"),
    Column("policy", "policy"),
    Column("rate_per_s", "requests/s", "{:.2f}"),
    Column("relative", "over ideal", "{:.3f}"),
    Column("gain", "over none", "{:.2f}"),
)


def _told(what: str, done: int, total: int) -> None:
    print(what, done, "of", total, flush=True)


def search(item: tuple[Case, Any, Fitted]) -> Rows:
    """Search the rates of one run."""
    case, variant, one = item
    rows = serving.simulate(case, variant, one, ideal_rate=serving_fit.start_rate(case))
    print("searched", case.model, case.workload, variant.name, flush=True)
    return rows


def length_row(item: tuple[Case, Lengths]) -> dict[str, Any]:
    """Search one row of the lengths' table."""
    row = lengths_row(*item)
    print(row, flush=True)
    return row


def still_so(item: tuple[Case, Any, Fitted, dict[str, Any]]) -> str | None:
    """Serve at a stored rate; say what is no longer so."""
    case, variant, one, row = item
    policy, rate = row["policy"], row["rate_per_s"]
    setup = make_setup(serving.setting(case, variant, one, policy, rate))
    at = measure(setup, policy, rate)
    name = f"{case.model}/{case.workload}/{variant.name}/{policy}"
    print("served", name, at, flush=True)
    if not at.meets:
        return f"{name}: {rate} does not meet the line any more"
    if abs(at.mean_rank_imbalance / row["imbalance"] - 1) > SAME_IMBALANCE:
        return f"{name}: imbalance {at.mean_rank_imbalance}, stored {row['imbalance']}"
    return None


def verify() -> None:
    """Mark what is stored as of this code where this code still finds it."""
    inputs = load_tables().inputs()
    variants = {variant.name: variant for variant in VARIANTS}
    known = {(case.model, case.workload): case for case in cases(inputs)}
    fits = serving_fit.stored()
    items = [
        (known[key[:2]], variants[key[2]], fits[key], row)
        for row in serving.simulated()
        if row["rate_per_s"] is not None
        for key in [(row["model"], row["workload"], row["variant"])]
    ]
    with ProcessPoolExecutor(2) as pool:
        changed = [text for text in pool.map(still_so, items) if text]
    if changed:
        sys.exit("\n".join(changed) + "\nsearch anew: python docs/refresh_serving.py")
    serving_store.write_version(inputs)
    print(f"{len(items)} stored runs are what this code gives")


def sparse_rows(name: str) -> Rows:
    """Search what long prompts take under one kind of attention."""
    change = ["serving.sparse=null"] if name == "dense" else []
    scenario = load_scenario(SPARSE_SCENARIO, change)
    found = {
        one.policy: one.rate_per_s for one in find_capacity(scenario, seeds=[0, 1], tolerance=0.01)
    }
    print(name, found, flush=True)
    return [
        {
            "attention": name,
            "policy": policy,
            "rate_per_s": rate,
            "relative": rate / found["ideal"],
            "gain": rate / found["none"],
        }
        for policy, rate in found.items()
    ]


def write(path: Path, rows: Rows) -> None:
    """Store rows, numbers with four decimals."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(f"{v:.4f}" if isinstance(v, float) else v for v in row.values())


def stored(path: Path) -> Rows:
    """Return rows of a file that `write` wrote."""
    text = ("attention", "policy", "workload", "router")
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {k: v if k in text else (float(v) if v else None) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def fitted_block() -> str:
    """Tell what was fitted."""
    columns = (
        Column("model", "model"),
        Column("workload", "workload"),
        Column("variant", "variant"),
        Column("mean", "mean prompt [tokens]", "{:.0f}"),
        Column("imbalance", "imbalance of the mix", "{:.2f}"),
        Column("lasting", "burst [s]", "{:.1f}"),
    )
    rows = [
        {
            "model": key[0],
            "workload": key[1],
            "variant": key[2],
            "mean": one.mean_tokens,
            "imbalance": one.imbalance,
            "lasting": one.lasting_s,
        }
        for key, one in serving_fit.stored().items()
    ]
    return markdown(rows, columns)


def accuracy_block() -> str:
    """Tell every row, and the order of the policies."""
    found = serving.run()
    ideal = ", ".join(
        f"{row['model']} {row['workload']} ({row['variant']}) {row['share']:.3f}, "
        f"{row['attention_share']:.3f} and {row['step_ms']:.0f} ms"
        for row in found["rows"]
        if row["policy"] == "ideal" and row["rate_per_s"] is not None
    )
    shares = (
        "Share of expert GEMM and all-to-all in the steps of `ideal` (s of the plain law), of "
        f"attention, and length of a step: {ideal}."
    )
    return "\n\n".join(
        (markdown(found["rows"], SERVING), shares, markdown(found["orders"], ORDERS))
    )


def sparse_block() -> str:
    """Tell what balancing is worth under both kinds of attention."""
    return markdown(stored(SPARSE), SPARSE_COLUMNS)


def lengths_block() -> str:
    """Tell what other prompt lengths and another router would do."""
    return markdown(stored(LENGTHS), LENGTH_COLUMNS)


def recompute() -> None:
    """Fit and search everything, on two cores; what comes out does not depend on how many."""
    inputs = load_tables().inputs()
    serving_fit.store(serving_fit.fit_all(cases(inputs), progress=_told))
    variants = {variant.name: variant for variant in VARIANTS}
    known = {(case.model, case.workload): case for case in cases(inputs)}
    # As stored, so that a search from the file finds the same.
    runs = [(known[k[:2]], variants[k[2]], one) for k, one in serving_fit.stored().items()]
    published = [case for case in cases() if case.rate("none") is not None]
    with ProcessPoolExecutor(2) as pool:
        serving.store([row for rows in pool.map(search, runs) for row in rows])
        serving_store.write_version(inputs)
        kinds = pool.map(sparse_rows, ("dense", "sparse"))
        write(SPARSE, [row for rows in kinds for row in rows])
        pairs = [(case, lengths) for case in published for lengths in SETTINGS]
        write(LENGTHS, list(pool.map(length_row, pairs)))


def main() -> None:
    """Write the page, and before it what it shows unless only the page is wanted."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("fitted", "accuracy", "lengths", "sparse"):
        replaced(text, name, "")  # half an hour of searching must not end without its markers
    if "--verify" in sys.argv[1:]:
        verify()
    elif "--pages" not in sys.argv[1:]:
        recompute()
    blocks = {
        "fitted": fitted_block(),
        "accuracy": accuracy_block(),
        "lengths": lengths_block(),
        "sparse": sparse_block(),
    }
    for name, new in blocks.items():
        text = replaced(text, name, new)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
