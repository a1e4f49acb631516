"""Model shapes, hardware profiles, and the provenance of every number in them."""

from ultraep_sim.model.attention import AttentionShape
from ultraep_sim.model.hardware import RACKS, GpuProfile, RackProfile, get_rack
from ultraep_sim.model.provenance import Quantity
from ultraep_sim.model.shapes import MODELS, ModelShape, get_model

__all__ = [
    "MODELS",
    "RACKS",
    "AttentionShape",
    "GpuProfile",
    "ModelShape",
    "Quantity",
    "RackProfile",
    "get_model",
    "get_rack",
]
