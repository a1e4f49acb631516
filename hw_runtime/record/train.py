"""Train the tiny model and keep the routing counts of every step; resumable.

The output directory holds ``counts-AAAAAA-BBBBBB.npz`` chunks (steps [A, B), member
``counts`` uint16 [steps, micro_batches, layers, sources, experts], ``loss`` float32
[steps]) and ``checkpoint.pt``. A chunk is complete before the checkpoint that follows it
names it, and both are renamed into place, so a killed run continues from its last
checkpoint and gives the same counts as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from hw_runtime.record.recorder import RouterRecorder
from hw_runtime.record.sources import Sources
from hw_runtime.record.tiny_moe import TinyMoE, TinyMoEConfig

# bytes [sequences, length + 1] of one micro-batch, from (step, micro_batch)
BatchSource = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class TrainConfig:
    """One training run, wholly determined by these values and the text.

    Parameters
    ----------
    steps : int
        Optimizer steps; also the length of the learning-rate schedule.
    sequences : int
        Sequences of a micro-batch. Sequence ``i`` is source rank ``i``.
    micro_batches : int
        Micro-batches accumulated into one step.
    seed : int
        Seeds the weights. The batches have their own seed (`Batches`).
    """

    model: TinyMoEConfig = field(default_factory=TinyMoEConfig)
    steps: int = 600
    sequences: int = 64
    micro_batches: int = 1
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 25

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, cosine to a tenth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Make torch sum in one fixed order inside a block: one thread, denormals as zero.

    Both are settings of the whole process, which others in it (numpy among them) would feel, so
    the block's end puts back what was there.
    """
    threads, flushing = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)
        torch.set_num_threads(threads)


def _flushes_denormals() -> bool:
    """Tell whether denormals count as zero now; torch can set this, but not say it."""
    return bool((torch.tensor(1e-310, dtype=torch.float64) * 1 == 0).item())


class Batches:
    """Draw training windows from the domains' text, deterministically.

    Parameters
    ----------
    texts : dict of str to uint8 array
        Text of each domain.
    sequences, length : int
        A micro-batch is ``sequences`` windows of ``length + 1`` bytes, each from one domain.
    seed : int
        The batch of (step, micro_batch) depends on these three only, not on history.
    """

    def __init__(
        self, texts: dict[str, np.ndarray], sequences: int, length: int, seed: int
    ) -> None:
        self.names = list(texts)
        self.texts = [texts[name] for name in self.names]
        self.sequences, self.length, self.seed = sequences, length, seed

    def domains(self, step: int, micro_batch: int) -> np.ndarray:
        """Return the domain index of each sequence, int64 [sequences]."""
        return self._rng(step, micro_batch).integers(0, len(self.texts), self.sequences)

    def __call__(self, step: int, micro_batch: int) -> np.ndarray:
        """Return the bytes of a micro-batch, uint8 [sequences, length + 1]."""
        rng = self._rng(step, micro_batch)
        domains = rng.integers(0, len(self.texts), self.sequences)
        rows = []
        for domain in domains:
            text = self.texts[domain]
            start = int(rng.integers(0, text.size - self.length))
            rows.append(text[start : start + self.length + 1])
        return np.stack(rows)

    def _rng(self, step: int, micro_batch: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, (step << 16) + micro_batch]))


class _Kept:
    """A recorder's sink that keeps the load matrices of the current step."""

    def __init__(self) -> None:
        self.loads: list[np.ndarray] = []

    def append(self, step: int, micro_batch: int, layer: int, loads: np.ndarray) -> None:
        """Keep int32 [sources, experts] of one layer; they come in order."""
        self.loads.append(loads)

    def take(self, micro_batches: int) -> np.ndarray:
        """Return int64 [micro_batches, layers, sources, experts] and forget them."""
        kept, self.loads = np.stack(self.loads).astype(np.int64), []
        return kept.reshape(micro_batches, -1, *kept.shape[1:])


class Trainer:
    """The loop: ``for step, counts, loss in Trainer(config, batches): ...``."""

    def __init__(self, config: TrainConfig, batches: BatchSource) -> None:
        self.config, self.batches = config, batches
        self.model = TinyMoE(config.model, seed=config.seed)
        self.kept = _Kept()
        sources = Sources.by_sequence(config.sequences)
        self.recorder = RouterRecorder(self.model, self.kept, sources=sources, flush_every=1)
        self.recorder.__enter__()  # hooked for the life of the trainer
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        self.step = 0

    def train_step(self) -> tuple[np.ndarray, float]:
        """One step; counts uint16 [micro_batches, layers, sources, experts], mean loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        total = 0.0
        for micro_batch in range(config.micro_batches):
            data = torch.from_numpy(self.batches(self.step, micro_batch).astype(np.int64))
            logits, balance = self.model(data[:, :-1])
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), data[:, 1:].reshape(-1))
            whole = loss + config.model.balance_coefficient * balance
            (whole / config.micro_batches).backward()
            total += loss.item() / config.micro_batches
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.recorder.end_step()
        counts = self.kept.take(config.micro_batches)
        self.model.update_selection_bias(torch.from_numpy(counts.sum(axis=(0, 2))))
        self.step += 1
        return counts.astype(np.uint16), total

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, float]]:
        """Train until the configured number of steps."""
        while self.step < self.config.steps:
            step = self.step
            counts, loss = self.train_step()
            yield step, counts, loss

    def save(self, path: Path) -> None:
        """Write model, optimizer and step, in one rename."""
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same configuration."""
        state = torch.load(path, weights_only=True)
        if state["config"] != asdict(self.config):
            raise ValueError(f"{path}: the checkpoint belongs to another configuration")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = self.recorder.step = state["step"]


@single_threaded()
def train(
    config: TrainConfig,
    batches: BatchSource,
    out: Path,
    *,
    keep_at: tuple[int, ...] = (),
    log: Callable[[str], None] = print,
) -> None:
    """Train to the end, or on from the last checkpoint in ``out``.

    Parameters
    ----------
    keep_at : tuple of int
        Steps whose checkpoint is kept under its own name as well.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, batches)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
        log(f"resumed at step {trainer.step}")
    counts: list[np.ndarray] = []
    losses: list[float] = []
    began = time.perf_counter()
    for step, count, loss in trainer:
        counts.append(count)
        losses.append(loss)
        now = time.perf_counter()
        load = count.sum(axis=(0, 2), dtype=np.int64)  # [layers, experts]
        ranks = load.reshape(load.shape[0], -1, max(1, load.shape[1] // 64)).sum(2)
        imbalance = " ".join(f"{v:.2f}" for v in ranks.max(1) / ranks.mean(1))
        log(f"step {step} loss {loss:.4f} {now - began:.2f}s EP64 {imbalance}")
        began = now
        done = step + 1
        if done % config.checkpoint_every == 0 or done == config.steps or done in keep_at:
            save_chunk(out, done - len(counts), np.stack(counts), np.array(losses, np.float32))
            trainer.save(checkpoint)
            if done in keep_at:
                trainer.save(out / f"checkpoint-{done:06d}.pt")
            counts, losses = [], []


def save_chunk(out: Path, first: int, counts: np.ndarray, losses: np.ndarray) -> None:
    """Write the counts of consecutive steps from ``first`` on, in one rename."""
    path = out / f"counts-{first:06d}-{first + len(counts):06d}.npz"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, counts=counts, loss=losses)
    part.replace(path)
