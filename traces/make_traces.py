"""Make, describe and check the shipped traces.

In this order::

    python traces/corpus.py                        # packages -> .corpus/text (needs Debian 12)
    python traces/make_traces.py first-steps       # bytes of steps 0-19 -> first-steps.npz
    python traces/make_traces.py train train-aux   # about an hour each on one core, resumable
    python traces/make_traces.py train train-bias
    python traces/make_traces.py export            # counts -> parquet, prefill, data cards
    python traces/make_traces.py check             # retrain steps 0-19, compare within 1 %

``check`` (``make trace-check``) needs only what is shipped.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
for path in (str(HERE), str(ROOT)):
    if path not in sys.path:
        sys.path.insert(0, path)

from cards import write_card  # noqa: E402

from hw_runtime.record import RouterRecorder, Sources  # noqa: E402
from hw_runtime.record.tiny_moe import TinyMoE, TinyMoEConfig  # noqa: E402
from hw_runtime.record.train import (  # noqa: E402
    Batches,
    BatchSource,
    TrainConfig,
    Trainer,
    single_threaded,
    train,
)
from ultraep_sim.trace import TraceMeta, TraceWriter, load_trace  # noqa: E402

BATCH_SEED = 1
FIRST_STEPS = 20
TOLERANCE = 0.01  # relative L1 distance of the counts
KEEP_AT = (200, 1200, 2400)
STEPS = 2400
RUNS = {
    "train-aux": TrainConfig(
        model=TinyMoEConfig(balance="aux", balance_coefficient=1e-2),
        steps=STEPS,
        warmup=200,
        seed=0,
    ),
    "train-bias": TrainConfig(
        model=TinyMoEConfig(balance="bias", balance_coefficient=1e-4, bias_step=1e-3),
        steps=STEPS,
        warmup=200,
        seed=0,
    ),
}
WINDOWS = {
    "train-aux": [(0, 32), (1184, 1216), (STEPS - 32, STEPS)],
    "train-bias": [(0, 40), (1190, 1210), (STEPS - 20, STEPS)],
}
BALANCE = {
    "aux": "softmax router, auxiliary-loss balancing (coefficient 1e-2)",
    "bias": "sigmoid router, DeepSeek-style selection bias (step 1e-3, sequence loss 1e-4)",
}
# Held-out prefill: (name, batches); "mixed" draws every sequence from any domain.
SEGMENTS = [
    ("python", 12),
    ("man-en", 12),
    ("man-de", 12),
    ("essays", 11),
    ("mixed", 13),
    ("man-ja", 12),
]
PREFILL_PER_RANK = 2  # sequences of a source rank
SOURCES = 64


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("first-steps", help="write the bytes of the first steps")
    verbs.add_parser("train", help="run or continue a training").add_argument("run", choices=RUNS)
    verbs.add_parser("export", help="write the traces and their cards")
    verbs.add_parser("cards", help="write the cards of the traces that are there")
    verbs.add_parser("check", help="retrain the first steps and compare")
    arguments = parser.parse_args(argv)
    with single_threaded():
        return run_verb(arguments)


def run_verb(arguments: argparse.Namespace) -> int:
    if arguments.verb == "train":
        train(
            RUNS[arguments.run],
            corpus_batches(RUNS[arguments.run]),
            ROOT / ".train" / arguments.run,
            keep_at=KEEP_AT,
            log=lambda line: print(line, flush=True),
        )
    elif arguments.verb == "first-steps":
        write_first_steps(HERE / "first-steps.npz")
    elif arguments.verb == "export":
        export()
        write_cards()
    elif arguments.verb == "cards":
        write_cards()
    else:
        return check_all()
    return 0


# -- text -----------------------------------------------------------------------------------


def texts(split: str) -> dict[str, np.ndarray]:
    """Domains of the corpus, uint8, in a fixed order."""
    found = sorted((ROOT / ".corpus" / "text").glob(f"*.{split}"))
    if not found:
        sys.exit("error: .corpus/text is empty; run: python traces/corpus.py")
    return {path.stem: np.frombuffer(path.read_bytes(), np.uint8) for path in found}


def corpus_batches(config: TrainConfig) -> Batches:
    return Batches(texts("train"), config.sequences, config.model.sequence, BATCH_SEED)


def write_first_steps(path: Path) -> None:
    """Keep the training bytes of the first steps, so that anyone can retrain them."""
    batches = corpus_batches(RUNS["train-aux"])
    data = np.stack([batches(step, 0) for step in range(FIRST_STEPS)])
    domains = np.stack([batches.domains(step, 0) for step in range(FIRST_STEPS)])
    np.savez_compressed(
        path, bytes=data, domains=domains.astype(np.uint8), names=np.array(batches.names)
    )


def shipped_batches(path: Path) -> BatchSource:
    """Batches of the first steps from the shipped bytes."""
    data = np.load(path, allow_pickle=False)["bytes"]
    return lambda step, micro_batch: data[step]


def corpus_differs(path: Path) -> bool:
    """Tell whether the corpus, where it is there, would give other bytes than the shipped."""
    if not any((ROOT / ".corpus" / "text").glob("*.train")):
        return False
    batches, shipped = corpus_batches(RUNS["train-aux"]), shipped_batches(path)
    return any((batches(step, 0) != shipped(step, 0)).any() for step in range(FIRST_STEPS))


# -- export ---------------------------------------------------------------------------------


def export() -> None:
    for run, config in RUNS.items():
        export_windows(run, config)
        export_steps(run, config)
    export_prefill("train-aux", HERE / "prefill-switch.parquet")


def write_cards() -> None:
    for path in sorted(HERE.glob("*.parquet")):
        write_card(path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def recorded_steps(run: str) -> Iterator[tuple[int, np.ndarray, float]]:
    """Counts uint16 [micro_batches, layers, sources, experts] and loss of every step."""
    for chunk in sorted((ROOT / ".train" / run).glob("counts-*.npz")):
        first = int(chunk.stem.split("-")[1])
        with np.load(chunk, allow_pickle=False) as data:
            counts, losses = data["counts"], data["loss"]
        for index in range(len(counts)):
            yield first + index, counts[index], float(losses[index])


def training_meta(run: str, config: TrainConfig, **changes: Any) -> TraceMeta:
    losses = [loss for _, _, loss in recorded_steps(run)]
    if len(losses) != config.steps:
        sys.exit(f"error: {run} has {len(losses)} of {config.steps} steps; train it to the end")
    every = [0, 100, config.steps // 2]
    notes = {
        "run": run,
        "command": f"python traces/make_traces.py train {run}",
        "config": asdict(config),
        "batch_seed": BATCH_SEED,
        "torch": torch.__version__,
        "date": run_date(run),
        "corpus_manifest_sha256": manifest_digest(),
        "loss_nats_per_byte": {str(s): round(losses[s], 3) for s in every}
        | {f"mean of the last 50 ({config.steps})": round(float(np.mean(losses[-50:])), 3)},
    }
    fields: dict[str, Any] = {
        "model": f"byte-level MoE of this project, {BALANCE[config.model.balance]}",
        "num_experts": config.model.experts,
        "top_k": config.model.top_k,
        "num_layers": config.model.layers,
        "source_ranks": config.sequences,
        "tokens_per_rank": config.model.sequence,
        "phase": "training",
        "recorded": f"router hooks during {config.steps} training steps on one CPU core",
        "synthetic": False,
    }
    extra = changes.pop("notes", {})
    return TraceMeta(**{**fields, **changes, "notes": {**notes, **extra}})


def export_windows(run: str, config: TrainConfig) -> None:
    """Windows of consecutive steps with every source rank."""
    windows = WINDOWS[run]
    batches = corpus_batches(config)
    kept = [step for a, b in windows for step in range(a, b)]
    # One digit a source: which domain its sequence came from.
    domains = {str(s): "".join(str(d) for d in batches.domains(s, 0)) for s in kept}
    meta = training_meta(
        run,
        config,
        sampling={"steps": [list(w) for w in windows]},
        notes={"domains": batches.names, "domain_of_source": domains},
    )
    wanted = set(kept)
    with TraceWriter(HERE / f"{run}.parquet", meta) as writer:
        for step, counts, _ in recorded_steps(run):
            if step in wanted:
                append(writer, step, counts.astype(np.int32))


def export_steps(run: str, config: TrainConfig) -> None:
    """Every step, sources summed."""
    tokens = config.sequences * config.model.sequence
    meta = training_meta(run, config, source_ranks=1, tokens_per_rank=tokens)
    with TraceWriter(HERE / f"{run}-steps.parquet", meta) as writer:
        for step, counts, _ in recorded_steps(run):
            append(writer, step, counts.sum(axis=2, keepdims=True, dtype=np.int32))


def append(writer: TraceWriter, step: int, counts: np.ndarray) -> None:
    for micro_batch, layers in enumerate(counts):
        for layer, loads in enumerate(layers):
            writer.append(step, micro_batch, layer, loads)


def export_prefill(run: str, out: Path) -> None:
    """Prefill of text that was never trained on, by segments of one domain."""
    config = RUNS[run]
    checkpoint = ROOT / ".train" / run / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    model = TinyMoE(config.model).eval()
    model.load_state_dict(state["model"])
    segments, at = [], 0
    for name, count in SEGMENTS:
        segments.append([name, at, at + count])
        at += count
    recorder = RouterRecorder(
        model,
        out,
        sources=Sources.by_sequence(SOURCES, PREFILL_PER_RANK),
        phase="prefill",
        name=f"byte-level MoE of this project, {BALANCE[config.model.balance]}, "
        f"after {state['step']} steps",
        recorded=f"router hooks during prefill of {at} batches of held-out text",
        notes={
            "run": run,
            "command": "python traces/make_traces.py export",
            "segments": segments,
            "torch": torch.__version__,
            "date": run_date(run),
            "batch_seed": BATCH_SEED,
            "corpus_manifest_sha256": manifest_digest(),
        },
    )
    losses = []
    recorder.flush_every = at + 1  # written at the end, when the losses are known
    with recorder, torch.inference_mode():
        for batch in prefill_batches(config.model.sequence):
            data = torch.from_numpy(batch.astype(np.int64))
            logits, _ = model(data[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data[:, 1:].flatten())
            losses.append(loss.item())
            recorder.end_step()
        recorder.notes["bits_per_byte"] = {
            name: round(float(np.mean(losses[a:b]) / np.log(2)), 2) for name, a, b in segments
        }


def prefill_batches(length: int) -> Iterator[np.ndarray]:
    """Consecutive windows of held-out text, uint8 [sequences, length + 1]."""
    held_out = texts("heldout")
    rng = np.random.Generator(np.random.Philox(key=[BATCH_SEED, 1 << 40]))
    sequences = SOURCES * PREFILL_PER_RANK
    used = dict.fromkeys(held_out, 0)
    for name, count in SEGMENTS:
        for _ in range(count):
            picks = [name] * sequences
            if name == "mixed":
                picks = [list(held_out)[i] for i in rng.integers(0, len(held_out), sequences)]
            rows = []
            for domain in picks:
                text, start = held_out[domain], used[domain]
                if start + length + 1 > text.size:
                    sys.exit(f"error: the held-out text of {domain} is too short")
                rows.append(text[start : start + length + 1])
                used[domain] = start + length
            yield np.stack(rows)


def run_date(run: str) -> str:
    """Day the run ended, UTC."""
    stamp = (ROOT / ".train" / run / "checkpoint.pt").stat().st_mtime
    return datetime.datetime.fromtimestamp(stamp, datetime.UTC).date().isoformat()


def manifest_digest() -> str:
    return hashlib.sha256((HERE / "corpus.json").read_bytes()).hexdigest()


# -- check ----------------------------------------------------------------------------------


def check_all() -> int:
    """Retrain the first steps of both runs; 0 if the shipped counts agree."""
    data = HERE / "first-steps.npz"
    failed = corpus_differs(data)
    if failed:
        print("first-steps.npz differs from the bytes that .corpus/text gives", file=sys.stderr)
    for run, config in RUNS.items():
        failed |= not check(config, shipped_batches(data), HERE / f"{run}.parquet", FIRST_STEPS)
    return int(failed)


def check(config: TrainConfig, batches: BatchSource, path: Path, steps: int) -> bool:
    """Retrain ``steps`` steps and compare with the shipped counts, source by source."""
    shape = (config.micro_batches, config.model.layers, config.sequences, config.model.experts)
    shipped = np.zeros((steps, *shape), dtype=np.int64)
    seen = 0
    for record in load_trace(path).select(steps=slice(0, steps)):
        shipped[record.step, record.micro_batch, record.layer] = record.loads
        seen += 1
    if seen != steps * config.micro_batches * config.model.layers:
        print(f"{path.name}: steps 0-{steps - 1} are not all there", file=sys.stderr)
        return False
    trainer = Trainer(config, batches)
    distances = [l1_distance(shipped[step], trainer.train_step()[0]) for step in range(steps)]
    whole, worst = float(np.mean(distances)), max(distances)  # every step has the same total
    good = whole <= TOLERANCE
    print(
        f"{path.name}: steps 0-{steps - 1} retrained, L1 distance {100 * whole:.4f} % "
        f"(worst step {100 * worst:.4f} %), {'within' if good else 'OUTSIDE'} "
        f"{100 * TOLERANCE:g} %"
    )
    return good


def l1_distance(shipped: np.ndarray, counts: np.ndarray) -> float:
    """Sum of absolute differences over the sum of the shipped counts."""
    difference = np.abs(shipped.astype(np.int64) - counts.astype(np.int64)).sum()
    return float(difference / shipped.sum())


if __name__ == "__main__":
    sys.exit(main())
