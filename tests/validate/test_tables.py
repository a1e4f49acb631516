"""The published tables: what ships, what is put over it, and what a simulation may see."""

from pathlib import Path

import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.validate.tables import KEYS, MEASURED, load_tables, number, row_name

LIVE = Path(__file__).resolve().parents[3] / "shared" / "anchors"


def write(folder, table, *lines):
    (folder / f"{table}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_judged_cells_are_blank_and_readings_are_noted():
    tables = load_tables()
    inputs = tables.inputs()
    seen = inputs.find("training", model="qwen3-235b", policy="ultraep")
    assert seen["tflops_per_gpu"] == seen["mean_rank_imbalance"] == ""
    eplb = inputs.find("training", model="qwen3-235b", policy="eplb")
    assert inputs.read == set()
    assert (eplb["tflops_per_gpu"], eplb["mean_rank_imbalance"]) == ("", "1.34")
    assert inputs.read == {("training", "qwen3-235b | eplb", "mean_rank_imbalance")}
    assert tables.find("training", model="qwen3-235b", policy="ultraep")["tflops_per_gpu"] == "524"
    assert tables.read == set()


def test_no_row_of_a_balancer_but_eplb_may_be_seen():
    for table, rows in load_tables().inputs().rows.items():
        for row in rows:
            seen = [column for column in MEASURED[table] if dict.get(row, column)]
            assert not seen or row["policy"] in ("ideal", "none", "eplb"), (table, row)


def test_a_folder_adds_rows_and_replaces_cells(tmp_path):
    write(
        tmp_path, "training", "model,policy,tflops_per_gpu,mean_rank_imbalance",
        "qwen3-235b,ultraep,600,", "kimi-k2,none,,2.5", "qwen3-235b,none,315,2.86",
    )  # fmt: skip
    tables = load_tables(tmp_path)
    changed = tables.find("training", model="qwen3-235b", policy="ultraep")
    assert (changed["tflops_per_gpu"], changed["mean_rank_imbalance"]) == ("600", "1.03")
    assert changed["provenance"] == "given by --published"
    assert tables.find("training", model="kimi-k2", policy="none")["mean_rank_imbalance"] == "2.5"
    same = tables.find("training", model="qwen3-235b", policy="none")
    assert "provenance" not in same, "a row that says what ships is what ships"
    assert len(tables["training"]) == len(load_tables()["training"]) + 1
    assert len(tables["serving"]) == len(load_tables()["serving"])


def test_numbers_in_another_form_are_the_same_row(tmp_path):
    write(
        tmp_path, "weight_distribution", "case,initial_imbalance,transport,latency_ms",
        '"Qwen3-235B, EP64",2,direct tile streaming,0.3',
    )  # fmt: skip
    tables = load_tables(tmp_path)
    assert len(tables["weight_distribution"]) == 15
    row = tables.find("weight_distribution", initial_imbalance="2.00", case="Qwen3-235B, EP64",
                      transport="direct tile streaming")  # fmt: skip
    assert number(row["latency_ms"]) == 0.3
    assert row["initial_imbalance"] == "2"


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="no published table is here"):
        load_tables(tmp_path)
    write(tmp_path, "training", "model,tflops_per_gpu", "x,1")
    with pytest.raises(InputError, match=r"training\.csv: header: a column is missing.*policy"):
        load_tables(tmp_path)
    write(tmp_path, "training", "model,policy,tflops_per_gpu", "x,none,fast")
    with pytest.raises(InputError, match=r"line 2, tflops_per_gpu: not a positive number.*fast"):
        load_tables(tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize("table", KEYS)
def test_what_ships_is_what_is_known(table):
    """Every published cell of the current tables; ours may say more of where it is from."""
    if not LIVE.is_dir():
        pytest.skip("the published tables are not beside the repository")
    import csv

    with (LIVE / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        live = {row_name(table, row): row for row in csv.DictReader(file)}
    shipped = {row_name(table, row): row for row in load_tables()[table]}
    for name, row in live.items():
        for column, text in row.items():
            if column != "provenance":
                assert shipped[name][column] == text, (name, column)
