"""vLLM-Ascend's expert map: a JSON placement, to write and to read back.

``{"moe_layer_count": L, "layer_list": [{"layer_id": 0, "device_count": R, "device_list":
[{"device_id": 0, "device_expert": [...]}, ...]}, ...]}``: the logical experts in the slots of every
device, layer by layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...planning.plan import Plan
from .assignments import all_layers
from .json_file import json_counts, read_json
from .limits import refuse

NAME = "vllm-ascend"
TITLE = "vLLM-Ascend expert map, JSON"


def write_placement(plans: Mapping[int, Plan], out: Path) -> Path:
    """Write an expert map.

    Parameters
    ----------
    plans : mapping of int to Plan
        MoE layer -> its plan.
    out : Path

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the plans do not share ranks and slots.
    """
    tables = all_layers(plans)
    document = {
        "moe_layer_count": len(tables),
        "layer_list": [
            {
                "layer_id": layer,
                "device_count": len(table),
                "device_list": [
                    {"device_id": rank, "device_expert": row.tolist()}
                    for rank, row in enumerate(table)
                ],
            }
            for layer, table in tables.items()
        ],
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    return out


def read_placement(path: Path) -> dict[int, NDArray[np.int64]]:
    """Read an expert map: layer -> logical expert of every slot, rank by rank.

    Raises
    ------
    TraceError
        If it is no such file.
    """
    document = read_json(path)
    found = document.get("layer_list") if isinstance(document, dict) else None
    if not isinstance(found, list) or not found:
        refuse("has no layer_list", path, "document")
    return dict(_layer(path, at, entry) for at, entry in enumerate(found))


def _layer(path: Path, at: int, entry: Any) -> tuple[int, NDArray[np.int64]]:
    place = f"layer_list[{at}]"
    devices = entry.get("device_list") if isinstance(entry, dict) else None
    if not isinstance(devices, list) or not isinstance(entry.get("layer_id"), int):
        refuse("has no layer_id and device_list", path, place)
    rows = [d.get("device_expert") if isinstance(d, dict) else None for d in devices]
    return entry["layer_id"], json_counts(rows, 2, path, place).reshape(-1)
