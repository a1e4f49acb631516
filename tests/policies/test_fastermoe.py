"""FasterMoE's shadowing on examples worked by hand, then what holds for any loads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from tests.planning.strategies import problems
from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy
from ultraep_sim.policies.base import CostModel


def cost(pair=1.0, wire=0.0, copy=0.0, base=0.0, gradient=0.0, window=0.0):
    return CostModel(pair, wire, copy, base, 0.0, gradient, window)


#: Each of four ranks holds 25, 10, 5, 0 pairs of experts 0 to 3: ranks hold 100 | 40 | 20 | 0.
LOADS = np.tile([[25, 10, 5, 0]], (4, 1))


def shadowed(plan):
    return np.flatnonzero(plan.fanout).tolist()


def plan(loads, layout, **options):
    made = us.plan(loads, layout, policy="fastermoe", **options)
    made.validate(loads)
    return made


class TestByHand:
    """Compute alone: 100 without, 65 with expert 0 shadowed, 55 with 0 and 1, 40 with 0 to 2."""

    layout = EPLayout(4, 4, 3)

    @pytest.mark.parametrize(
        ("copy_s", "wanted"),
        # Rank 3 is nobody's home: it receives as many copies as experts are shadowed.
        # At 9: 100, 74, 73, 67. At 10: 100, 75, 75: no gain. At 35: 100, 100.
        [(0.0, [0, 1, 2]), (9.0, [0, 1, 2]), (10.0, [0]), (34.0, [0]), (35.0, [])],
    )
    def test_while_the_time_falls(self, copy_s, wanted):
        assert shadowed(plan(LOADS, self.layout, cost=cost(copy=copy_s))) == wanted

    @pytest.mark.parametrize(
        ("window", "wanted"),
        # A gradient of 20 a shadow. Window 0: 65 + 20, then 55 + 40. Window 30: 65, then 55 + 10.
        # Window 31: 65, then 55 + 9, then 40 + 29. Window 60: 65, 55, 40.
        [(0.0, [0]), (30.0, [0]), (31.0, [0, 1]), (60.0, [0, 1, 2])],
    )
    def test_gradients_count_where_attention_does_not_hide_them(self, window, wanted):
        priced = cost(gradient=20.0, window=window)
        assert shadowed(plan(LOADS, self.layout, cost=priced)) == wanted

    def test_a_base_that_eats_the_gain(self):
        assert shadowed(plan(LOADS, self.layout, cost=cost(base=34.0))) == [0, 1, 2]
        assert shadowed(plan(LOADS, self.layout, cost=cost(base=35.0))) == []

    def test_wires_count(self):
        """Compute is free: rank 0 receives 75, rank 1 30, rank 2 15; every rank sends 15 to 40.

        Rank 3 sends all its 40. Shadowing 0 leaves 30 to receive and 15 to send; shadowing 1, 15
        and 5; shadowing 2, nothing at all.
        """
        only_wire = cost(pair=0.0, wire=1.0)
        assert shadowed(plan(LOADS, self.layout, cost=only_wire)) == [0, 1, 2]
        one = plan(LOADS, self.layout, cost=only_wire, max_shadows=1)
        assert shadowed(one) == [0]
        # Remote is what ranks 1 and 2 still receive.
        assert one.remote_fraction == pytest.approx((30 + 15) / 160)

    def test_tokens_stay_where_they_are(self):
        made = plan(LOADS, self.layout, cost=cost())
        assert made.remote_fraction == 0.0
        assert made.rank_loads.tolist() == [40, 40, 40, 40]

    def test_slots_bound_it_and_max_shadows_takes_slots(self):
        assert shadowed(plan(LOADS, EPLayout(4, 4, 1), cost=cost())) == [0]
        assert shadowed(plan(LOADS, EPLayout(4, 4, 0), cost=cost())) == []
        more = get_policy("fastermoe", EPLayout(4, 4, 1), max_shadows=2)
        assert more.layout.slots_per_rank == 2
        assert shadowed(plan(LOADS, EPLayout(4, 4, 1), cost=cost(), max_shadows=2)) == [0, 1]

    def test_other_domains_go_to_the_main(self):
        """Two domains of two: a replica on rank 1 only; ranks 2 and 3 send to the home."""
        made = plan(LOADS, EPLayout(4, 4, 1, 2), cost=cost())
        assert made.rank[made.expert == 0].tolist() == [0, 1]
        assert made.quota[made.expert == 0].tolist() == [75, 25]

    @pytest.mark.parametrize("ranks", [2, 17, 64])
    def test_one_copy_whatever_the_fan_out(self, ranks):
        """One hot expert, 10 pairs of each rank: 10 x ranks at home, 10 when shadowed."""
        layout = EPLayout(ranks, ranks, 1)
        loads = np.zeros((ranks, ranks), np.int64)
        loads[:, 0] = 10
        saved = 10 * ranks - 10
        assert shadowed(plan(loads, layout, cost=cost(copy=saved - 1))) == [0]
        assert shadowed(plan(loads, layout, cost=cost(copy=saved))) == []

    def test_the_price_is_that_of_a_collective(self):
        price = get_policy("fastermoe", self.layout).price()
        assert (price.transport, price.relay) == ("broadcast", False)


def modelled(plan, price):
    """Compute and all-to-all from the plan itself."""
    layout, split = plan.layout, plan.split
    ranks = np.arange(layout.num_ranks)
    away = plan.rank[None, :] != ranks[:, None]
    sent = np.where(away, split, 0).sum(axis=1)
    received = np.bincount(plan.rank, np.where(away, split, 0).sum(axis=0), layout.num_ranks)
    return price.pair_s * plan.rank_loads.max() + price.wire_s * max(sent.max(), received.max())


@given(problems(), st.integers(0, 3), st.sampled_from([0.0, 0.5]))
@settings(max_examples=100, deadline=None)
def test_modelled_time_never_rises_and_replicas_serve_their_own_rank(problem, shadows, wire):
    layout, loads = problem
    price = cost(wire=wire)
    made = us.plan(
        loads, layout, policy="fastermoe", max_shadows=min(shadows, layout.num_experts), cost=price
    )
    made.validate(loads)
    hosts = made.rank[made.is_replica]
    if loads.shape[0] == layout.num_ranks:
        own = loads[hosts, made.expert[made.is_replica]]
        assert made.quota[made.is_replica].tolist() == own.tolist()
        without = us.plan(loads, layout, policy="none")
        assert modelled(made, price) <= modelled(without, price)
    size = np.bincount(layout.domain_of)[layout.domain_of[layout.home]]
    assert set(made.fanout[made.fanout > 0]) <= set((size - 1).tolist())


@pytest.mark.parametrize("value", [-1, 5, 1.0, True])
def test_bad_max_shadows(value):
    with pytest.raises(PolicyError, match="max_shadows"):
        get_policy("fastermoe", EPLayout(4, 4, 1), max_shadows=value)
