from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from .command import assert_one_line_error, ultraep_sim

KEYS = ["policy", "imbalance_before", "imbalance_after", "replicas", "max_fanout"]
KEYS += ["remote_fraction", "solve_us", "rank_loads"]


def header(text: str, body: bytes = b"") -> bytes:
    raw = text.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + body


def npy(array: np.ndarray, tmp_path, **options) -> bytes:
    np.save(tmp_path / "source.npy", array, **options)
    return (tmp_path / "source.npy").read_bytes()


def huge(shape: str) -> bytes:
    return header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}", b"\0" * 64)


NAN = np.ones((4, 8))
NAN[2, 5] = np.nan
NEGATIVE = np.ones((4, 8), np.int64)
NEGATIVE[1, 3] = -7

# name: content of LOADS, what the line must name (place, value, part of the remedy)
BAD_FILES = {
    "negative": (NEGATIVE, ["loads[1, 3]", "-7", "start at 0"]),
    "nan": (NAN, ["loads[2, 5]", "nan", "int64"]),
    "infinite": (np.full((4, 8), np.inf), ["loads[0, 0]", "inf"]),
    "float": (np.full((4, 8), 1.5), ["loads[0, 0]", "1.5", "float64", "int64"]),
    "integral float": (np.full((4, 8), 2.0), ["loads[0, 0]", "2.0", "float64", "int64"]),
    "bool": (np.ones((4, 8), bool), ["dtype", "bool", "save an integer array"]),
    "text": (np.array(["a", "b"]), ["dtype", "<U1", "save an integer array"]),
    "complex": (np.ones(4, complex), ["dtype", "complex128"]),
    "fields": (np.zeros(4, [("x", "i8")]), ["dtype", "save an integer array"]),
    "objects": (np.array([1, None]), ["dtype", "object", "astype"]),
    "empty array": (np.zeros(0, np.int64), ["shape", "(0,)", "save an integer array"]),
    "empty rows": (np.zeros((4, 0), np.int64), ["shape", "(4, 0)"]),
    "scalar": (np.array(5), ["shape", "()", "[experts]"]),
    "three axes": (np.ones((2, 4, 8), np.int64), ["shape", "(2, 4, 8)", "[source ranks, experts]"]),
    "wrong rows": (np.ones((3, 8), np.int64), ["shape", "(3, 8)", "or 4"]),
    "zero tokens": (np.zeros((4, 8), np.int64), ["loads", "zero tokens", "0", "at least one"]),
    "huge total": (np.full((4, 8), 2**30), ["loads", "2^31", "split the micro-batch"]),
    "huge entry": (np.full((4, 8), 2**62), ["loads", "2^31"]),
    "huge unsigned": (np.full(8, 2**64 - 1, np.uint64), ["loads", "2^31"]),
    "no bytes": (b"", ["byte 0", "empty", "numpy.save"]),
    "not npy": (b"step,expert,load\n1,2,3\n", ["byte 0", "not an .npy file", "numpy.save"]),
    "npz": (b"PK\x03\x04" + b"\0" * 60, ["byte 0", ".npz archive", "numpy.save"]),
    "magic alone": (b"\x93NUMPY", ["header", "damaged"]),
    "version 9": (b"\x93NUMPY\x09\x00" + b"\0" * 60, ["header", "damaged"]),
    "cut header": (huge("(4, 8)")[:40], ["header", "damaged"]),
    "code in header": (header("__import__('os').system('id')"), ["header", "damaged"]),
    "header of junk": (header("{" * 100), ["header", "damaged"]),
    "huge shape": (huge("(1000000000, 1000000000)"), ["shape", "1000000000", "one layer"]),
    "huge axis": (huge("(1000000000000000000000000000000,)"), ["shape", "one layer"]),
    "negative shape": (huge("(-1, 8)"), ["shape", "(-1, 8)"]),
    "promised more": (huge("(4, 1000)"), ["cut short", "32000 bytes", "64"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_load_file_is_one_line(name, invoke, tmp_path):
    content, needles = BAD_FILES[name]
    if not isinstance(content, bytes):
        content = npy(content, tmp_path, allow_pickle=content.dtype.hasobject)
    file = tmp_path / "bad.npy"
    file.write_bytes(content)
    answer = invoke("plan", file, "--ranks", 4, "--slots", 1)
    assert_one_line_error(answer, "bad.npy", "; ", *needles)


def test_a_truncated_load_file(invoke, loads):
    whole = loads.read_bytes()
    loads.write_bytes(whole[:-100])
    answer = invoke("plan", loads, "--ranks", 8, "--slots", 1)
    assert_one_line_error(answer, "loads.npy", "cut short", "again")
    loads.write_bytes(whole + b"more")
    answer = invoke("plan", loads, "--ranks", 8, "--slots", 1)
    assert_one_line_error(answer, "loads.npy", "data follows", "one array a file")


def test_a_missing_load_file_and_a_directory(invoke, tmp_path):
    answer = invoke("plan", tmp_path / "no.npy", "--ranks", 4, "--slots", 1)
    assert_one_line_error(answer, "no.npy", "no such file", "numpy.save")
    answer = invoke("plan", tmp_path, "--ranks", 4, "--slots", 1)
    assert_one_line_error(answer, str(tmp_path), "not a regular file")


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--ranks", "8"], ["--slots", "--help"]),
        (["--ranks", "eight", "--slots", "1"], ["--ranks", "'eight'", "integer", "--help"]),
        (["--ranks=8.5", "--slots", "1"], ["--ranks", "'8.5'", "integer"]),
        (["--ranks", "0", "--slots", "1"], ["--ranks", "0", "give 1 to"]),
        (
            ["--ranks", "8", "--slots", "33"],
            ["loads.npy: --slots", "33", "32 experts", "give 0 to 32"],
        ),
        (["--ranks", "8", "--slots", "-1"], ["--slots", "-1", "give 0 to"]),
        (["--ranks", "8", "--slots", "1", "--domain", "9"], ["--domain", "9", "give 1 to 8"]),
        (["--ranks", "8", "--slots", "1", "--domain", "0"], ["--domain", "0", "give 1 to 8"]),
        (["--ranks", "8", "--slots", "1", "--target", "nan"], ["--target", "nan", "1.0"]),
        (["--ranks", "8", "--slots", "1", "--target", "0.5"], ["--target", "0.5", "1.0"]),
        (
            ["--ranks", "8", "--slots", "1", "--policy", "utraep"],
            ["--policy", "did you mean ultra"],
        ),
        (["--ranks", "8", "--slots", "1", "--policy", "none", "--target", "2"], ["--target", "2"]),
        (["--ranks", "8", "--slots", "1", "--polcy", "none"], ["--polcy", "--policy"]),
        (["--ranks", "8", "--slots", "1", "more"], ["more", "--help"]),
        (["--ranks", "9", "--slots", "1"], ["loads.npy", "shape", "(8, 32)", "or 9"]),
    ],
)
def test_a_bad_option_is_one_line(options, needles, invoke, loads):
    assert_one_line_error(invoke("plan", loads, *options), *needles)


def test_json_holds_the_contract_and_nothing_else(invoke, loads):
    answer = invoke("plan", loads, "--ranks", 8, "--slots", 2, "--policy", "ultraep", "--json")
    assert answer.code == 0
    assert answer.err == ""
    data = json.loads(answer.out)
    assert list(data) == KEYS
    matrix = np.load(loads)
    before = matrix.sum(axis=0).reshape(8, 4).sum(axis=1)
    assert data["imbalance_before"] == pytest.approx(before.max() / before.mean())
    rank_loads = np.array(data["rank_loads"])
    assert rank_loads.sum() == matrix.sum()
    assert data["imbalance_after"] == pytest.approx(rank_loads.max() / rank_loads.mean())
    assert data["imbalance_after"] < data["imbalance_before"]
    assert 0 <= data["remote_fraction"] <= 1
    assert 1 <= data["replicas"] <= 16
    assert data["solve_us"] > 0


@pytest.mark.parametrize("policy", ["none", "eplb", "eplb_plus", "ultraep", "ideal"])
def test_every_policy_plans_and_parses(policy, invoke, loads):
    answer = invoke("plan", loads, "--ranks", 8, "--slots", 2, "--policy", policy, "--json")
    data = json.loads(answer.out)
    assert data["policy"] == policy
    assert len(data["rank_loads"]) == 8
    # There is nothing to solve for a policy that does nothing or that no machine can run.
    assert (data["solve_us"] == 0.0) == (policy in ("none", "ideal"))
    matrix = np.load(loads)
    before = matrix.sum(axis=0).reshape(8, 4).sum(axis=1)
    assert data["imbalance_before"] == pytest.approx(before.max() / before.mean())


@pytest.mark.parametrize(
    ("policy", "hindsight"),
    [("eplb", True), ("lplb", True), ("predictive", True), ("ultraep", False), ("none", False)],
)
def test_a_plan_in_hindsight_says_so(policy, hindsight, invoke, loads):
    arguments = ("plan", loads, "--ranks", 8, "--slots", 2, "--policy", policy)
    text = invoke(*arguments)
    assert text.err == ""
    assert text.out.count("\nhindsight: ") == hindsight
    data = invoke(*arguments, "--json")
    json.loads(data.out)
    assert data.err.count("\n") == hindsight
    assert data.err.startswith("hindsight: ") == hindsight


def test_forced_plans_show_the_loads_of_the_file_as_before(invoke, loads):
    rows = {}
    for policy in ("none", "ideal"):
        out = invoke("plan", loads, "--ranks", 8, "--slots", 2, "--policy", policy).out
        lines = [line.split() for line in out.splitlines() if "rank load [pairs]" in line]
        rows[policy] = [words[-2] for words in lines]
    assert len(rows["none"]) == 2
    assert rows["none"] == rows["ideal"]


def test_what_was_timed_is_said(invoke, loads):
    arguments = ("plan", loads, "--ranks", 8, "--slots", 2, "--policy")
    assert "\nsolved in " in invoke(*arguments, "ultraep").out
    whole = invoke(*arguments, "eplb").out
    assert "\nplanned in " in whole
    assert "(whole call)" in whole
    assert " in 0.0 us" not in invoke(*arguments, "none").out


def test_the_kernel_time_is_of_a_warm_call(loads, monkeypatch, invoke):
    """The first call of a policy builds its tables: a time that grows less must win."""
    from ultraep_sim.policies import api

    times = iter([900.0, 800.0, 30.0, 40.0])
    real = api.plan

    def slow_at_first(*arguments, **options):
        return replace(real(*arguments, **options), solve_us=next(times))

    monkeypatch.setattr(api, "plan", slow_at_first)
    answer = invoke("plan", loads, "--ranks", 8, "--slots", 2, "--json")
    assert json.loads(answer.out)["solve_us"] == 30.0


def test_slots_a_policy_takes_beyond_those_asked_are_said(invoke, loads):
    arguments = ("plan", loads, "--ranks", 8, "--slots", 0, "--policy")
    assert "4 slots a rank (asked 0, takes 4)" in invoke(*arguments, "moonep").out
    assert "0 slots a rank, domains" in invoke(*arguments, "ultraep").out


def test_too_many_experts_name_the_file(invoke, tmp_path):
    np.save(tmp_path / "many.npy", np.ones(70_000, np.int64))
    answer = invoke("plan", tmp_path / "many.npy", "--ranks", 4, "--slots", 1)
    assert_one_line_error(answer, "many.npy: experts", "70000", "give 1 to 65536")


def test_an_empty_path_is_not_the_current_directory(invoke):
    answer = invoke("plan", "", "--ranks", 4, "--slots", 1)
    assert_one_line_error(answer, "LOADS", "empty path", "''", "name an .npy file")


def test_target_and_domain_are_obeyed(invoke, loads):
    loose = json.loads(
        invoke("plan", loads, "--ranks", 8, "--slots", 2, "--target", 1.5, "--json").out
    )
    tight = json.loads(invoke("plan", loads, "--ranks", 8, "--slots", 2, "--json").out)
    assert loose["replicas"] < tight["replicas"]
    alone = json.loads(
        invoke("plan", loads, "--ranks", 8, "--slots", 2, "--domain", 1, "--json").out
    )
    assert alone["replicas"] == 0
    assert alone["imbalance_after"] == alone["imbalance_before"]


def test_a_vector_of_experts_is_enough(invoke, tmp_path):
    np.save(tmp_path / "v.npy", np.array([70, 10, 5, 5, 5, 5, 10, 10], np.uint16))
    answer = invoke("plan", tmp_path / "v.npy", "--ranks", 4, "--slots", 1, "--json")
    assert sum(json.loads(answer.out)["rank_loads"]) == 120


def test_the_table_is_for_people(loads):
    answer = ultraep_sim("plan", loads, "--ranks", 8, "--slots", 2)
    assert answer.code == 0
    assert answer.err == ""
    assert "imbalance [max/mean]" in answer.out
    assert "ultraep on 8 ranks, 32 experts, 2 slots a rank" in answer.out


def test_errors_survive_a_process_of_their_own(tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"")
    answer = ultraep_sim("plan", "bad.npy", "--ranks", "4", "--slots", "1", cwd=tmp_path)
    assert_one_line_error(answer, "bad.npy", "byte 0", "empty", "numpy.save")
