"""``python -m hw_runtime record``: it records, it teaches, and it refuses in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pyarrow")

from hw_runtime.__main__ import main  # noqa: E402
from hw_runtime.record import RouterRecorder, Sources  # noqa: E402
from ultraep_sim.trace import load_trace  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DENSE = ["hf", "{dense}", "--bytes", "--text", "{text}", "--out", "{out}"]
TINY = ["--layers", "2", "--experts", "8", "--top-k", "2", "--source-ranks", "4", "--steps", "2"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    return path


def test_tiny_writes_a_trace(tmp_path: Path, text: Path) -> None:
    out = tmp_path / "t.parquet"
    command = ["record", "tiny", "--text", str(text), "--out", str(out), *TINY]
    assert main([*command, "--micro-batches", "2"]) == 0
    trace = load_trace(out)
    assert (trace.meta.source_ranks, trace.meta.tokens_per_rank) == (4, 128)
    assert trace.meta.synthetic is False
    assert trace.num_records == 2 * 2 * 2
    assert all((r.loads.sum(1) == 128 * 2).all() for r in trace)


def test_hf_records_the_prefill_of_a_local_directory(tmp_path: Path, text: Path, hf_model) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=256, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=8,
        num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "t.parquet"
    command = ["record", "hf", str(tmp_path / "model"), "--bytes", "--text", str(text)]
    shape = ["--source-ranks", "3", "--sequences-per-rank", "2", "--sequence-length", "16"]
    assert main([*command, *shape, "--batches", "4", "--out", str(out)]) == 0
    trace = load_trace(out)
    assert (trace.meta.model, trace.meta.phase) == ("model", "prefill")
    assert trace.steps.tolist() == [0, 1, 2, 3]

    rows: list[np.ndarray] = []

    class Rows:
        def append(self, step: int, micro_batch: int, layer: int, loads: np.ndarray) -> None:
            rows.append(loads)

    ids = np.frombuffer(text.read_bytes(), np.uint8)[: 4 * 6 * 16].reshape(4, 6, 16)
    with RouterRecorder(model, Rows(), sources=Sources.by_sequence(3, 2)), torch.no_grad():
        for batch in ids:
            model(input_ids=torch.from_numpy(batch.astype(np.int64)))
    for record, wanted in zip(trace, rows, strict=True):
        np.testing.assert_array_equal(record.loads, wanted)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tiny", "--text", "{no}", "--out", "{out}"], "No such file"),
        (["tiny", "--text", "{empty}", "--out", "{out}"], "the file is empty"),
        (["tiny", "--text", "{short}", "--out", "{out}"], "the text is too short"),
        (["tiny", "--text", "{text}", "--out", "{no}/t.parquet"], "does not exist"),
        (["tiny", "--text", "{text}", "--out", "{broken}", *TINY], "--out: is a directory"),
        (["tiny", "--text", "{text}", "--out", "", *TINY], "--out: is a directory"),
        (["tiny", "--text", "{text}", "--out", "{out}", "--steps", "0"], "--steps: must be"),
        (
            ["tiny", "--text", "{text}", "--out", "{out}", "--experts", "4", "--top-k", "5"],
            "--top-k: a token cannot take more",
        ),
        (["hf", "{no}", "--text", "{text}", "--out", "{out}"], "no config.json"),
        (["hf", "{broken}", "--text", "{text}", "--out", "{out}"], "cannot be loaded"),
        (
            [
                "hf",
                "{dense}",
                "--bytes",
                "--text",
                "{text}",
                "--out",
                "{out}",
                "--sequence-length",
                "16",
            ],
            "no mixture-of-experts layer",
        ),
        (["hf", "{dense}", "--text", "{text}", "--out", "{out}"], "pass --bytes"),
        (
            ["hf", "{dense}", "--bytes", "--text", "{short}", "--out", "{out}"],
            "too short for one batch",
        ),
        (
            [
                "hf",
                "{dense}",
                "--bytes",
                "--text",
                "{text}",
                "--out",
                "{out}",
                "--sequence-length",
                "16",
                "--batches",
                "99",
            ],
            "--batches: the text is too short",
        ),
        (
            [*DENSE, "--dtype", "load"],
            "no such torch dtype",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], problem: str, tmp_path: Path, text: Path, capsys
) -> None:
    places = {"no": "absent", "empty": "empty.txt", "short": "short.txt", "out": "t.parquet"}
    named = {key: str(tmp_path / name) for key, name in places.items()}
    named |= {"text": str(text), "broken": str(tmp_path / "broken"), "dense": str(tmp_path / "d")}
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("ab")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no_such_model"}')
    if "{dense}" in arguments:
        transformers = pytest.importorskip("transformers")
        config = transformers.LlamaConfig(
            vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "d")
        capsys.readouterr()
    assert main(["record", *(a.format(**named) for a in arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert not [line for line in lines if line.startswith("step ")], "refused before training"
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert problem in errors[0]
    assert not (tmp_path / "t.parquet").exists()


def test_help_teaches_by_example(capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["record", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "record hf ./OLMoE" in text
    assert "RouterRecorder" in text


def test_importing_needs_only_the_locked_down_set() -> None:
    # GPU machines have numpy, numba, torch and cuda-core; nothing else may be needed.
    code = """
import sys
class Blocked:
    names = {"pyarrow", "transformers", "pydantic", "yaml", "typer", "rich", "matplotlib", "scipy"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import hw_runtime, hw_runtime.__main__, hw_runtime.record, hw_runtime.record.command
import hw_runtime.record.train
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from hw_runtime.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("asked", [["record"], ["record", "hf"], ["record", "tiny"]])
def test_help_needs_no_torch(asked: list[str]) -> None:
    done = without_torch(*asked, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout


@pytest.mark.parametrize("kind", [["tiny"], ["hf", "no-such-model"]])
def test_recording_without_torch_says_how_to_get_it(
    kind: list[str], tmp_path: Path, text: Path
) -> None:
    out = tmp_path / "t.parquet"
    done = without_torch("record", *kind, "--text", str(text), "--out", str(out))
    assert done.returncode == 2
    assert done.stderr.startswith("error: recording needs torch")
    assert done.stderr.count("\n") == 1
    assert "pip install -e '.[hw]'" in done.stderr
    assert not out.exists()


def test_recording_puts_back_what_training_sets(tmp_path: Path, text: Path) -> None:
    before = torch.get_num_threads(), np.float64(1e-310) * np.float64(1)
    out = tmp_path / "t.parquet"
    assert main(["record", "tiny", "--text", str(text), "--out", str(out), *TINY]) == 0
    assert (torch.get_num_threads(), np.float64(1e-310) * np.float64(1)) == before
    assert before[1] > 0, "another test left denormals off"


def test_no_verb_is_imported_before_it_is_asked_for(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "hw_runtime.record.command", None)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "record" in capsys.readouterr().out
