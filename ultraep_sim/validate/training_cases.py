"""The published training runs: which models, how divided, and what was measured.

A model is compared when its parallelism, its shape and its ideal throughput are known; whatever
rows the files hold are used, and what is not published stays None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..compute.model_flops import step_flops
from ..model import MODELS, ModelShape
from .tables import Tables, load_tables, number

TOKENS = 8192
"""Tokens of a rank and micro-batch (published for Qwen3-235B: 65,536 pairs a rank)."""

CADENCE_STEPS = 3
"""Global batches between two placements of EPLB (published)."""


@dataclass(frozen=True)
class Published:
    """What was measured for one policy; None where it was not."""

    tflops: float | None
    imbalance: float | None


@dataclass(frozen=True)
class Case:
    """One published training run.

    Attributes
    ----------
    shape : ModelShape
    ranks, replicas, stages, slots : int
        Expert-parallel ranks, data-parallel copies, pipeline stages, redundant slots a rank.
    recomputes : bool
        Whether the model's public recipe recomputes everything; the paper does not say.
    published : dict of str to Published
        By policy, in the order of the file.
    """

    shape: ModelShape
    ranks: int
    replicas: int
    stages: int
    slots: int
    recomputes: bool
    published: dict[str, Published]

    @property
    def ideal_tflops(self) -> float:
        """Published throughput of the force-balanced run."""
        found = self.published["ideal"].tflops
        assert found is not None  # noqa: S101  # `cases` leaves out models without it
        return found

    @property
    def layers(self) -> float:
        """MoE layers of one stage; a mean where they do not divide."""
        return self.shape.moe_layers / self.stages

    def flops(self, sequence_length: int) -> float:
        """Model FLOPs of one GPU in one micro-batch."""
        return step_flops(self.shape, TOKENS, sequence_length) / self.stages

    def ideal_s(self, sequence_length: int) -> float:
        """Seconds a micro-batch takes at the published ideal throughput, all included.

        Head, optimizer, synchronisation and pipeline bubbles are in it, spread evenly over the
        micro-batches.
        """
        return self.flops(sequence_length) / (self.ideal_tflops * 1e12)


def cases(tables: Tables | None = None) -> list[Case]:
    """Return the published runs that can be set up, by default of the tables that ship."""
    tables = load_tables() if tables is None else tables
    measured: dict[str, dict[str, Published]] = {}
    for row in tables["training"]:
        found = Published(number(row["tflops_per_gpu"]), number(row["mean_rank_imbalance"]))
        measured.setdefault(row["model"], {})[row["policy"]] = found
    known = []
    for row in tables["settings"]:
        published = measured.get(row["model"], {})
        degrees = degrees_of(row["training"])
        slots = number(row["redundant_slots_per_rank"])
        ideal, none = published.get("ideal"), published.get("none")
        if row["model"] not in MODELS or "EP" not in degrees or slots is None:
            continue
        if ideal is None or ideal.tflops is None or none is None or none.imbalance is None:
            continue
        known.append(
            Case(
                MODELS[row["model"]],
                degrees["EP"],
                degrees.get("DP", 1),
                degrees.get("PP", 1),
                int(slots),
                "full recompute" in row.get("notes", ""),
                published,
            )
        )
    return known


def degrees_of(text: str) -> dict[str, int]:
    """Read ``EP64 DP2 (128 GPUs)``."""
    return {kind: int(size) for kind, size in re.findall(r"\b(EP|DP|PP)(\d+)\b", text)}
