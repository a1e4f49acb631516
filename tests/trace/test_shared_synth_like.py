"""Synthetic traces fitted to recorded routing of public models."""

import numpy as np
import pytest

from tests.trace.shared_routing import PER_TOKEN, olmoe_trace, per_token_trace
from tests.trace.test_synth_like import misses
from ultraep_sim.trace.synth_like import fit_like

pytestmark = pytest.mark.shared_data


@pytest.mark.parametrize("name", PER_TOKEN)
def test_statistics_of_recorded_tokens_are_kept(name):
    real = per_token_trace(name)
    fitted = fit_like(real)
    for seed in (0, 11):
        assert misses(real, fitted.draw(seed=seed)) == []


def test_one_step_a_domain_works_though_it_is_noise_around_one_profile():
    real = olmoe_trace()
    assert np.array_equal(fit_like(real).draw().keys(), real.keys())
