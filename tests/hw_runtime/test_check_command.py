"""``check`` passes on the host, reports what it did, and says in a sentence what is missing."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hw_runtime.__main__ import main
from hw_runtime.check import moe
from hw_runtime.check.command import SUITES, run_case, run_suite, together
from hw_runtime.check.suite import Context, Mismatch, Row, require_equal
from hw_runtime.errors import FabricError
from hw_runtime.fabrics import FABRICS

ROOT = Path(__file__).parents[2]
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


def test_a_gpu_is_asked_only_for_products_it_has():
    names = {fabric: [name for name, _ in moe.suite(Context(fabric))] for fabric in FABRICS}
    both = ["bfloat16, ultraep", "bfloat16, mosaic"]
    assert names["host"] == ["float32, ultraep", "float32, mosaic", *both]
    assert names["virtual"] == both
    assert names["ipc"] == names["symm"] == []


def test_races_of_another_seed():
    rows = run_suite("races", Context(orders=40, seed=3))
    assert [row.status for row in rows] == ["ok", "ok"]


GROUP = """
import os, sys
import torch
torch.distributed.init_process_group("gloo")
from hw_runtime.check.command import together
from hw_runtime.check.suite import Row
rank = torch.distributed.get_rank()
rows = [Row("weights", "a", "FAILED" if rank == 1 else "ok", 1, "x")]
got = together(rows)
assert got[0] == rank
print([(row.case, row.status) for row in got[1]], flush=True)
torch.distributed.destroy_process_group()
"""


def test_one_process_of_a_group_reports_what_failed_in_another(tmp_path):
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env["MASTER_PORT"] = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", GROUP], env={**env, "RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, cwd=tmp_path,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        out, _ = process.communicate()
        assert process.returncode == 0
        assert out == "[('a', 'ok'), ('a, process 1', 'FAILED')]\n"


def test_alone_a_process_reports_its_own():
    rows = [Row("weights", "a", "ok", 1, "x")]
    assert together(rows) == (0, rows)


LOCKED_DOWN = """
import sys
from importlib.machinery import PathFinder
ALLOWED = {"numpy", "numba", "llvmlite", "torch", "cuda", "ultraep_sim", "hw_runtime"}
TORCH = {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec",
         "filelock", "functorch", "torchgen", "setuptools", "pkg_resources", "_distutils_hack"}
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if path is None and top not in ALLOWED | TORCH | set(sys.stdlib_module_names):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Only())
from hw_runtime.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--json", *FEW],
        ["bench", "--json", "--fabric", "host", "--tiny", "--runs", "1"],
        ["compile", "--help"],
    ],
    ids=lambda words: words[0],
)
def test_a_locked_down_machine_is_enough(words):
    """Nothing but numpy, numba, torch (and what it needs itself) and cuda-core."""
    done = subprocess.run(
        [sys.executable, "-c", LOCKED_DOWN, *words],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if words[0] == "check":
        rows = json.loads(done.stdout)["rows"]
        skipped = {row["suite"] for row in rows if row["status"] != "ok"}
        assert skipped <= {"twin"}, "only the simulator's side may need more"


def test_a_fault_that_no_chosen_suite_can_notice_is_refused(capsys):
    assert main(["check", "--suite", "plans", "--inject", "swap_tile", *FEW]) == 2
    assert "no chosen suite noticed the fault" in capsys.readouterr().err
