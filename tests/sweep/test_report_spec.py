from __future__ import annotations

import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.sweep.report_spec import BETTER, ReportSpec
from ultraep_sim.sweep.spec import RESULT_COLUMNS

ROWS = [{"policy": "a", "layer_time_ms": 1.0, "iteration_ms": 2.0, "odd": 3.0}]


def test_the_headline_is_the_iteration_where_there_is_one() -> None:
    assert ReportSpec().resolve(ROWS, []).metric == "iteration_ms"
    layer = [{"policy": "a", "layer_time_ms": 1.0}]
    assert ReportSpec().resolve(layer, []).metric == "layer_time_ms"


def test_settings_are_told_from_conditions_by_name() -> None:
    axes = ["ep.slots_per_rank", "ep.ranks", "cadence", "EP size", "workload.synthetic.drift",
            "model", "link", "ep.domain_size", "imbalance", "stragglers", "rack.scale_up_GBps",
            "step"]  # fmt: skip
    aim = ReportSpec().resolve(ROWS, axes)
    assert aim.settings == ("ep.slots_per_rank", "ep.ranks", "cadence", "EP size")
    assert aim.conditions == tuple(axes[4:])


def test_what_is_named_makes_the_rest_the_other() -> None:
    axes = ["slots", "load", "link"]
    assert ReportSpec(settings=("link",)).resolve(ROWS, axes).conditions == ("slots", "load")
    assert ReportSpec(conditions=("load",)).resolve(ROWS, axes).settings == ("slots", "link")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"metric": "speed"}, "report.metric: the rows have no such column (got 'speed')"),
        ({"metric": "odd"}, "say better: lower, or better: higher"),
        ({"settings": ("depth",)}, "report.settings: the rows have no such column (got 'depth')"),
        ({"settings": ("slots",), "conditions": ("slots",)}, "either a setting or a condition"),
    ],
)
def test_what_cannot_be_is_refused(spec, text) -> None:
    with pytest.raises(InputError, match="report") as error:
        ReportSpec(**spec).resolve(ROWS, ["slots"])
    assert text in str(error.value)


def test_a_direction_that_is_said_is_believed() -> None:
    aim = ReportSpec(metric="odd", better="higher").resolve(ROWS, [])
    assert (aim.metric, aim.sign("odd"), aim.sign("iteration_ms")) == ("odd", -1, 1)


def test_rows_without_a_time_are_refused() -> None:
    with pytest.raises(InputError, match="no column can be the headline"):
        ReportSpec().resolve([{"policy": "a"}], [])


def test_every_number_of_a_run_has_a_direction() -> None:
    assert RESULT_COLUMNS - set(BETTER) == {"point", "policy", "fits", "workload", "notes"}


def test_a_yaml_list_is_taken() -> None:
    assert ReportSpec.model_validate({"settings": ["slots"]}).settings == ("slots",)
