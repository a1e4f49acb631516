"""What a plan is worth: modelled seconds by hand, and what the cost-aware planner makes of them."""

import numpy as np
import pytest

import ultraep_sim as us
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver, Solution
from ultraep_sim.policies import CostModel
from ultraep_sim.policies.worth import FAR, cheapest, modelled_seconds

FOUR = EPLayout(4, 4, 3)
LOADS = np.array([130, 50, 10, 10])  # the mean is 50


def cost(pair=1.0, wire=0.0, copy=0.0, base=0.0, relay=0.0, gradient=0.0, window=0.0):
    return CostModel(pair, wire, copy, base, relay, gradient, window)


def solution(*replicas):
    """Replicas as (expert, rank, quota)."""
    expert, rank, quota = np.array(replicas, np.int64).reshape(-1, 3).T
    return Solution(0, expert.astype(np.int32), rank.astype(np.int32), quota)


def seconds(replicas, price, layout=FOUR, loads=LOADS, speeds=None):
    return modelled_seconds(MosaicSolver(layout, speeds), loads, solution(*replicas), price)


class TestModelledSeconds:
    def test_without_replicas_only_the_fullest_rank_counts(self):
        assert seconds([], cost(pair=2.0, wire=3.0, copy=9.0, base=9.0, gradient=9.0)) == 130 * 5

    def test_two_replicas(self):
        """130 - 40 - 40 stay: 50 each; rank 0 sends two copies and reads two gradients."""
        two = [(0, 2, 40), (0, 3, 40)]
        assert seconds(two, cost(pair=2.0)) == 50 * 2
        assert seconds(two, cost(wire=3.0)) == 50 * 4
        assert seconds(two, cost(base=7.0, copy=5.0)) == 50 + 7 + 2 * 5
        assert seconds(two, cost(gradient=11.0)) == 50 + 2 * 11
        assert seconds(two, cost(gradient=11.0, window=15.0)) == 50 + 22 - 15
        assert seconds(two, cost(gradient=11.0, window=22.0)) == 50
        assert seconds(two, cost(relay=99.0)) == 50  # domains of eight or fewer have no relay

    def test_the_fullest_receiver_may_bind_for_weights_but_not_for_gradients(self):
        three = [(0, 3, 10), (1, 3, 10), (2, 3, 1)]
        assert seconds(three, cost(copy=5.0)) == 120 + 3 * 5
        assert seconds(three, cost(gradient=5.0)) == 120 + 5

    def test_a_slow_rank_counts_by_its_speed(self):
        assert seconds([], cost(), speeds=[1, 0.25, 1, 1]) == 200

    def test_far_tokens_and_weights_are_dearer(self):
        """Two domains of two: 40 pairs go from rank 0 to rank 2, across."""
        layout = EPLayout(4, 4, 3, 2)
        assert seconds([(0, 2, 40)], cost(), layout) == 90
        far_wire = 10 + 40 + 40 * (FAR - 1)
        assert seconds([(0, 2, 40)], cost(wire=1.0), layout) == 90 + far_wire
        assert seconds([(0, 2, 40)], cost(copy=1.0), layout) == 90 + FAR
        assert seconds([(0, 2, 40)], cost(gradient=1.0, window=4.0), layout) == 90 + FAR - 4

    def test_a_relay_spares_the_home_for_weights_but_not_for_gradients(self):
        """16 replicas on 17 ranks: 4 relays of 3, so 4 copies and a relay; 16 gradients."""
        layout = EPLayout(17, 17, 1)
        loads = np.zeros(17, np.int64)
        loads[0] = 170
        wide = [(0, r, 10) for r in range(1, 17)]
        assert seconds(wide, cost(copy=5.0, relay=20.0), layout, loads) == 10 + 4 * 5 + 20
        assert seconds(wide, cost(copy=5.0, relay=99.0), layout, loads) == 10 + 16 * 5
        assert seconds(wide, cost(gradient=1.0, window=6.0), layout, loads) == 10 + 16 - 6


def replicas(price, layout=FOUR, loads=LOADS, **options):
    options = {"objective": "time", "target": 1.0} | options
    made = us.plan(loads, layout, policy="mosaic", cost=price, **options)
    made.validate()
    return made


class TestChoice:
    """Thresholds weighed: 50, 51, 52, 55, 60, 67, 75, 87, 100, 125 and 130.

    Two replicas, both of expert 0, reach 50. One is enough from 75 on: the excess of 55 fits the
    65 that rank 2 has left (at 67: 63 into 57). None is 130.
    """

    def test_the_target_wins_where_weights_are_cheap(self):
        made = replicas(cost(copy=24.0))  # 50 + 48 against 75 + 24
        assert (made.num_replicas, made.rank_loads.max()) == (2, 50)

    @pytest.mark.parametrize(
        "price",
        # 75 + 26 against 50 + 52; 75 + 26 - 1 against 50 + 52 - 1.
        [cost(copy=26.0), cost(gradient=26.0, window=1.0)],
        ids=["weights", "gradients"],
    )
    def test_a_looser_threshold_wins(self, price):
        made = replicas(price)
        assert (made.num_replicas, made.rank_loads.max()) == (1, 75)

    @pytest.mark.parametrize(
        "price",
        # 50 + 81; 75 + 56; 75 + 80 - 24.
        [cost(base=81.0), cost(copy=56.0), cost(gradient=80.0, window=24.0)],
        ids=["base", "weights", "gradients"],
    )
    def test_doing_nothing_wins(self, price):
        made = replicas(price)
        assert (made.num_replicas, made.rank_loads.max()) == (0, 130)

    def test_attention_backward_may_pay_for_it(self):
        made = replicas(cost(gradient=80.0, window=160.0))
        assert (made.num_replicas, made.rank_loads.max()) == (2, 50)

    def test_the_choice_is_the_cheapest_of_what_is_weighed(self):
        rng = np.random.default_rng(0)
        layout = EPLayout(16, 32, 2)
        solver, option = MosaicSolver(layout), MosaicOptions()
        for k in range(40):
            loads = (rng.zipf(1.6, 32) % 5000).astype(np.int64)
            price = cost(wire=0.5, copy=float(10 ** rng.uniform(0, 3)), gradient=20.0 * k)
            found, crossed = cheapest(solver, loads, [(option, False)], price, True)
            assert not crossed
            best = modelled_seconds(solver, loads, found, price)
            target = solver.solve(loads, option)
            nothing = solver.solve_at(loads, solver.needed(loads), option)
            for other in (target, nothing):
                assert best <= modelled_seconds(solver, loads, other, price)


class TestCrossing:
    """Domains of two: rank 0 and 1 hold 60 each, ranks 2 and 3 nothing; inside, nothing helps."""

    layout, loads = EPLayout(4, 4, 1, 2), np.array([60, 60, 0, 0])

    @pytest.mark.parametrize(
        ("copy", "crosses"),
        # Both experts send 30 across: 60 becomes 30, for one far copy on the busiest port.
        [(30 / FAR - 0.1, True), (30 / FAR + 0.1, False)],
    )
    def test_only_when_it_pays(self, copy, crosses):
        made = replicas(cost(copy=copy), self.layout, self.loads, objective="balance", cross="pays")
        assert made.may_cross == crosses
        assert made.num_replicas == (2 if crosses else 0)
        assert made.rank_loads.max() == (30 if crosses else 60)

    def test_tokens_on_the_way_count(self):
        """30 far pairs weigh as 300 on the wire; 60 near ones as 60."""
        for wire, crosses in ((30 / 240 - 0.01, True), (30 / 240 + 0.01, False)):
            made = replicas(
                cost(wire=wire), self.layout, self.loads, objective="balance", cross="pays"
            )
            assert made.may_cross == crosses

    def test_never_is_never(self):
        made = replicas(cost(), self.layout, self.loads, cross="never")
        assert made.num_replicas == 0
