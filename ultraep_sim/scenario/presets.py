"""From what a scenario file writes to model shapes, racks, layouts and policies, and back."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.hardware import RACKS, RackProfile
from ultraep_sim.model.profile_file import rack_from_dict, read_profile
from ultraep_sim.model.shapes import MODELS, ModelShape

if TYPE_CHECKING:
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies.base import Policy
    from ultraep_sim.scenario.schema import Scenario

_T = TypeVar("_T")

CHANGED = " (changed)"

#: Value of a policy's option ``speeds`` that means: those of the scenario's stragglers.
SCENARIO_SPEEDS = "stragglers"


def read_model(value: Any) -> ModelShape:
    """Read a preset name, ``{preset: NAME, field: value}``, or every field of a shape.

    Raises
    ------
    ProfileError
        An unknown preset or field, or an impossible value.
    """
    if isinstance(value, ModelShape):
        return value
    if not isinstance(value, Mapping):
        return _preset(value, MODELS, "model")
    if "preset" not in value:
        _check_fields(value, [f.name for f in fields(ModelShape)], "model")
        return ModelShape.from_dict(value)
    base = _preset(value["preset"], MODELS, "model")
    changes = {key: item for key, item in value.items() if key != "preset"}
    _check_fields(changes, [f.name for f in fields(ModelShape)], "model")
    if not changes:
        return base
    return ModelShape.from_dict({**base.to_dict(), "name": base.name + CHANGED, **changes})


def write_model(shape: ModelShape) -> Any:
    """Return what `read_model` reads back as this shape: a name where a preset is unchanged."""
    return shape.name if MODELS.get(shape.name) == shape else shape.to_dict()


def read_rack(value: Any) -> RackProfile:
    """Read a preset name, or ``{preset: NAME, overrides: {number: value}}``.

    Overrides may also stand beside ``preset``. A name that ends in ``.yaml`` is a profile that
    ``ultraep-sim calibrate`` wrote; a mapping without ``preset`` is every number of a rack, as a
    resolved scenario writes it.

    Raises
    ------
    ProfileError
        An unknown preset or number, or an impossible value.
    """
    if isinstance(value, RackProfile):
        return value
    if not isinstance(value, Mapping):
        return _rack_base(value)
    if "preset" not in value and "gpu" in value and "name" in value:
        return rack_from_dict(value)
    if "preset" not in value:
        raise ProfileError(
            "a rack names the preset it starts from",
            value=sorted(map(str, value)),
            remedy="write rack: {preset: paper-rack64, overrides: {scale_up_GBps: 800}}",
        )
    base = _rack_base(value["preset"])
    changes = {key: item for key, item in value.items() if key not in ("preset", "overrides")}
    written = value.get("overrides") or {}
    if not isinstance(written, Mapping):
        raise ProfileError(
            "overrides are a mapping",
            value=written,
            remedy="write overrides: {scale_up_GBps: 800}",
        )
    changes = {**written, **changes}
    if not changes:
        return base
    _check_fields(
        [key for key in changes if "." not in str(key)], [f.name for f in fields(base)], "rack"
    )
    return replace(base.with_overrides(changes), name=base.name + CHANGED)


def _rack_base(name: Any) -> RackProfile:
    """Return a preset, or the rack of a profile file."""
    if isinstance(name, str) and name.endswith((".yaml", ".yml")):
        return read_profile(name)
    return _preset(name, RACKS, "rack")


def write_rack(rack: RackProfile) -> Any:
    """Return what `read_rack` reads back as this rack: a name, or a preset and what differs."""
    base = RACKS.get(rack.name.removesuffix(CHANGED))
    if base is None:
        return rack.to_dict()
    old = base.quantities()
    changed = {
        name: number.value for name, number in rack.quantities().items() if number != old.get(name)
    }
    return {"preset": base.name, "overrides": changed} if changed else base.name


def domain_size(scenario: Scenario) -> int:
    """Return the ranks of one scale-up domain: as given, or as the rack has them."""
    given = scenario.ep.domain_size
    return min(scenario.rack.domain_size if given is None else given, scenario.ep.ranks)


def layout_of(scenario: Scenario) -> EPLayout:
    """Return the expert-parallel layout of a scenario."""
    from ultraep_sim.planning import EPLayout

    return EPLayout(
        num_ranks=scenario.ep.ranks,
        num_experts=scenario.model.num_experts,
        slots_per_rank=scenario.ep.slots_per_rank,
        domain_size=domain_size(scenario),
    )


def policies_of(scenario: Scenario) -> Iterable[tuple[int, Policy]]:
    """Build the policies one by one, with their index; a wrong option raises PolicyError."""
    from ultraep_sim.policies.registry import get_policy

    layout = layout_of(scenario)
    for index, spec in enumerate(scenario.policies):
        options = spec.options
        if options.get("speeds") == SCENARIO_SPEEDS:  # the engine knows them; any will do here
            options = {**options, "speeds": [1.0] * layout.num_ranks}
        yield index, get_policy(spec.name, layout, **options)


def _preset(name: Any, known: Mapping[str, _T], what: str) -> _T:
    if isinstance(name, str) and name in known:
        return known[name]
    raise ProfileError(f"unknown {what} preset", value=name, remedy=did_you_mean(name, known))


def _check_fields(given: Iterable[Any], known: list[str], what: str) -> None:
    for key in given:
        if key not in known:
            raise ProfileError(
                f"unknown key {key!r} of a {what}", value=key, remedy=did_you_mean(key, known)
            )


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """Return a remedy: the closest choice, and all of them."""
    known = list(choices)
    close = difflib.get_close_matches(str(word), known, n=1)
    listed = "known: " + ", ".join(known)
    return f"did you mean {close[0]!r}? {listed}" if close else f"use one of these; {listed}"
