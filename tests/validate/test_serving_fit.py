"""The mean prompt length that is fitted: the largest with which the line is met, or an error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.validate import serving_fit
from ultraep_sim.validate.serving_cases import cases


@pytest.fixture
def fit(monkeypatch):
    """Fit against a server that meets its line up to a known mean length."""

    def run(limit):
        def known(case, variant, found, *_, **__):
            return SimpleNamespace(meets=found.mean_tokens <= limit)

        monkeypatch.setattr(serving_fit, "serve", known)
        return serving_fit.fit_mean(cases()[0])

    return run


@pytest.mark.parametrize("limit", [510.0, 1659.0, 7000.0, 300.0, 101.0])
def test_the_largest_mean_that_meets_the_line_is_found(fit, limit):
    found = fit(limit)
    assert found <= limit
    assert found == pytest.approx(limit, rel=0.0051)


def test_no_bound_of_the_search_is_taken_for_an_answer(fit):
    with pytest.raises(InputError, match="no mean prompt length meets the line"):
        fit(50.0)
    with pytest.raises(InputError, match="every mean prompt length meets the line"):
        fit(20_000.0)
