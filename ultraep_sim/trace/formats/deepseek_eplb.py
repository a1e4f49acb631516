"""The weight tensor of DeepSeek's EPLB: [layers, experts], the load of every logical expert.

A ``.pt`` file that is one tensor, a ``.npy`` array, or a dictionary (``.pt``, npz, safetensors)
with ``weight`` of that shape. Whole numbers: averages and shares cannot be counts and are refused.
The file is one step.
"""

from __future__ import annotations

from collections.abc import Iterator

from .arrays import Array, int_array
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .sample import Sample

NAME = "deepseek-eplb"
TITLE = "DeepSeek EPLB weight [layers, experts]: .pt, .npy, .npz, .safetensors"


def recognise(sample: Sample) -> bool:
    """Whether it is such a tensor."""
    array = _array(sample)
    return array is not None and array.ndim == 2 and array.dtype.kind in "iuf"


def _array(sample: Sample) -> Array | None:
    if sample.kind not in ("torch", "npy", "npz", "safetensors"):
        return None
    return next((sample.arrays[name] for name in ("", "weight") if name in sample.arrays), None)


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open a weight tensor.

    Raises
    ------
    TraceError
        If it does not hold whole numbers.
    """
    array = _array(sample)
    assert array is not None  # noqa: S101  # it was recognised
    weight = int_array(array, 2, "[layers, experts]")
    layers = options.place_layers(range(len(weight)))

    def records(_: Observed) -> Iterator[RawRecord]:
        for at, layer in layers.position.items():
            yield RawRecord(0, 0, layer, weight[at][None].copy())

    meta = DumpMeta(
        NAME,
        options.num_experts(sample.path, weight.shape[1]),
        layers.num_layers,
        model=options.name(),
        top_k=options.choose_k(sample.path, None),
        phase=options.phase or "prefill",
        recorded="a weight tensor for DeepSeek's EPLB",
        positions=True,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    return Dump(meta, (sample.path,), records)
