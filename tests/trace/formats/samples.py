"""A sample of every readable format, built from its written schema, and what it must read as.

All samples hold the same routing: 3 steps, 2 layers, 8 experts, top-2, from a toy trace; formats
that are one step, or that know ranks, hold the part of it that they can.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EXPERTS, TOP_K, LAYERS, STEPS, TOKENS, PHYSICAL = 8, 2, 2, 3, 20, 10
# Physical experts 8 and 9 are second instances of 1 and 5; layer 1 has them in another order.
PLACEMENT = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 1, 5], [7, 6, 5, 4, 3, 2, 1, 0, 5, 1]])


def chosen(seed: int = 0) -> NDArray[np.int64]:
    """Experts of every token, [steps, tokens, layers, k], each token different experts."""
    rng = np.random.default_rng(seed)
    taste = -np.log(np.arange(1, EXPERTS + 1))
    keys = taste + rng.gumbel(size=(STEPS, TOKENS, LAYERS, EXPERTS))
    return np.argsort(-keys, axis=-1)[..., :TOP_K]


def counts_of(ids: NDArray[np.int64], experts: int = EXPERTS) -> NDArray[np.int64]:
    """Counts [steps, layers, experts] of ids [steps, tokens, layers, k]."""
    return np.stack(
        [
            [
                np.bincount(step[:, layer].ravel(), minlength=experts)
                for layer in range(ids.shape[2])
            ]
            for step in ids
        ]
    )


def on_instances(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Physical ids of logical ones; tokens of odd place use the last instance of an expert."""
    out = np.empty_like(ids)
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            places = np.flatnonzero(PLACEMENT[layer] == expert)
            mine = ids[:, :, layer] == expert
            odd = np.broadcast_to((np.arange(TOKENS) % 2 == 1)[None, :, None], mine.shape)
            out[:, :, layer] = np.where(
                mine, np.where(odd, places[-1], places[0]), out[:, :, layer]
            )
    return out


IDS = chosen()
COUNTS = counts_of(IDS)
PHYSICAL_IDS = on_instances(IDS)
PHYSICAL_COUNTS = counts_of(PHYSICAL_IDS, PHYSICAL)


class Case(NamedTuple):
    """Files of a sample; the counts it must read as, [steps, layers, sources, experts]."""

    format: str
    files: dict[str, bytes]
    counts: NDArray[np.int64]
    options: Mapping[str, Any] = MappingProxyType({})


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array), allow_pickle=False)
    return out.getvalue()


def npz(**members: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{name: np.asarray(value) for name, value in members.items()})
    return out.getvalue()


def lines(*objects: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in objects)


def safetensors(tensors: dict[str, NDArray[Any]]) -> bytes:
    """The bytes of the published layout, written by hand."""
    names = {"int64": "I64", "int32": "I32", "float32": "F32"}
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def torch_file(value: Any) -> bytes:
    """A ``.pt`` archive of plain values and int64 or float32 arrays, pickled by hand.

    Protocol 2, as ``torch.save`` writes it.
    """
    storages: list[NDArray[Any]] = []
    pickle = b"\x80\x02" + _pickled(value, storages) + b"."
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for at, array in enumerate(storages):
            archive.writestr(f"archive/data/{at}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _pickled(value: Any, storages: list[NDArray[Any]]) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_text(k) + _pickled(v, storages) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_pickled(v, storages) for v in value) + b"e"
    if isinstance(value, tuple):
        return _tuple(*(_pickled(v, storages) for v in value))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _int(value)
    kind = {"int64": "LongStorage", "float32": "FloatStorage", "int32": "IntStorage"}
    storage = b"ctorch\n" + kind[str(value.dtype)].encode() + b"\n"
    place = _tuple(
        _text("storage"), storage, _text(str(len(storages))), _text("cpu"), _int(value.size)
    )
    storages.append(value)
    stride = [int(np.prod(value.shape[at + 1 :])) for at in range(value.ndim)]
    arguments = _tuple(
        place + b"Q",
        _int(0),
        _tuple(*map(_int, value.shape)),
        _tuple(*map(_int, stride)),
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _summed(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return counts[:, :, None]


def cases() -> dict[str, Case]:
    """Every sample by a name of its own."""
    ultraep = npz(
        metadata=json.dumps(
            {"format": "ultra_ep_trace_v1", "num_experts": EXPERTS, "top_k": TOP_K}
        ),
        layers=np.tile(np.arange(LAYERS), STEPS),
        virtual_layers=np.tile(np.arange(LAYERS), STEPS),
        microbatches=np.repeat(np.arange(STEPS), LAYERS),
        pre_logical_loads=COUNTS.reshape(-1, EXPERTS).astype(np.int32),
        post_physical_loads=PHYSICAL_COUNTS.reshape(-1, PHYSICAL).astype(np.int32),
    )
    ranks = np.stack([counts_of(on_instances(chosen(seed)), PHYSICAL) for seed in (1, 2)])
    logical = np.stack([counts_of(chosen(seed)) for seed in (1, 2)]).transpose(1, 2, 0, 3)
    about = {"format": "mcore_ep_load_dump_v1", "num_experts": EXPERTS, "top_k": TOP_K}
    mcore = {
        f"load{rank}.npz": npz(
            metadata=json.dumps({**about, "rank": rank}),
            loads=ranks[rank].transpose(1, 0, 2).astype(np.int32),
            physical_to_logical_map=PLACEMENT,
        )
        for rank in (1, 0)
    }
    passes = [
        {"forward_pass_id": step, "rank": rank, "global_physical_count": ranks[rank][step]}
        for step in range(STEPS)
        for rank in (0, 1)
    ]
    tokens = [
        {
            "forward_pass_id": step,
            "rank": 0,
            "topk_ids_of_layer": PHYSICAL_IDS[step].transpose(1, 0, 2).copy(),
        }
        for step in range(STEPS)
    ]
    trt = {
        f"rank{rank}.safetensors": safetensors(
            {
                f"{step}_{layer + 3}": logical[step, layer, rank].astype(np.int64)
                for step in range(STEPS)
                for layer in range(LAYERS)
            }
        )
        for rank in (0, 1)
    }
    said = {"num_experts": EXPERTS, "num_experts_per_token": TOP_K}
    windows = [
        {
            "step": 10 * step,
            "window_expert_load": PHYSICAL_COUNTS[step].tolist(),
            "physical_to_logical_map": PLACEMENT.tolist(),
        }
        for step in range(STEPS)
    ]
    history = {"load_history": [{"logical_expert_load": step.tolist()} for step in COUNTS]}
    texts = [base64.b64encode(step.astype("<i4").tobytes()).decode() for step in IDS]
    logits = np.zeros((LAYERS, TOKENS, EXPERTS), np.float32)
    np.put_along_axis(
        logits, IDS[0].transpose(1, 0, 2), 1.0 + np.arange(TOP_K, dtype=np.float32), 2
    )
    megatron = {
        f"router_trace_rank{rank}.jsonl": lines(
            *(
                {
                    "iteration": step,
                    "layer_number": layer + 1,
                    "rank": rank,
                    "tokens_per_expert": logical[step, layer, rank].tolist(),
                }
                for step in range(STEPS)
                for layer in range(LAYERS)
            )
        )
        for rank in (0, 1)
    }
    per_token = {"experts": EXPERTS}
    k = {"top_k": TOP_K}
    flat = IDS.reshape(-1, LAYERS, TOP_K)
    owners = np.repeat(np.arange(STEPS), TOKENS)
    return {
        # The profiler numbers micro-batches, not steps: all belong to step 0.
        "ultraep": Case("ultraep-npz", {"a.npz": ultraep}, _summed(COUNTS)),
        "mcore": Case("mcore-npz", mcore, logical),
        "sglang-stat": Case(
            "sglang-stat", {"a.pt": torch_file({"logical_count": COUNTS})}, _summed(COUNTS), k
        ),
        "sglang-stat-layout": Case(
            "sglang-stat",
            {
                "a.pt": torch_file(
                    {
                        "logical_count": COUNTS.transpose(1, 2, 0).copy(),
                        "logical_count_layout": "layer,expert,step",
                    }
                )
            },
            _summed(COUNTS),
            k,
        ),
        "sglang-per-pass": Case(
            "sglang-per-pass",
            {"a.pt": torch_file({"records": passes, "last_physical_to_logical_map": PLACEMENT})},
            logical,
            k,
        ),
        "sglang-per-token": Case(
            "sglang-per-token",
            {"a.pt": torch_file({"records": tokens, "last_physical_to_logical_map": PLACEMENT})},
            _summed(COUNTS),
        ),
        "sglang-json": Case(
            "sglang-json",
            {"a.json": json.dumps({"logical_count": COUNTS.tolist()}).encode()},
            _summed(COUNTS),
            k,
        ),
        "tensorrt-llm": Case(
            "tensorrt-llm", {**trt, "meta_info.json": json.dumps(said).encode()}, logical
        ),
        "vllm-eplb": Case("vllm-eplb", {"a.jsonl": lines(*windows)}, _summed(COUNTS), k),
        "vllm-history": Case(
            "vllm-load-history", {"a.json": json.dumps(history).encode()}, _summed(COUNTS), k
        ),
        "routed-npy": Case(
            "routed-experts",
            {"a.npy": npy(flat.astype(np.int16))},
            _summed(COUNTS),
            {**per_token, "tokens_per_step": TOKENS},
        ),
        "routed-npz": Case(
            "routed-experts",
            {"a.npz": npz(routed_experts=flat.astype(np.int32), seq=owners)},
            _summed(COUNTS),
            per_token,
        ),
        "routed-base64": Case(
            "routed-experts",
            {"a.jsonl": lines(*({"meta_info": {"routed_experts": text}} for text in texts))},
            _summed(COUNTS),
            {**per_token, **k, "layers": LAYERS},
        ),
        "megatron": Case("megatron", megatron, logical, k),
        "tokens-per-expert": Case(
            "counts", {"a.npz": npz(tokens_per_expert=COUNTS)}, _summed(COUNTS), k
        ),
        "router-logits-pt": Case(
            "hf-router-logits", {"a.pt": torch_file(tuple(logits))}, _summed(COUNTS[:1]), k
        ),
        "router-logits-safetensors": Case(
            "hf-router-logits",
            {
                "a.safetensors": safetensors(
                    {f"router_logits.{at}": layer for at, layer in enumerate(logits)}
                )
            },
            _summed(COUNTS[:1]),
            k,
        ),
        "eplb-pt": Case("deepseek-eplb", {"a.pt": torch_file(COUNTS[0])}, _summed(COUNTS[:1]), k),
        "eplb-npy": Case(
            "deepseek-eplb", {"a.npy": npy(COUNTS[0].astype(float))}, _summed(COUNTS[:1]), k
        ),
    }


def put(case: Case, folder: Path) -> Path:
    """Write a sample; return its file, or its folder where it is several."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    return folder if len(case.files) > 1 else folder / next(iter(case.files))
