"""What a trace was recorded from: the metadata that travels with its counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NoReturn

from ..errors import TraceError

FORMAT_VERSION = 1
PHASES = ("training", "prefill")

# Far above any model or cluster there is; they only stop absurd claims before anything is
# allocated in their name.
MAX_EXPERTS = 65_536
MAX_SOURCE_RANKS = 65_536
MAX_LAYERS = 65_536
MAX_TOKENS_PER_RANK = 2**31 - 1
MAX_META_BYTES = 4 << 20

_SAMPLING_KEYS = ("step_every", "steps", "layers", "ranks")


@dataclass(frozen=True)
class TraceMeta:
    """What a trace is a recording of.

    Parameters
    ----------
    model : str
        The model whose router decided.
    num_experts : int
        Logical experts of one MoE layer, the length of a load row.
    top_k : int
        Experts chosen per token; every row sum is a multiple of it.
    num_layers : int
        MoE layers in the model. Layers of records count MoE layers only, from 0.
    source_ranks : int
        Rows of each load matrix; 1 means that the source is unknown (summed).
    tokens_per_rank : int
        Nominal tokens per source row and micro-batch; with ``source_ranks == 1`` those of the
        whole group.
    phase : {"training", "prefill"}
        What the model was doing.
    recorded : str
        How the trace was made, one sentence.
    synthetic : bool
        True for anything drawn from a random generator instead of decided by a router.
    sampling : dict
        What was left out: ``{}`` for nothing, else any of ``{"step_every": n}``,
        ``{"steps": [[first, past_last], ...]}``, ``{"layers": [...]}``, ``{"ranks": [...]}``.
    notes : dict
        Free JSON: seed, command, corpus, ``rescaled_to``, ``sources``, ...

    Raises
    ------
    TraceError
        If a field has the wrong type or an impossible value.

    Examples
    --------
    >>> meta = TraceMeta(model="toy", num_experts=8, top_k=2, num_layers=1, source_ranks=4,
    ...                  tokens_per_rank=16, phase="prefill", recorded="by hand", synthetic=False)
    >>> TraceMeta.from_json(meta.to_json()) == meta
    True
    """

    model: str
    num_experts: int
    top_k: int
    num_layers: int
    source_ranks: int
    tokens_per_rank: int
    phase: str
    recorded: str
    synthetic: bool
    sampling: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "recorded"):
            _check_text(name, getattr(self, name))
        _check_int("num_experts", self.num_experts, 1, MAX_EXPERTS)
        _check_int("top_k", self.top_k, 1, self.num_experts, "a token takes an expert once at most")
        _check_int("num_layers", self.num_layers, 1, MAX_LAYERS)
        _check_int("source_ranks", self.source_ranks, 1, MAX_SOURCE_RANKS)
        _check_int("tokens_per_rank", self.tokens_per_rank, 1, MAX_TOKENS_PER_RANK)
        if self.phase not in PHASES:
            _refuse("phase", "is not a known phase", self.phase, f"use one of {', '.join(PHASES)}")
        if not isinstance(self.synthetic, bool):
            _refuse("synthetic", "is not a boolean", self.synthetic, "use true or false")
        _check_sampling(self.sampling)
        _check_json("notes", self.notes)

    @property
    def kind(self) -> str:
        """``"recorded"`` or ``"SYNTHETIC"``: the word that tables and plots must show."""
        return "SYNTHETIC" if self.synthetic else "recorded"

    def describe(self) -> str:
        """Return ``"toy: 8 experts top-2, 1 MoE layers, 4 source ranks x 16 tokens"``."""
        rows = "source unknown" if self.source_ranks == 1 else f"{self.source_ranks} source ranks"
        return (
            f"{self.model}: {self.num_experts} experts top-{self.top_k}, "
            f"{self.num_layers} MoE layers, {rows} x {self.tokens_per_rank} tokens"
        )

    def replace(self, **changes: Any) -> TraceMeta:
        """Return a copy with some fields changed, checked again."""
        return replace(self, **changes)

    def with_note(self, key: str, value: Any) -> TraceMeta:
        """Return a copy with one more (or one changed) entry in ``notes``."""
        return replace(self, notes={**self.notes, key: value})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        return asdict(self)

    def to_json(self) -> str:
        """Return canonical JSON: ``format_version`` and the fields, keys sorted."""
        members = {"format_version": FORMAT_VERSION, **self.to_dict()}
        return json.dumps(members, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> TraceMeta:
        """Read what `to_json` wrote.

        Raises
        ------
        TraceError
            If it is no such JSON, a newer format version, or a field is wrong.
        """
        members = _load_object(text)
        version = members.pop("format_version", None)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            _refuse("format_version", "is missing or no positive integer", version)
        if version > FORMAT_VERSION:
            _refuse(
                "format_version",
                f"is newer than the {FORMAT_VERSION} this release reads",
                version,
                "upgrade ultraep-sim, or write the trace again with this release",
            )
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(members) - known):
            _refuse(unknown[0], "is not a metadata field", members[unknown[0]])
        if missing := sorted(known - {"sampling", "notes"} - set(members)):
            _refuse(missing[0], "is missing")
        return cls(**members)


def _load_object(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_META_BYTES:
        raise TraceError(
            f"metadata of {len(text)} bytes is longer than the {MAX_META_BYTES} allowed",
            place="metadata",
            remedy="keep large notes in a file beside the trace",
        )
    try:
        members = json.loads(text, parse_constant=_no_constant)
    # Deep nesting raises RecursionError; undecodable bytes and bad JSON are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise TraceError(
            "metadata is not JSON",
            place="metadata",
            value=type(error).__name__,
            remedy="the file is damaged or another tool wrote it; convert it again",
        ) from None
    if not isinstance(members, dict):
        raise TraceError("metadata is not a JSON object", place="metadata", value=members)
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(name: str, problem: str, value: Any = ..., remedy: str | None = None) -> NoReturn:
    given = {} if value is ... else {"value": value}
    raise TraceError(
        f"{name} {problem}",
        place=f"metadata.{name}",
        remedy=remedy or "correct the metadata of the trace",
        **given,
    )


def _check_int(name: str, value: Any, low: int, high: int, why: str = "") -> None:
    # A bool is an int to Python but never a count.
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(name, "is not an integer", value)
    if not low <= value <= high:
        _refuse(name, f"must lie in {low}..{high}" + (f" ({why})" if why else ""), value)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        _refuse(name, "must be a text that is not empty", value)


def _check_json(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        _refuse(name, "must be an object", value)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        _refuse(name, "must hold plain JSON values only", value, "use str, int, float, list, dict")
    if json.loads(text) != value:
        _refuse(name, "changes when written as JSON", value, "use text keys and lists, no tuples")


def _check_sampling(value: Any) -> None:
    _check_json("sampling", value)
    if unknown := sorted(set(value) - set(_SAMPLING_KEYS)):
        known = ", ".join(_SAMPLING_KEYS)
        _refuse("sampling", f"has an unknown key {unknown[0]!r}", value, f"use {known}")
    if "step_every" in value:
        _check_int("sampling.step_every", value["step_every"], 1, 2**31 - 1)
    if "steps" in value and not _is_list(value["steps"], _is_window):
        _refuse("sampling.steps", "must be a list of [first, past_last] pairs", value["steps"])
    for name in ("layers", "ranks"):
        if name in value and not _is_list(value[name], _is_index):
            _refuse(f"sampling.{name}", f"must be a list of {name[:-1]} numbers", value[name])


def _is_list(value: Any, check: Any) -> bool:
    return isinstance(value, list) and all(check(item) for item in value)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_window(value: Any) -> bool:
    return _is_list(value, _is_index) and len(value) == 2 and value[0] < value[1]
