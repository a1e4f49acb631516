"""``check`` passes on the host, reports what it did, and says in a sentence what is missing."""

import json

import numpy as np
import pytest

from hw_runtime.__main__ import main
from hw_runtime.check.command import SUITES, run_case, run_suite
from hw_runtime.check.suite import Context, Mismatch, require_equal
from hw_runtime.errors import FabricError

FEW = ["--plans", "60", "--orders", "12"]


def test_the_host_is_green_and_the_table_aligns(capsys):
    assert main(["check", *FEW]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} of {len(lines) - 1} checks green on the host fabric"
    assert {line.split()[0] for line in lines[:-1]} == set(SUITES)
    assert len({line.index("  ok ") for line in lines[:-1]}) == 1


def test_json_is_all_there_is_on_stdout(capsys):
    assert main(["check", "--json", "--suite", "twin", "--seed", "7"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "hw_runtime.check/1"
    assert document["passed"] is True
    assert {row["suite"] for row in document["rows"]} == {"twin"}
    assert all(row["checked"] > 0 and row["status"] == "ok" for row in document["rows"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--orders", "0"], "--orders: nothing to check"),
        (["--seed", "-1"], "--seed: negative"),
        (["--fabric", "virtual", "--inject", "swap_tile"], "host fabric only"),
    ],
)
def test_bad_options_are_named(words, message, capsys):
    assert main(["check", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_case_fails_on_a_difference_a_hang_and_nothing_compared():
    def mismatch():
        require_equal(np.array([1, 2]), np.array([1, 3]), "here")

    def hang():
        raise FabricError("all wait")

    def missing():
        import nowhere_to_be_found  # noqa: F401  # the point

    assert run_case("s", ("c", mismatch)).detail == (
        "here: 1 bytes differ, first at element 1 (is 2, expected 3)"
    )
    assert run_case("s", ("c", hang)).status == "FAILED"
    assert run_case("s", ("c", lambda: (0, "nothing"))).status == "FAILED"
    assert run_case("s", ("c", lambda: (1, "fine"))).status == "ok"
    assert run_case("s", ("c", missing)).status == "skipped"


def test_bits_are_compared_not_values():
    require_equal(np.array([np.nan]), np.array([np.nan]), "nan")
    with pytest.raises(Mismatch):
        require_equal(np.array([0.0]), np.array([-0.0]), "zeros")
    with pytest.raises(Mismatch, match="shape"):
        require_equal(np.zeros(2), np.zeros(3), "shapes")


def test_races_of_another_seed():
    rows = run_suite("races", Context(orders=40, seed=3))
    assert [row.status for row in rows] == ["ok", "ok"]
