import numpy as np
import pytest

import ultraep_sim as us
from ultraep_sim.errors import LoadsError
from ultraep_sim.planning import EPLayout, plan_many

LAYOUT = EPLayout(4, 8, 1)


def test_each_record_gets_the_plan_of_a_single_solve():
    loads = np.random.default_rng(0).integers(0, 500, (20, 4, 8))
    batch = plan_many(loads, LAYOUT)
    assert len(batch) == 20
    for i, matrix in enumerate(loads):
        plan, alone = batch.plan(i), us.plan(matrix, LAYOUT, policy="mosaic")
        plan.validate(matrix)
        assert plan.quota.tolist() == alone.quota.tolist()
        assert plan.rank.tolist() == alone.rank.tolist()
        assert plan.tau == alone.tau


def test_options_reach_every_record():
    loads = np.random.default_rng(1).integers(0, 500, (5, 8))
    batch = plan_many(loads, LAYOUT, target=1.2, speeds=[0.5, 1, 1, 1], effort="thorough")
    for i in range(5):
        load = batch.plan(i).rank_loads / np.array([0.5, 1, 1, 1])
        assert load.max() <= batch.tau[i] + 1


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (np.zeros((3, 8)), "loads"),
        (np.zeros((3, 7), np.int64), "loads"),
        (np.zeros((3, 2, 8), np.int64), "loads"),
        (np.zeros((0, 8), np.int64), "loads"),
        (np.zeros(8, np.int64), "loads"),
        (np.array([[1] * 8, [1, 2, -3, 4, 5, 6, 7, 8]]), "loads[1, 2]"),
        (np.full((2, 8), 2**64 - 1, np.uint64), "loads[0, 0]"),
        (np.full((2, 8), 2**30, np.int64), "loads[0]"),
    ],
)
def test_bad_batches_name_the_place(bad, place):
    with pytest.raises(LoadsError) as err:
        plan_many(bad, LAYOUT)
    assert err.value.place == place
    assert "\n" not in str(err.value)
