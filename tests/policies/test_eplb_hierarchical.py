"""EPLB's hierarchical mode: the public example, then what must hold for any loads."""

import numpy as np
import pytest

from tests.policies.test_policies import walk
from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy
from ultraep_sim.policies.replication import pack, rebalance

README_LOADS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
README_PLACES = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


def test_the_public_readme_example():
    assert rebalance(README_LOADS, 16, 4, 2, 8).tolist() == README_PLACES


def test_one_layer_is_a_row_of_many():
    assert rebalance(README_LOADS[1], 16, 4, 2, 8).tolist() == README_PLACES[1]


def test_groups_that_nodes_do_not_divide_are_placed_globally():
    assert (rebalance(README_LOADS, 16, 3, 2, 8) == rebalance(README_LOADS, 16, 1, 1, 8)).all()


@pytest.mark.parametrize(
    ("numbers", "named"),
    [((16, 5, 1, 8), "num_groups"), ((16, 4, 2, 7), "num_nodes"), ((15, 4, 2, 8), "num_gpus"),
     ((8, 4, 2, 8), "num_replicas")],
)  # fmt: skip
def test_numbers_that_do_not_divide_are_named(numbers, named):
    with pytest.raises(PolicyError, match=named):
        rebalance(README_LOADS, *numbers)


def test_one_item_a_pack_stays_where_it_is():
    assert pack(np.array([1.0, 9, 5]), 3).tolist() == [0, 1, 2]


class TestPolicy:
    layout = EPLayout(8, 12, 0)  # ceil(12 / 8) = 2 places a rank: 16 in all, as in the example

    def placed(self, layer, **options):
        loads = np.tile(np.array(README_LOADS[layer]), (8, 1))
        policy = get_policy("eplb", self.layout, cadence_steps=1, **options)
        return policy, walk(policy, [loads, loads])[1]

    @pytest.mark.parametrize("layer", [0, 1])
    def test_it_places_as_the_example(self, layer):
        policy, plan = self.placed(layer, num_groups=4, num_nodes=2)
        assert policy.fallback is None
        plan.validate()
        wanted = np.array(README_PLACES[layer]).reshape(8, 2)
        for rank in range(8):
            assert sorted(plan.expert[plan.rank == rank]) == sorted(wanted[rank])

    def test_groups_stay_on_one_node(self):
        for seed in range(20):
            weights = np.random.default_rng(seed).integers(0, 500, 12)
            policy = get_policy("eplb", self.layout, cadence_steps=1, num_groups=4, num_nodes=2)
            plan = walk(policy, [np.tile(weights, (8, 1))] * 2)[1]
            node_of_group = [set(plan.rank[plan.expert // 3 == g] // 4) for g in range(4)]
            assert all(len(nodes) == 1 for nodes in node_of_group)

    @pytest.mark.parametrize(
        ("options", "why"),
        [({"num_groups": 3, "num_nodes": 2}, "num_groups"),
         ({"num_groups": 5, "num_nodes": 1}, "experts"),
         ({"num_groups": 3, "num_nodes": 3}, "ranks")],
    )  # fmt: skip
    def test_where_it_cannot_it_says_why_and_places_globally(self, options, why):
        policy, plan = self.placed(0, **options)
        assert why in policy.fallback
        _, globally = self.placed(0)
        assert plan.rank.tolist() == globally.rank.tolist()

    def test_global_is_the_default(self):
        policy, plan = self.placed(0)
        assert policy.fallback is None
        wanted = rebalance(README_LOADS[0], 16, 1, 1, 8).reshape(8, 2)
        for rank in range(8):
            assert sorted(plan.expert[plan.rank == rank]) == sorted(wanted[rank])
