import numpy as np
import pytest

from ultraep_sim.errors import LayoutError
from ultraep_sim.planning import EPLayout, default_home


def test_default_home_is_contiguous_and_the_first_ranks_hold_more():
    home = default_home(72, 256)
    counts = np.bincount(home, minlength=72)
    assert (np.diff(home) >= 0).all()
    assert counts.tolist() == [4] * 40 + [3] * 32


def test_fewer_experts_than_ranks():
    layout = EPLayout(4, 2, 1)
    assert layout.home.tolist() == [0, 1]
    assert layout.mains_per_rank.tolist() == [1, 1, 0, 0]


def test_last_domain_may_be_smaller():
    layout = EPLayout(10, 10, 1, domain_size=4)
    assert layout.num_domains == 3
    assert layout.domain_of.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_layouts_compare_by_value():
    assert EPLayout(4, 8, 1) == EPLayout(4, 8, 1, 4, default_home(4, 8))
    assert EPLayout(4, 8, 1) != EPLayout(4, 8, 2)
    assert hash(EPLayout(4, 8, 1)) == hash(EPLayout(4, 8, 1, 4))
    assert EPLayout(4, 8, 1) != "layout"


def test_home_cannot_be_changed_behind_the_layout():
    with pytest.raises(ValueError, match="read-only"):
        EPLayout(4, 8, 1).home[0] = 3


@pytest.mark.parametrize(
    ("kwargs", "place"),
    [
        ({"num_ranks": 0}, "num_ranks"),
        ({"num_ranks": 2.0}, "num_ranks"),
        ({"num_ranks": True}, "num_ranks"),
        ({"num_experts": 0}, "num_experts"),
        ({"num_experts": 10**9}, "num_experts"),
        ({"slots_per_rank": -1}, "slots_per_rank"),
        ({"slots_per_rank": 9}, "slots_per_rank"),  # more slots than experts
        ({"domain_size": 5}, "domain_size"),
        ({"home": [0, 1]}, "home"),
        ({"home": [0.5] * 8}, "home"),
        ({"home": [0, 1, 2, 3, 4, 0, 0, 0]}, "home[4]"),
    ],
)
def test_impossible_layouts_name_the_place(kwargs, place):
    with pytest.raises(LayoutError) as err:
        EPLayout(**{"num_ranks": 4, "num_experts": 8, "slots_per_rank": 1} | kwargs)
    assert err.value.place == place
    assert "\n" not in str(err.value)
