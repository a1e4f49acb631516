"""How a layer is run: the choices that are the user's, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ultraep_sim.errors import InputError
from ultraep_sim.model.dtypes import DTYPES

from .job import Overlap

Phase = Literal["training", "prefill"]


@dataclass(frozen=True)
class LayerOptions:
    """How a layer is run.

    Parameters
    ----------
    tokens_per_rank : int
        Tokens of a rank in one micro-batch; sets the time of attention.
    phase : {"training", "prefill"}
        Prefill has no backward: its times are zero.
    sequence_length : int
        Tokens of a sequence.
    weight_dtype, dispatch_dtype, combine_dtype : {"bf16", "fp8", "fp4"}
        Formats of the expert weights (and their arithmetic) and of the two all-to-alls.
    recompute : {"none", "full"}
        Full: the backward runs the forward again first. The plan is kept, not solved again.
    tile_rows : int
        Rows of a GEMM tile.
    relay : {"auto", "off", "gain"}
        Whether a policy that relays may: by the published rule, never, or wherever the modelled
        distribution ends earlier.
    overlap : {"none", "shared_expert", "two_batch", "dualpipe"}
        Whether the shared experts run behind dispatch and combine, or the all-to-alls of one
        micro-batch behind the kernels of another (`ultraep_sim.engine.job`; only whole iterations
        have another, a single layer is timed as with ``none``).
    restore : {"exposed", "overlapped"}
        Whether restoring replica weights in the backward is hidden behind attention.
    grad_reduce_sms : int, optional
        SM budget of gradient reduction; the rack's by default.

    Raises
    ------
    InputError
        An impossible value.
    """

    tokens_per_rank: int
    phase: Phase = "training"
    sequence_length: int = 8192
    weight_dtype: str = "bf16"
    dispatch_dtype: str = "bf16"
    combine_dtype: str = "bf16"
    recompute: Literal["none", "full"] = "none"
    tile_rows: int = 128
    relay: Literal["auto", "off", "gain"] = "auto"
    overlap: Overlap = "none"
    restore: Literal["exposed", "overlapped"] = "exposed"
    grad_reduce_sms: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens_per_rank", "sequence_length", "tile_rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    "not a positive integer", place=name, value=value, remedy="give 1 or more"
                )
        choices = {
            "phase": get_args(Phase),
            "recompute": ("none", "full"),
            "relay": ("auto", "off", "gain"),
            "overlap": get_args(Overlap),
            "restore": ("exposed", "overlapped"),
            **dict.fromkeys(("weight_dtype", "dispatch_dtype", "combine_dtype"), DTYPES),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(
                    "unknown choice", place=name, value=value, remedy=f"one of {', '.join(allowed)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for the resolved scenario."""
        return asdict(self)
