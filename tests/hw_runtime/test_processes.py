"""Processes of a group that do not fit together get an error, not a dead lock; no GPU is needed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMBER = """
import sys
from datetime import timedelta
import torch
from hw_runtime.errors import FabricError
from hw_runtime.fabrics import Geometry
from hw_runtime.fabrics.processes import gather, join
from ultraep_sim.planning import EPLayout
ranks, size, come = (int(word) for word in sys.argv[1:])
try:
    rank = join(torch, Geometry(EPLayout(ranks, 4, 1), size), "ipc", timedelta(seconds=5))
    if come:
        gather(torch, None)
    print("joined", rank)
except FabricError as error:
    print(error)
"""


COUNTER = """
import sys
import numpy as np
import torch
from hw_runtime.manager import _all_gather
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
mine = np.full((1, 3), rank + 1, np.int32)
print(_all_gather(mine, 2, torch.device("cpu")).tolist())
"""


def group(*members, size=None, program=MEMBER):
    """Run one process for each (ranks, copy bytes, whether it comes to the barrier)."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(size or len(members))}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env["MASTER_PORT"] = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *(str(int(word)) for word in member)],
            env={**env, "RANK": str(rank), "PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for rank, member in enumerate(members)
    ]  # fmt: skip
    return [process.communicate()[0].strip() for process in started]


def test_processes_that_agree_join():
    assert group((2, 64, True), (2, 64, True)) == ["joined 0", "joined 1"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ((2, 65, True), "opens a fabric of another geometry than this process"),
        ((3, 64, True), "2 processes for 3 ranks; start one process a rank"),
    ],
    ids=["other buffers", "other group"],
)
def test_a_process_that_wants_something_else_is_named(second, words):
    first, other = group((2, 64, True), second)
    assert words in other
    assert "joined" not in first


def test_a_process_that_does_not_come_is_an_error():
    first, other = group((2, 64, True), (2, 64, False))
    assert other == "joined 1"
    assert "a process of the group did not come" in first


def test_a_process_that_is_never_started_is_an_error():
    (alone,) = group((2, 64, True), size=2)
    assert alone.startswith("a process of the group did not come")
    assert "\n" not in alone


def test_counts_of_all_processes_come_in_rank_order():
    assert group((), (), program=COUNTER) == ["[[1, 1, 1], [2, 2, 2]]"] * 2


def test_the_gpu_script_says_what_is_missing_and_writes_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    folder = tmp_path / "found"
    done = subprocess.run(
        ["sh", "hw_runtime/on_gpu.sh", str(folder)],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: bench needs a CUDA GPU and this machine has none")
    assert done.stderr.count("\n") == 1
    assert not folder.exists()
