"""Profiles survive a round trip through YAML, and a scenario may name one."""

from __future__ import annotations

import pytest
import yaml

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.model.profile_file import FORMAT, rack_from_dict, read_profile, write_profile
from ultraep_sim.scenario.presets import read_rack, write_rack


@pytest.mark.parametrize("name", sorted(RACKS))
def test_a_rack_survives_its_file(name, tmp_path):
    file = tmp_path / "rack.yaml"
    write_profile(file, RACKS[name], {"inputs": {}})
    assert read_profile(file) == RACKS[name]
    assert read_rack(str(file)) == RACKS[name]


def test_a_scenario_overrides_numbers_of_a_file_and_its_resolved_form_reads_back(tmp_path):
    file = tmp_path / "rack.yaml"
    write_profile(file, RACKS["h200-nvl8"], {})
    body = yaml.safe_load(file.read_text())
    body["rack"]["name"] = "mine"
    file.write_text(yaml.safe_dump(body))
    rack = read_rack({"preset": str(file), "overrides": {"scale_up_GBps": 400}})
    assert rack.scale_up_GBps.value == 400
    assert read_rack(write_rack(rack)) == rack


BARE = {"value": 15.0, "unit": "us", "provenance": "fitted", "source": "rows"}
SHARED = {**BARE, "range": [10.0, 20.0]}


def broken(change):
    rack = RACKS["gb200-nvl72"].to_dict()
    change(rack)
    return rack


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("relay_us"), "rack.relay_us: a number is missing"),
        (lambda r: r.update(extra=1), "no such number"),
        (lambda r: r["gpu"].update(sms=3), "gpu.sms: a number tells"),
        (lambda r: r["gpu"].update(hbm_GB={**r["gpu"]["hbm_GB"], "value": -1}), "gpu.hbm_GB"),
        (lambda r: r["gpu"].update(hbm_GB={**r["gpu"]["hbm_GB"], "unit": []}), "gpu.hbm_GB"),
        (lambda r: r["gpu"].update(hbm_GB={**r["gpu"]["hbm_GB"], "range": [1]}), "low, high"),
        (lambda r: r.update(gpu=None), "expected a mapping"),
        (lambda r: r.update(relay_us={**r["relay_us"], "shared": [1]}), "rack.relay_us: shared"),
        (lambda r: r.update(relay_us={**SHARED, "shared": {"a": "1"}}), "finite numbers by name"),
        (lambda r: r.update(relay_us={**SHARED, "shared": {"a": True}}), "finite numbers by name"),
        (lambda r: r.update(relay_us={**BARE, "shared": {"a": 1.0}}), "with a range"),
    ],
)
def test_a_broken_rack_is_named(change, words):
    with pytest.raises(ProfileError, match=words):
        rack_from_dict(broken(change))


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "p.yaml"
    with pytest.raises(ProfileError, match=r"p\.yaml"):
        read_profile(file)
    for text, words in (
        ("[", "no YAML"),
        ("format: other", FORMAT),
        (f"format: {FORMAT}", "mapping"),
    ):
        file.write_text(text)
        with pytest.raises(ProfileError, match=words):
            read_profile(file)
