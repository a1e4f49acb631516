"""What can go wrong on the way to a GPU; every message is one sentence, and the command fails."""

from __future__ import annotations

from ultraep_sim.errors import UltraEPSimError


class MissingHardwareError(UltraEPSimError):
    """A GPU, driver, peer or library that is not on this machine."""


class FabricError(UltraEPSimError):
    """A transfer broke its protocol: a hang, an overwritten slot, mismatched processes."""
