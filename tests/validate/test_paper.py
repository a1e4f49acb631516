"""The paper suite: every published cell judged, none of them known to what judges it."""

from __future__ import annotations

import csv
import json

import pytest

from ultraep_sim.validate import paper
from ultraep_sim.validate.rows import FIELDS, summarise
from ultraep_sim.validate.tables import KEYS, MEASURED, load_tables, row_name
from ultraep_sim.validate.verdict import broken, misses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    return paper.run()


def write(folder, tables):
    """Write tables as a person would keep them."""
    folder.mkdir()
    for table in KEYS:
        columns = list(dict.fromkeys(key for row in tables[table] for key in row))
        with (folder / f"{table}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(tables[table])
    return folder


def at(found, table, case, metric):
    (row,) = [
        r for r in found.rows if (r["table"], r["case"], r["metric"]) == (table, case, metric)
    ]
    return row


def simulated(found):
    return json.dumps(
        [[row["table"], row["case"], row["metric"], row["simulated"]] for row in found.rows]
        + [[row["case"], row["simulated"]] for row in found.plain]
    )


def test_every_published_cell_has_a_row_and_a_simulated_number(found):
    values = {}
    for row in found.rows:
        assert tuple(row) == FIELDS
        if row["published"] is not None:
            values.setdefault(row["table"], []).append(row["published"])
            assert row["simulated"] is not None, row
            error = row["simulated"] / row["published"] - 1
            assert row["relative_error"] == pytest.approx(error, abs=1e-12)
    for table in KEYS:
        cells = [float(r[c]) for r in load_tables()[table] for c in MEASURED[table] if r[c]]
        if table == "serving":  # rates are told over that of ideal
            assert len(values[table]) == len(cells)
        elif cells:
            assert sorted(values[table]) == sorted(cells)


@pytest.mark.parametrize(
    ("table", "case", "metric"),
    [
        ("training", "glm-4.7-358b/ultraep", "tflops_per_gpu"),
        ("training", "deepseek-v3-671b/eplb_plus", "mean_rank_imbalance"),
        ("training", "refmoe-288b/ultraep", "mean_rank_imbalance"),
        ("layer_breakdown", "deepseek-v3-671b/backward/others/lplb", "latency_ms"),
        ("layer_breakdown", "glm-4.7-358b/forward/token_all_to_all/none", "latency_ms"),
        ("layer_breakdown", "qwen3-235b/backward/moe_compute/ultraep", "latency_ms"),
        ("weight_distribution", "4.0/direct", "latency_ms"),
        ("weight_distribution", "6.0/relay", "latency_ms"),
        ("serving", "glm-4.7-358b/mixed/ultraep", "relative_rps_at_slo"),
        ("serving", "glm-4.7-358b/stem/eplb_plus", "mean_rank_imbalance"),
        ("planner", "128/64/2/initial 2.0/ultraep", "slots_used"),
        ("planner", "160/40/4/initial 8.0/eplb_plus", "final_imbalance"),
    ],
)
def test_a_setting_without_a_published_value_is_simulated(found, table, case, metric):
    row = at(found, table, case, metric)
    assert row["published"] is row["relative_error"] is None
    assert row["simulated"] > 0
    assert row["role"] == "predicted"


def test_each_row_stands_once(found):
    keys = [(row["table"], row["case"], row["metric"]) for row in found.rows]
    assert len(set(keys)) == len(keys)


def test_roles_follow_the_manifest(found):
    cells = {(line["table"], line["row"], line["column"]) for line in found.manifest}
    for row in found.rows:
        if row["table"] in ("training", "layer_breakdown") and row["role"] == "fitted":
            name = " | ".join(row["case"].split("/"))
            by_definition = "1 by definition" in row["provenance"]
            assert by_definition or (row["table"], name, row["metric"]) in cells
    assert at(found, "training", "qwen3-235b/ultraep", "tflops_per_gpu")["role"] == "predicted"
    assert at(found, "training", "qwen3-235b/eplb", "tflops_per_gpu")["role"] == "predicted"
    assert at(found, "training", "qwen3-235b/eplb", "mean_rank_imbalance")["role"] == "fitted"
    overhead = "qwen3-235b/forward/token_all_to_all"
    assert at(found, "layer_breakdown", f"{overhead}/none", "latency_ms")["role"] == "fitted"
    assert at(found, "layer_breakdown", f"{overhead}/ultraep", "latency_ms")["role"] == "predicted"


def test_taint(found, tmp_path):
    """Ten times every cell that is not declared fitted, in all tables: no simulated number moves.

    So it also tests that the same numbers come out every time.
    """
    cells = {(line["table"], line["row"], line["column"]) for line in found.manifest}
    tables, changed = load_tables(), set()
    for table in KEYS:
        for row in tables[table]:
            for column in MEASURED[table]:
                if row[column] and (table, row_name(table, row), column) not in cells:
                    row[column] = str(10 * float(row[column]))
                    changed.add(table)
    assert changed == {table for table in KEYS if MEASURED[table]}
    again = paper.run(write(tmp_path / "tables", tables))
    assert simulated(again) == simulated(found)
    assert [row["role"] for row in again.rows] == [row["role"] for row in found.rows]
    assert broken("paper", again.rows), "ten times too much is not within the limits"


def test_a_fitted_cell_does_reach_the_simulation(found, tmp_path):
    """The taint test could not fail if nothing were read from the tables."""
    tables = load_tables()
    for row in tables["training"]:
        if (row["model"], row["policy"]) == ("qwen3-235b", "ideal"):
            row["tflops_per_gpu"] = "600"
    again = paper.run(write(tmp_path / "tables", tables))
    before = at(found, "training", "qwen3-235b/ultraep", "tflops_per_gpu")["simulated"]
    after = at(again, "training", "qwen3-235b/ultraep", "tflops_per_gpu")["simulated"]
    assert after > before


def test_rows_that_arrive_later_are_judged(found, tmp_path):
    (tmp_path / "training.csv").write_text(
        "model,policy,tflops_per_gpu,mean_rank_imbalance,provenance\n"
        "deepseek-v3-671b,ultraep,600,1.02,a later figure\n"
        "glm-4.7-358b,llep,500,\n"
        "unheard-of,ultraep,500,\n"
    )
    (tmp_path / "weight_distribution.csv").write_text(
        "case,initial_imbalance,transport,latency_ms\n"
        '"Qwen3-235B, EP64",4.0,direct tile streaming,0.38\n'
    )
    again = paper.run(tmp_path)
    row = at(again, "training", "deepseek-v3-671b/ultraep", "tflops_per_gpu")
    before = at(found, "training", "deepseek-v3-671b/ultraep", "tflops_per_gpu")
    assert (row["published"], row["simulated"]) == (600, before["simulated"])
    assert row["provenance"].startswith("given by --published: a later figure")
    assert at(again, "training", "glm-4.7-358b/llep", "tflops_per_gpu")["simulated"] > 0
    unknown = at(again, "training", "unheard-of/ultraep", "tflops_per_gpu")
    assert unknown["simulated"] is None
    assert "not simulated" in unknown["provenance"]
    copies = at(again, "weight_distribution", "4.0/direct", "latency_ms")
    assert (copies["published"], copies["role"]) == (0.38, "predicted")


def test_the_committed_limits_hold_and_every_miss_is_named(found):
    assert broken("paper", found.rows) == []
    assert all(row["pinned"] for row in misses(found.rows))
    (line,) = [
        line
        for line in summarise(found.rows)
        if (line["table"], line["role"]) == ("all", "predicted")
    ]
    assert line["median"] <= 0.05


def test_the_plain_law_stands_beside_the_final_model(found):
    final = {r["case"]: r for r in found.rows if r["metric"] == "tflops_per_gpu"}
    assert len(found.plain) == len(final) == 24
    (plain,), (best,) = (
        [line["median"] for line in summarise(rows) if line["role"] == "predicted"]
        for rows in (
            found.plain, [final[row["case"]] for row in found.plain],
        )
    )  # fmt: skip
    assert best < plain
