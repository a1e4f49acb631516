from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.report.html_run import run_keys, view_of_run
from ultraep_sim.report.results import read_run
from ultraep_sim.trace import Record

from .fake_run import KINDS, write_fake_run


def everything(run):
    return np.ones(len(run_keys(run)), bool)


def test_a_run_shows_what_it_recorded(run) -> None:
    view = view_of_run(run, everything(run), None, 0)
    assert view.contenders == ["before", "eplb", "eplb_plus", "ultraep", "ideal"]
    assert view.known == [True] * 5
    np.testing.assert_array_equal(view.imbalance[3], run.column("ultraep", "imbalance"))
    np.testing.assert_array_equal(view.details[7].pairs[0], run.column("none", "rank_pairs")[7])
    assert view.details[7].loads is None
    assert view.home is None


def test_without_none_the_loads_before_are_not_known(tmp_path) -> None:
    kinds = {label: KINDS[label] for label in ("eplb", "ultraep")}
    run = read_run(write_fake_run(tmp_path, kinds=kinds, steps=[0, 1]))
    view = view_of_run(run, everything(run), None, 0)
    assert view.known == [False, True, True]
    np.testing.assert_array_equal(view.imbalance[0], run.column("eplb", "imbalance_before"))


def test_the_trace_gives_experts_and_the_loads_before(tmp_path) -> None:
    kinds = {"ultraep": KINDS["ultraep"]}
    run = read_run(write_fake_run(tmp_path, kinds=kinds, steps=[0, 1], ranks=4))
    rng = np.random.default_rng(0)
    records = [Record(*key, rng.integers(0, 9, (2, 8), np.int32)) for key in run_keys(run).tolist()]
    keep = everything(run)
    keep[:3] = False
    view = view_of_run(run, keep, iter(records), 8)
    total = records[4].loads.sum(axis=0)
    np.testing.assert_array_equal(view.details[1].loads, total)
    np.testing.assert_array_equal(view.details[1].pairs[0], total.reshape(4, 2).sum(axis=1))
    assert view.known == [True, True]


def test_another_trace_is_refused(run) -> None:
    records = iter([Record(0, 5, 0, np.ones((1, 8), np.int32))])
    with pytest.raises(InputError, match="does not give the records of the run"):
        view_of_run(run, everything(run), records, 8)
