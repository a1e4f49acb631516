"""Every fault makes the check fail, in the suites that are there to notice it."""

import json
import subprocess
import sys

import pytest

from hw_runtime.__main__ import main
from hw_runtime.fabrics.faults import FAULTS

NOTICED_BY = {
    "drop_flag": "weights",
    "stale_epoch": "races",
    "swap_tile": "weights",
    "skip_tail": "weights",
    "missing_barrier": "races",
    "reorder_add": "gradients",
}


def test_every_fault_has_a_suite():
    assert NOTICED_BY.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(fault, capsys):
    """Without the fault the same suites are green: see test_check_command.py."""
    words = ["check", "--json", "--orders", "20", "--suite", NOTICED_BY[fault]]
    assert main([*words, "--inject", fault]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert document["inject"] == fault
    failed = [row for row in document["rows"] if row["status"] == "FAILED"]
    assert failed
    if fault == "drop_flag":
        assert "waits for epoch" in failed[0]["detail"]


def test_stale_flags_spoil_weights_too(capsys):
    assert main(["check", "--suite", "weights", "--inject", "stale_epoch"]) == 1
    capsys.readouterr()


def test_the_process_exits_non_zero():
    words = [sys.executable, "-m", "hw_runtime", "check", "--suite", "gradients"]
    done = subprocess.run([*words, "--inject", "reorder_add"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"broken on purpose by reorder_add" in done.stdout
