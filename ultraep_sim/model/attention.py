"""The attention of one layer: what its time, parameters and cache depend on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import ProfileError

AttentionKind = Literal["gqa", "mla"]

#: One count of tokens, or one for each of several chunks or requests.
Tokens = TypeVar("Tokens", int, NDArray[np.int64])


def check_count(owner: str, name: str, value: object, minimum: int) -> None:
    """Refuse anything but an integer from `minimum` up, naming its owner and field."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ProfileError(
            f"{name} is an integer from {minimum} up", place=owner, value=value, remedy="correct it"
        )


def visible_keys(start: Tokens, count: Tokens, window: int = 0) -> Tokens:
    """Keys that the queries of a chunk attend to, summed over the queries.

    Parameters
    ----------
    start, count : int or integer ndarray [S]
        Tokens of the sequence before the chunk, and in it.
    window : int
        A query sees itself and the ``window - 1`` tokens before it; 0: all of them.

    Returns
    -------
    int or integer ndarray [S]
        Exact, so a sequence has the same sum however it is cut: ``n c + n (n + 1) / 2`` where a
        chunk of n tokens starts at c and no window hides any.
    """
    return _seen_from_zero(start + count, window) - _seen_from_zero(start, window)


def _seen_from_zero(tokens: Tokens, window: int) -> Tokens:
    """Sum the keys that the first tokens of a sequence see."""
    rising = in_reach(tokens, window)
    return rising * (rising + 1) // 2 + (tokens - rising) * rising


def in_reach(tokens: Tokens, window: int) -> Tokens:
    """Tokens that a layer still needs of those so far: the last `window` (0: all of them)."""
    if not window:
        return tokens
    return tokens.clip(max=window) if isinstance(tokens, np.ndarray) else min(tokens, window)


@dataclass(frozen=True)
class AttentionShape:
    """Attention of one layer.

    Parameters
    ----------
    heads, kv_heads : int
        Query heads and key/value heads (MLA: `kv_heads` equals `heads`).
    head_dim : int
        Width of a query and key head; for MLA the part without rotary embedding.
    kind : {"gqa", "mla"}
        Grouped-query attention, or multi-head latent attention.
    q_rank, kv_rank : int
        MLA only: ranks of the compressed query and of the compressed key/value.
    rope_dim, v_dim : int
        MLA only: rotary width added to each query and key head, width of a value head.
    window, window_every : int
        Every `window_every`-th layer sees only the last `window` tokens (0: no window).
    """

    heads: int
    kv_heads: int
    head_dim: int
    kind: AttentionKind = "gqa"
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    v_dim: int = 0
    window: int = 0
    window_every: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(AttentionKind):
            raise ProfileError(
                "unknown attention kind", place="attention", value=self.kind, remedy="gqa or mla"
            )
        positive = {"heads", "kv_heads", "head_dim"}
        if self.kind == "mla":
            positive |= {"q_rank", "kv_rank", "rope_dim", "v_dim"}
        for f in fields(self):
            if f.name != "kind":
                minimum = 1 if f.name in positive else 0
                check_count("attention", f.name, getattr(self, f.name), minimum)
        if self.heads % self.kv_heads:
            raise ProfileError(
                f"{self.heads} heads cannot share {self.kv_heads} key/value heads",
                place="attention",
                value=self.kv_heads,
                remedy="kv_heads must divide heads",
            )
        if (self.window == 0) != (self.window_every == 0):
            raise ProfileError(
                "window and window_every go together",
                place="attention",
                value=(self.window, self.window_every),
                remedy="give both or neither",
            )

    @property
    def qk_dim(self) -> int:
        """Width of a query and of a key head, rotary part included."""
        return self.head_dim + (self.rope_dim if self.kind == "mla" else 0)

    @property
    def value_dim(self) -> int:
        """Width of a value head."""
        return self.v_dim if self.kind == "mla" else self.head_dim

    @property
    def cache_elements(self) -> int:
        """Elements of KV cache per token and layer (full-attention layers)."""
        if self.kind == "mla":
            return self.kv_rank + self.rope_dim
        return 2 * self.kv_heads * self.head_dim

    def projection_params(self, hidden: int) -> int:
        """Parameters of all projections of one layer, output projection included."""
        out = self.heads * self.value_dim * hidden
        if self.kind == "mla":
            query = hidden * self.q_rank + self.q_rank * self.heads * self.qk_dim
            latent = hidden * (self.kv_rank + self.rope_dim)
            expand = self.kv_rank * self.heads * (self.head_dim + self.v_dim)
            return query + latent + expand + out
        return hidden * (self.heads + 2 * self.kv_heads) * self.head_dim + out

    @property
    def layer_kinds(self) -> tuple[tuple[float, int], ...]:
        """Share of the layers and their window (0: all tokens), of every kind of layer there is."""
        if not self.window:
            return ((1.0, 0),)
        share = 1 / self.window_every
        windowed = ((share, self.window),)
        return windowed if self.window_every == 1 else (*windowed, (1 - share, 0))

    def mean_context(self, sequence_length: int) -> float:
        """Keys a query attends to, mean over the positions of a sequence and over the layers."""
        seen = (share * visible_keys(0, sequence_length, w) for share, w in self.layer_kinds)
        return float(sum(seen) / sequence_length)
