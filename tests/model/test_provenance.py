import math

import pytest

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.provenance import (
    PROVENANCES,
    UNITS,
    Quantity,
    assumed,
    datasheet,
    fitted,
    measured,
    published,
)


def test_value_float_and_si_of_each_unit() -> None:
    for unit, factor in UNITS.items():
        q = datasheet(3, unit, "sheet")
        assert q.value == 3.0
        assert float(q) == 3.0
        assert q.si == pytest.approx(3 * factor)


def test_network_rate_in_bits_becomes_bytes() -> None:
    assert datasheet(400, "Gb/s", "sheet").si == 50e9


@pytest.mark.parametrize(
    "make",
    [measured, published, datasheet, fitted],
    ids=["measured", "published", "datasheet", "fitted"],
)
def test_each_constructor_says_its_provenance(make, request) -> None:  # type: ignore[no-untyped-def]
    q = make(1, "s", "somewhere")
    assert q.provenance in PROVENANCES
    assert request.node.callspec.id == q.provenance
    assert q.provenance in str(q)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "5", None])
def test_impossible_values_are_refused(value: object) -> None:
    with pytest.raises(ProfileError, match=r"not a number|finite"):
        Quantity(value, "s", "measured", "a clock")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((1, "parsec", "measured", "x"), "unknown unit"),
        ((1, "s", "guessed", "x"), "unknown provenance"),
        ((1, "s", "measured", " "), "without a source"),
        ((1, "s", "assumed", "x"), "needs a range"),
        ((1, "s", "fitted", "x", 0.5), "needs a range"),
        ((1, "s", "fitted", "x", 2, 3), "outside its own range"),
    ],
)
def test_incomplete_quantities_are_refused(arguments: tuple[object, ...], problem: str) -> None:
    with pytest.raises(ProfileError, match=problem):
        Quantity(*arguments)  # type: ignore[arg-type]


def test_override_keeps_unit_and_says_whose_number_it_is() -> None:
    q = datasheet(900, "GB/s", "sheet").overridden(450)
    assert (q.value, q.unit, q.provenance, q.source) == (
        450.0,
        "GB/s",
        "assumed",
        "scenario override",
    )


def test_to_dict_carries_the_range() -> None:
    assert assumed(2, "us", "why", 1, 3).to_dict() == {
        "value": 2.0,
        "unit": "us",
        "provenance": "assumed",
        "source": "why",
        "range": [1.0, 3.0],
    }
    assert "range" not in measured(2, "us", "clock").to_dict()
