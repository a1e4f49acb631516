"""What ``doctor`` looks at. Each check returns what it found and what to do about it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

Status = Literal["ok", "note", "broken"]

MIN_PYTHON = (3, 11)
REQUIRED = ("numpy", "numba", "pyarrow", "pydantic", "pyyaml", "typer", "rich", "matplotlib")
_CARD_DIGEST = re.compile(r"SHA-256 of the file: `([0-9a-f]{64})`")


class Check(NamedTuple):
    """One finding: ``note`` is worth knowing and does not stop anything that is installed."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def all_checks() -> Iterator[Check]:
    """Yield the findings one by one, so that they can be shown as they come."""
    yield _python()
    for name in REQUIRED:
        yield _package(name)
    for name, check in (("numba", _numba), ("planner", _planner), ("results", _writable)):
        yield _guarded(name, check)
    yield _threads()
    yield _guarded("quickstart", _quickstart)
    yield from traces()
    yield _torch()
    yield _gpu()


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check of something that may be broken in any way, and report how."""
    try:
        return check()
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return Check(name, "broken", text, "install again: make clean && make run")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= MIN_PYTHON:
        return Check("python", "ok", version)
    remedy = "use Python 3.11 or newer: make PYTHON=python3.12 run"
    return Check("python", "broken", version, remedy)


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "broken", "not installed", f"pip install -c constraints.txt {name}")


def _numba() -> Check:
    import numba

    def triangle(n: int) -> int:
        total = 0
        for i in range(n):
            total += i
        return total

    # Compiled here and now: an installed numba may still lack a working LLVM.
    compiled: Any = numba.njit(triangle)
    if compiled(5) != 10:
        raise RuntimeError("a compiled loop gives a wrong sum")
    return Check("numba compiles", "ok", "a compiled loop gives the right sum")


def _planner() -> Check:
    import numpy as np

    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies.api import plan

    made = plan(np.array([70, 10, 5, 5, 5, 5, 10, 10]), EPLayout(4, 8, 1))
    made.validate()
    return Check("planner", "ok", f"imbalance {made.imbalance_before:.2f} -> {made.imbalance:.2f}")


def _writable() -> Check:
    target = Path("runs") if Path("runs").is_dir() else Path()
    if os.access(target, os.W_OK):
        return Check("results", "ok", f"{target.resolve()} can be written")
    return Check(
        "results", "note", f"{target.resolve()} cannot be written", "give run an --out DIR"
    )


def _threads() -> Check:
    import numba

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = numba.get_num_threads()
    return Check("threads", "ok", f"{usable} usable cores, numba may use {allowed}")


def _quickstart() -> Check:
    from ultraep_sim.commands.run import default_scenario
    from ultraep_sim.errors import InputError
    from ultraep_sim.scenario import load_scenario

    try:
        path = default_scenario()
        load_scenario(path)
    except InputError as error:
        return Check("quickstart", "broken", str(error), "run inside a checkout of the project")
    return Check("quickstart", "ok", str(path))


def traces(folder: Path | None = None) -> Iterator[Check]:
    """Check that the shipped traces are there, whole, and the ones that were shipped.

    Parameters
    ----------
    folder : Path, optional
        By default ``traces/`` under the current directory or of the installed checkout.
    """
    if folder is None:
        candidates = (Path("traces"), Path(__file__).parents[2] / "traces")
        folder = next((path for path in candidates if any(path.glob("*.parquet"))), None)
    files = sorted(folder.glob("*.parquet")) if folder is not None else []
    if folder is None or not files:
        remedy = "run inside a checkout, or make them: python traces/make_traces.py"
        yield Check("traces", "note", "no recorded trace found", remedy)
        return
    for file in files:
        yield _trace(file, _digest_on_card(file.with_suffix(".md")))
    for card in sorted(folder.glob("*.md")):
        trace = card.with_suffix(".parquet")
        if trace not in files and _digest_on_card(card) is not None:
            yield Check(f"trace {trace.stem}", "broken", "not there", f"git checkout {trace}")


def _digest_on_card(card: Path) -> str | None:
    """Return the digest a trace's data card tells; None where there is no card or digest."""
    if not card.is_file():
        return None
    found = _CARD_DIGEST.search(card.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None


def _trace(file: Path, expected: str | None) -> Check:
    name = f"trace {file.stem}"
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if expected is None:
        return Check(name, "note", f"no digest on a data card {file.with_suffix('.md')}")
    if digest != expected:
        detail = f"digest {digest[:12]}, its data card says {expected[:12]}"
        return Check(name, "broken", detail, f"git checkout {file}")
    return _guarded(name, lambda: _readable_trace(name, file))


def _readable_trace(name: str, file: Path) -> Check:
    from ultraep_sim.trace import load_trace

    trace = load_trace(file)
    kind = "SYNTHETIC" if trace.meta.synthetic else "recorded"
    return Check(name, "ok", f"{kind}, {trace.num_records} records, digest as on its card")


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        remedy = "only to record traces and for the GPU twin: pip install -e '.[hw]'"
        return Check("torch (optional)", "note", "not installed", remedy)
    return Check("torch (optional)", "ok", metadata.version("torch"))


def _gpu() -> Check:
    tool = shutil.which("nvidia-smi")
    remedy = "only the GPU twin needs one; the simulator does not"
    if tool is None:
        return Check("GPU (optional)", "note", "none found", remedy)
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603  (a fixed command line)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("GPU (optional)", "note", f"nvidia-smi fails: {error}", remedy)
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return Check("GPU (optional)", "ok", f"{len(names)} x {names[0]}" if names else "none listed")
