"""What a calibration found: fits, a rack with fitted numbers, what was wrong with the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ultraep_sim.calibrate.fit import FitResult
from ultraep_sim.calibrate.runlog.findings import Finding
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.provenance import Quantity


@dataclass(frozen=True)
class Outcome:
    """A calibration of a rack, or of something that is none.

    Parameters
    ----------
    title : str
        What was measured.
    fits : dict of str to FitResult
    inputs : dict of str to str
        SHA-256 of what was read, by name.
    rack : RackProfile or None
        With the fitted numbers; None where the measurements are no rack's.
    numbers : dict of str to Quantity
        What was replaced in the rack, by dotted name.
    findings : tuple of Finding
        Bad rows of a log, and what was done about them.
    warnings : tuple of str
        Beside those of the fits.
    unfitted : dict of str to str
        What was read and not fitted, and why.
    """

    title: str
    fits: dict[str, FitResult]
    inputs: dict[str, str]
    rack: RackProfile | None = None
    numbers: dict[str, Quantity] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    unfitted: dict[str, str] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """Return what a profile file tells beside the rack."""
        return {
            "measured_on": self.title,
            "inputs": {"files": self.inputs},
            "fits": {name: found.to_dict() for name, found in self.fits.items()},
            "findings": [one.to_dict() for one in self.findings],
            "warnings": list(self.warnings),
            "unfitted": self.unfitted,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping of everything."""
        rack = None if self.rack is None else self.rack.to_dict()
        return {"rack": rack, "replaced": list(self.numbers), **self.notes()}


def with_numbers(rack: RackProfile, numbers: Mapping[str, Quantity], name: str) -> RackProfile:
    """Return a rack under another name with numbers replaced; ``gpu.`` before those of its GPU."""
    of_gpu = {k.removeprefix("gpu."): q for k, q in numbers.items() if k.startswith("gpu.")}
    own: dict[str, Any] = {k: q for k, q in numbers.items() if not k.startswith("gpu.")}
    changes: dict[str, Any] = of_gpu
    return replace(rack, name=name, gpu=replace(rack.gpu, **changes), **own)
