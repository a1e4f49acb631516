from __future__ import annotations

import numpy as np

from ultraep_sim.engine.run import run_scenario
from ultraep_sim.model.draws import drawn
from ultraep_sim.model.provenance import Quantity, assumed, datasheet
from ultraep_sim.scenario import load_scenario


def test_half_of_the_draws_lie_on_either_side_and_all_inside():
    number = assumed(10, "us", "a guess", 8, 30)
    found = []
    for draw in range(1, 2001):
        with drawn(draw):
            found.append(float(number))
    values = np.array(found)
    assert ((values >= 8) & (values <= 30)).all()
    assert abs((values < 10).mean() - 0.5) < 0.04
    assert abs(values[values > 10].mean() - 20) < 0.7  # uniform on its side


def test_draw_zero_and_numbers_without_a_range_stay():
    number, fixed = assumed(10, "us", "a guess", 8, 30), datasheet(5, "GB/s", "a sheet")
    with drawn(0) as read:
        assert float(number) == 10
        assert number.si == 10 * 1e-6
    assert not read
    with drawn(3) as read:
        assert float(fixed) == 5
        assert float(number) != 10
        assert number.si == float(number) * 1e-6
    assert set(read) == {number}
    assert float(number) == 10


def test_numbers_are_drawn_apart_and_always_alike():
    one, two = assumed(1, "us", "one", 0, 2), assumed(1, "us", "two", 0, 2)
    pairs = []
    for draw in range(1, 500):
        with drawn(draw):
            pairs.append((float(one), float(two)))
            assert float(Quantity(1, "us", "assumed", "one", 0, 2)) == pairs[-1][0]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.15


def test_a_scenario_runs_in_its_draw():
    scenario = "scenarios/what-if/layer.yaml"
    small = ["workload.synthetic.steps=4", "workload.synthetic.layers=1", "policies=[ultraep]"]

    def time_of(draw):
        return run_scenario(load_scenario(scenario, [*small, f"draw={draw}"])).rows[0][
            "layer_time_ms"
        ]

    nominal, *others = (time_of(draw) for draw in (0, 1, 2, 1))
    assert others[0] == others[2]
    assert len({nominal, *others}) == 3
    assert "draw" not in load_scenario(scenario).to_dict()
    assert load_scenario(scenario, ["draw=2"]).to_dict()["draw"] == 2


def test_a_far_factor_ends_at_the_range():
    far = Quantity(1, "us", "fitted", "rows", 0.5, 2, (("a", 1e6),))
    found = set()
    for draw in range(1, 20):
        with drawn(draw):
            found.add(float(far))
    assert found == {0.5, 2}
