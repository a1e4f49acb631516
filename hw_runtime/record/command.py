"""``python -m hw_runtime record hf|tiny``: make a trace from a model and some text.

torch is imported by what runs, not by this module, so that the help comes without it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hw_runtime.record.errors import RecordError

HELP = "record the routing of a mixture-of-experts model as a trace"

_EXAMPLES = """\
examples:
  # prefill of a local Hugging Face model directory, 8 source ranks of 2 sequences each
  python -m hw_runtime record hf ./OLMoE-1B-7B --text book.txt --source-ranks 8 \\
      --sequences-per-rank 2 --sequence-length 512 --out olmoe.parquet

  # train the small byte-level model on your own files (one domain per file)
  python -m hw_runtime record tiny --text code.py --text novel.txt --steps 50 --out tiny.parquet

then look at it:
  ultraep-sim trace info olmoe.parquet

In your own training loop use hw_runtime.record.RouterRecorder instead: one line around the
loop, end_step() after each optimizer step. See its docstring.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two kinds of models."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    kinds = parser.add_subparsers(dest="kind", metavar="{hf,tiny}", required=True)

    hf = kinds.add_parser("hf", help="prefill of a local Hugging Face model on a text")
    hf.add_argument(
        "model", type=Path, help="model directory (from_pretrained, nothing is fetched)"
    )
    _common(hf)
    hf.add_argument("--source-ranks", type=int, default=1, help="rows of the load matrix [1]")
    hf.add_argument("--sequences-per-rank", type=int, default=1, help="per batch [1]")
    hf.add_argument("--sequence-length", type=int, default=512, help="tokens [512]")
    hf.add_argument("--batches", type=int, help="stop after so many [all the text gives]")
    hf.add_argument(
        "--bytes", action="store_true", help="feed raw bytes as token ids instead of a tokenizer"
    )
    hf.add_argument("--device", default="cpu", help="torch device [cpu]")
    hf.add_argument(
        "--dtype", default="auto", help="torch dtype of the weights, e.g. bfloat16 [auto]"
    )
    hf.set_defaults(record=_record_hf)

    tiny = kinds.add_parser("tiny", help="train the small byte-level model and record it")
    _common(tiny)
    tiny.add_argument("--steps", type=int, default=20, help="optimizer steps [20]")
    tiny.add_argument("--balance", choices=["aux", "bias"], default="aux", help="router [aux]")
    tiny.add_argument("--layers", type=int, default=8, help="MoE layers [8]")
    tiny.add_argument("--experts", type=int, default=128, help="experts of a layer [128]")
    tiny.add_argument("--top-k", type=int, default=8, help="experts of a token [8]")
    tiny.add_argument("--source-ranks", type=int, default=64, help="one sequence each [64]")
    tiny.add_argument("--micro-batches", type=int, default=1, help="in a step [1]")
    tiny.add_argument("--seed", type=int, default=0, help="of weights and batches [0]")
    tiny.set_defaults(record=_record_tiny)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, action="append", required=True, help="text file; may be repeated"
    )
    parser.add_argument("--out", type=Path, required=True, help="trace to write (.parquet)")


def run(arguments: argparse.Namespace) -> int:
    """Record, and say on stderr what was written."""
    for name in (
        "source_ranks", "sequences_per_rank", "sequence_length", "batches", "steps", "layers",
        "experts", "top_k", "micro_batches",
    ):  # fmt: skip
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            raise RecordError("must be at least 1", place=_option(name), value=value)
    _check_out(arguments.out)
    _require_torch()
    from hw_runtime.record.recorder import require_pyarrow

    require_pyarrow(arguments.out)
    arguments.record(arguments)
    print(f"wrote {arguments.out}", file=sys.stderr)
    return 0


def _check_out(out: Path) -> None:
    """Refuse a file that cannot be written before the model runs, not after."""
    if not out.parent.is_dir():
        raise RecordError("the directory does not exist", file=out.parent, place="--out")
    if out.is_dir():
        raise RecordError(
            "is a directory, not a file", file=out, place="--out",
            remedy=f"name the trace, such as {out / 'trace.parquet'}",
        )  # fmt: skip
    if not os.access(out.parent, os.W_OK):
        raise RecordError("the directory is not writable", file=out.parent, place="--out")


def _require_torch() -> None:
    try:
        import torch  # noqa: F401 - only whether it is there
    except ImportError as missing:
        raise RecordError(
            f"recording needs torch, which cannot be imported ({missing})",
            remedy="pip install -e '.[hw]'",
        ) from None


def read_text(path: Path) -> bytes:
    """Read a text file, or say in one line why not."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(error.strerror or "cannot be read", file=path, place="--text") from error
    if not data:
        raise RecordError("the file is empty", file=path, place="--text")
    return data


# -- Hugging Face ---------------------------------------------------------------------------


def _record_hf(arguments: argparse.Namespace) -> None:
    import torch

    from hw_runtime.record.recorder import RouterRecorder
    from hw_runtime.record.sources import Sources

    text = b"\n\n".join(read_text(path) for path in arguments.text)
    model = _load_model(arguments)
    ids = _token_ids(arguments, model, text)
    length = arguments.sequence_length
    batch = arguments.source_ranks * arguments.sequences_per_rank
    count = ids.size // (length * batch)
    if arguments.batches is not None:
        if arguments.batches > count:
            raise RecordError(
                f"the text is too short: {ids.size} tokens give {count} batches",
                place="--batches",
                value=arguments.batches,
                remedy=f"a batch takes {batch} sequences of {length} tokens",
            )
        count = arguments.batches
    if count == 0:
        raise RecordError(
            f"the text is too short for one batch of {batch} sequences of {length} tokens",
            file=arguments.text[0],
            value=f"{ids.size} tokens",
            remedy="give more text, fewer source ranks or shorter sequences",
        )
    batches = ids[: count * batch * length].reshape(count, batch, length)
    recorder = RouterRecorder(
        model,
        arguments.out,
        sources=Sources.by_sequence(arguments.source_ranks, arguments.sequences_per_rank),
        phase="prefill",
        name=arguments.model.resolve().name,
        recorded=f"prefill of {count} batches of {batch} x {length} tokens, router hooks",
        notes={"text": [path.name for path in arguments.text], "torch": torch.__version__},
    )
    base = getattr(model, "model", None)
    with recorder, torch.inference_mode():
        for rows in batches:
            tokens = torch.from_numpy(rows.astype(np.int64)).to(arguments.device)
            # The head's logits are large and nobody reads them; one position is enough.
            model(input_ids=tokens, use_cache=False, **({"logits_to_keep": 1} if base else {}))
            recorder.end_step()


def _load_model(arguments: argparse.Namespace) -> Any:
    import torch

    if not (arguments.model / "config.json").is_file():
        raise RecordError(
            "no config.json here", file=arguments.model, remedy="give a local model directory"
        )
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as missing:
        raise RecordError(
            "Hugging Face models need transformers", remedy="pip install transformers"
        ) from missing
    dtype = arguments.dtype
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise RecordError("no such torch dtype", place="--dtype", value=dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            arguments.model, local_files_only=True, dtype=dtype
        )
        return model.to(arguments.device).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise RecordError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}", file=arguments.model
        ) from error


def _token_ids(arguments: argparse.Namespace, model: Any, text: bytes) -> np.ndarray:
    if arguments.bytes:
        size = int(model.get_input_embeddings().weight.shape[0])
        if size < 256:
            raise RecordError(
                "the vocabulary is smaller than 256", place="--bytes", value=size,
                remedy="use the model's tokenizer",
            )  # fmt: skip
        return np.frombuffer(text, np.uint8)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise RecordError(
            "the model directory has no usable tokenizer",
            file=arguments.model,
            remedy="add its tokenizer files, or pass --bytes",
        ) from error
    return np.asarray(tokenizer(text.decode("utf-8", "replace"))["input_ids"], dtype=np.int64)


# -- our own model --------------------------------------------------------------------------


def _record_tiny(arguments: argparse.Namespace) -> None:
    from hw_runtime.record.tiny_moe import TinyMoEConfig
    from hw_runtime.record.train import Batches, TrainConfig, Trainer, single_threaded

    if arguments.top_k > arguments.experts:
        raise RecordError(
            "a token cannot take more experts than there are", place="--top-k",
            value=arguments.top_k, remedy=f"at most {arguments.experts}",
        )  # fmt: skip
    texts = {p.name: np.frombuffer(read_text(p), np.uint8) for p in arguments.text}
    coefficient = 1e-2 if arguments.balance == "aux" else 1e-4
    shape = TinyMoEConfig(
        layers=arguments.layers,
        experts=arguments.experts,
        top_k=arguments.top_k,
        balance=arguments.balance,
        balance_coefficient=coefficient,
    )
    for path, data in zip(arguments.text, texts.values(), strict=False):
        if data.size <= shape.sequence:
            raise RecordError(
                "the text is too short", file=path, value=f"{data.size} bytes",
                remedy=f"more than {shape.sequence} are needed",
            )  # fmt: skip
    config = TrainConfig(
        model=shape,
        steps=arguments.steps,
        sequences=arguments.source_ranks,
        micro_batches=arguments.micro_batches,
        warmup=min(200, arguments.steps),
        seed=arguments.seed,
    )
    batches = Batches(texts, config.sequences, shape.sequence, arguments.seed)
    with single_threaded(), _tiny_writer(arguments, config) as writer:
        trainer = Trainer(config, batches)
        for step, counts, loss in trainer:
            print(f"step {step} loss {loss:.4f}", file=sys.stderr)
            for micro_batch, layers in enumerate(counts):
                for layer, loads in enumerate(layers):
                    writer.append(step, micro_batch, layer, loads.astype(np.int32))


def _tiny_writer(arguments: argparse.Namespace, config: Any) -> Any:
    from ultraep_sim.trace import TraceMeta, TraceWriter

    meta = TraceMeta(
        model=f"tiny byte-level MoE ({arguments.balance})",
        num_experts=config.model.experts,
        top_k=config.model.top_k,
        num_layers=config.model.layers,
        source_ranks=config.sequences,
        tokens_per_rank=config.model.sequence,
        phase="training",
        recorded=f"{config.steps} training steps on CPU, router hooks",
        synthetic=False,
        notes={"seed": config.seed, "text": [p.name for p in arguments.text]},
    )
    return TraceWriter(arguments.out, meta)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
