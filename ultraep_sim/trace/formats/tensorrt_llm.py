"""TensorRT-LLM: expert statistics to read, ``moe_load_balancer.yaml`` to write.

Statistics are a folder with ``meta_info.json`` (``num_experts``, ``num_experts_per_token``) and one
``rank{r}.safetensors`` a rank, keys ``"{iteration}_{layer}"``. A tensor is [experts] counts, or
[tokens, k] expert ids (assumed: the writer's two ways). Layers are the model's; iterations are
steps. The file says no rank, so the files of a folder are source ranks in natural order of their
names.

The balancer file holds ``num_slots``, ``initial_global_assignments`` (layer -> logical expert of
every slot, rank by rank) and ``layer_updates_per_iter`` (0: the placement stays).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...planning.plan import Plan
from .arrays import int_array
from .assignments import all_layers
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .json_file import json_counts, json_int, read_json
from .limits import MAX_TEXT_BYTES, check_size, damaged, refuse
from .sample import Sample
from .tokens import count_tokens

NAME = "tensorrt-llm"
TITLE = "TensorRT-LLM expert statistics, rank{r}.safetensors beside meta_info.json"
META_FILE = "meta_info.json"
_KEY = re.compile(r"(\d{1,9})_(\d{1,9})")


def recognise(sample: Sample) -> bool:
    """Whether it is the statistics of a rank."""
    if sample.kind != "safetensors" or not sample.arrays:
        return False
    return all(_KEY.fullmatch(key) for key in sample.arrays)


def is_companion(sample: Sample) -> bool:
    """Whether it is the ``meta_info.json`` of such a folder, which holds no counts."""
    return sample.kind == "json" and "num_experts_per_token" in sample.members


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open the file of one rank.

    Raises
    ------
    TraceError
        If a tensor is neither counts nor ids.
    """
    path = sample.path
    beside = path.parent / META_FILE
    said = read_json(beside) if beside.is_file() else {}
    if not isinstance(said, dict):
        refuse("is not a JSON object", beside, "document", said)
    experts = options.num_experts(
        path, json_int(said, "num_experts", path=beside, place="document")
    )
    top_k = options.choose_k(
        path, json_int(said, "num_experts_per_token", path=beside, place="document")
    )
    keys = sorted(tuple(int(x) for x in key.split("_")) for key in sample.arrays)
    names = {tuple(int(x) for x in key.split("_")): key for key in sample.arrays}
    layers = options.place_layers(layer for _, layer in keys)

    def records(observed: Observed) -> Iterator[RawRecord]:
        for step, layer in keys:
            if layer not in layers.position:
                continue
            array = sample.arrays[names[step, layer]]
            if array.ndim == 2:
                ids = int_array(array, 2, "[tokens, k]")
                counts = count_tokens(ids[:, None], experts, observed, path)[0]
            else:
                counts = int_array(array, 1, "[experts] or [tokens, k]")
            yield RawRecord(step, 0, layers.position[layer], counts[None])

    meta = DumpMeta(
        NAME,
        experts,
        layers.num_layers,
        model=options.name(said.get("model")),
        top_k=top_k,
        phase=options.phase or "prefill",
        recorded="by the expert statistics of TensorRT-LLM",
        sampling=layers.sampling,
        notes=layers.notes,
    )
    return Dump(meta, (path,), records, (keys[0][0], 0))


def write_placement(plans: Mapping[int, Plan], out: Path) -> Path:
    """Write ``moe_load_balancer.yaml``.

    Parameters
    ----------
    plans : mapping of int to Plan
        Model layer -> its plan.
    out : Path

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the plans do not share ranks and slots.
    """
    import yaml

    tables = all_layers(plans)
    document = {
        "num_slots": int(next(iter(tables.values())).size),
        "initial_global_assignments": {
            layer: table.reshape(-1).tolist() for layer, table in tables.items()
        },
        "layer_updates_per_iter": 0,
    }
    out.write_text(yaml.safe_dump(document, default_flow_style=None, sort_keys=False))
    return out


def read_placement(path: Path) -> dict[int, NDArray[np.int64]]:
    """Read ``moe_load_balancer.yaml`` back: layer -> logical expert of every slot.

    Raises
    ------
    TraceError
        If it is no such file.
    """
    import yaml

    with damaged(path):
        check_size(path.stat().st_size, path, "document", MAX_TEXT_BYTES)
        try:
            document: Any = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            refuse("is not YAML", path, "document", str(error))
    document = document if isinstance(document, dict) else {}
    slots, given = document.get("num_slots"), document.get("initial_global_assignments")
    if not isinstance(given, dict) or not all(isinstance(x, int) for x in given):
        refuse("has no initial_global_assignments", path, "document")
    tables = {
        layer: json_counts(row, 1, path, f"layer {layer}") for layer, row in sorted(given.items())
    }
    for layer, row in tables.items():
        if len(row) != slots or int(row.min()) < 0:
            refuse(f"must be {slots} expert ids", path, f"layer {layer}", len(row))
    return tables
