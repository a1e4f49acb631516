"""Write the data card of a shipped trace: what, how, from which text, with which numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for entry in (str(HERE), str(HERE.parent)):
    if entry not in sys.path:
        sys.path.insert(0, entry)

from statistics_of import correlation, statistics  # noqa: E402

from ultraep_sim.trace import load_trace  # noqa: E402

CAVEAT = (
    "**This is a tiny byte-level model** (width 64, 8 layers), made to have a router that really "
    "learns and really is balanced, not to be a good language model. A source rank holds {tokens} "
    "tokens of {what}, so sampling noise per source and per expert is far larger than in "
    "production (4,096 and more tokens a rank), and the skew is not that of any production "
    "model. The counts are recorded, not drawn: the random generator chose the initial weights "
    "and the text, the router did the rest."
)


__all__ = ["card", "correlation", "write_card"]


def write_card(path: Path) -> None:
    """Write ``NAME.md`` beside ``NAME.parquet``."""
    path.with_suffix(".md").write_text(card(path))


def card(path: Path) -> str:
    trace = load_trace(path)
    meta, notes = trace.meta, trace.meta.notes
    sections = [
        f"# {path.name}",
        f"{meta.recorded[0].upper()}{meta.recorded[1:]}. Model: {meta.model}. "
        f"Recorded {notes['date']}, torch {notes['torch']}. Phase: {meta.phase}. "
        f"{meta.kind.capitalize()}, not synthetic.",
        f"SHA-256 of the file: `{trace.digest}`.",
        "## What it is",
        contents(meta),
        CAVEAT.format(
            tokens=meta.tokens_per_rank if meta.source_ranks > 1 else 128,
            what="two sequences" if meta.phase == "prefill" else "one sequence",
        ),
        "## How it was made",
        how(meta),
        "## Statistics",
        "Computed from the file by `traces/statistics_of.py`; a test recomputes this section.",
        statistics(trace),
        "## Text and licences",
        corpus_section(),
    ]
    return "\n\n".join(sections) + "\n"


def contents(meta: Any) -> str:
    shape = (
        f"{meta.num_layers} MoE layers, {meta.num_experts} experts, top-{meta.top_k}; "
        f"{meta.source_ranks} source rank(s) of {meta.tokens_per_rank} tokens."
    )
    if meta.phase == "prefill":
        names = ", ".join(f"{name} (batches {a}-{b - 1})" for name, a, b in meta.notes["segments"])
        return (
            f"{shape} One step is one prefill batch. The text was never trained on and switches "
            f"domain at once between segments: {names}. In the mixed segment every sequence is "
            "from any domain."
        )
    windows = meta.sampling.get("steps")
    if windows:
        shown = ", ".join(f"{a}-{b - 1}" for a, b in windows)
        return (
            f"{shape} Windows of consecutive steps: {shown}. One micro-batch a step. A source "
            "rank is one sequence of one domain; `domain_of_source` in the metadata says which "
            "(an index into `domains`, one digit a source)."
        )
    return f"{shape} Every step of the run; the source ranks are summed. One micro-batch a step."


def how(meta: Any) -> str:
    notes = meta.notes
    lines = [
        "```",
        "python traces/corpus.py",
        f"python traces/make_traces.py train {notes['run']}",
        "python traces/make_traces.py export",
        "```",
        "",
    ]
    config = notes.get("config")
    if config:
        model = config["model"]
        losses = ", ".join(f"{k}: {v}" for k, v in notes["loss_nats_per_byte"].items())
        lines.append(
            f"Seed {config['seed']} for the weights, {notes['batch_seed']} for the batches. "
            f"{config['steps']} steps of {config['sequences']} sequences x {model['sequence']} "
            f"bytes; AdamW, peak learning rate {config['learning_rate']}, warm-up "
            f"{config['warmup']} steps, cosine to a tenth, weight decay "
            f"{config['weight_decay']}, clip {config['clip']}; one thread, float32. Width "
            f"{model['width']}, {model['heads']} heads, expert width {model['expert_width']}. "
            f"Cross-entropy in nats per byte by step: {losses}. `make trace-check` retrains steps "
            "0-19 from the bytes in `first-steps.npz`."
        )
    else:
        bits = ", ".join(f"{name} {value}" for name, value in notes["bits_per_byte"].items())
        lines.append(
            f"The model is the last checkpoint of the run `{notes['run']}` (see "
            f"`{notes['run']}.md`); the mixed segment is drawn with seed {notes['batch_seed']}. "
            f"Bits per byte on this text: {bits}. The checkpoint (25 MB) is not shipped: making "
            "this file again takes the whole training run."
        )
    return "\n".join(lines)


def corpus_section() -> str:
    manifest = json.loads((HERE / "corpus.json").read_text())
    lines = [
        "Debian 12 packages; digests of the extracted text are in `corpus.json`. The traces hold "
        "counts, no text. `first-steps.npz` holds 165,120 bytes of excerpts (20 steps x 64 "
        "windows of 129 bytes) under the licences below, for the reproduction check only.",
        "",
        "| package | version | licence |",
        "|---|---|---|",
    ]
    for package, entry in manifest["packages"].items():
        lines.append(f"| {package} | {entry['version']} | {entry['licence']} |")
    lines += ["", "| domain | what | training bytes | held-out bytes |", "|---|---|---:|---:|"]
    for domain, entry in manifest["domains"].items():
        lines.append(
            f"| {domain} | {entry['language']} | {entry['train']['bytes']:,} | "
            f"{entry['heldout']['bytes']:,} |"
        )
    return "\n".join(lines)
