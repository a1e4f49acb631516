"""``python -m hw_runtime bench``: measure kernels, transfers and the MoE block."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from ultraep_sim.errors import InputError

from ..errors import MissingHardwareError
from . import schema
from .compute import block_rows, gemm_rows
from .machine import describe
from .routing import histogram_rows, planner_rows, reroute_rows, warm_host
from .rows import FABRICS, KIND_OF, Measurements, Row
from .setting import GPU, HOST, TINY, Setting
from .timing import Clock
from .transfers import copy_row, reduction_rows, stream_rows

HELP = "measure kernels, transfers and the MoE block, as JSON for calibration"
GROUPS = ("planner", "histogram", "reroute", "transfers", "gemm", "block")

_EPILOG = """\
examples:
  python -m hw_runtime bench --json --out h100.json    # one GPU, virtual ranks
  python -m hw_runtime bench --fabric host             # the host versions, no GPU needed
  python -m hw_runtime bench --only planner --only reroute

Virtual ranks measure the GPU's memory (path: hbm), never a link. The host has no transfers to time.

exit status: 0 measured, 1 the hardware is missing, 2 bad options
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--fabric", choices=FABRICS, default="virtual", help="backend [virtual]")
    parser.add_argument(
        "--only", choices=GROUPS, action="append", help="only these rows; may be repeated [all]"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the document there")
    parser.add_argument("--json", action="store_true", help="print the document on stdout")
    parser.add_argument("--runs", type=int, default=30, help="timed calls of each row [30]")
    parser.add_argument("--seed", type=int, default=0, help="of loads and tokens [0]")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: only to see that it runs")


def run(arguments: argparse.Namespace) -> int:
    """Measure and write; 0 when done."""
    if arguments.runs < 1:
        raise InputError(
            "nothing to time", place="--runs", value=arguments.runs, remedy="1 or more"
        )
    if arguments.seed < 0:
        raise InputError("negative", place="--seed", value=arguments.seed, remedy="give 0 or more")
    if arguments.out and not arguments.out.parent.is_dir():
        raise InputError(
            "no such folder", place="--out", value=str(arguments.out.parent), remedy="make it first"
        )
    device = require(arguments.fabric)
    sizes = TINY if arguments.tiny else HOST if device.type == "cpu" else GPU
    clock = Clock(device, arguments.runs)
    setting = Setting(arguments.fabric, device, clock, sizes, arguments.seed)
    rows = list(_measure(setting, arguments.only or GROUPS))
    found = Measurements(
        datetime.now(UTC).isoformat(timespec="seconds"),
        arguments.fabric, arguments.seed, describe(device), rows,
    )  # fmt: skip
    document = found.to_json()
    schema.parse(json.loads(json.dumps(document)))  # nobody gets what the reader would refuse
    if arguments.out:
        _write(arguments.out, document)
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        _table(found)
    return 0


def require(fabric: str) -> torch.device:
    """Return the device to measure on.

    Raises
    ------
    MissingHardwareError
        In one sentence, what is missing.
    InputError
        A fabric on which timings would mean nothing.
    """
    if fabric == "host":
        return torch.device("cpu")
    if fabric == "ipc":
        raise InputError(
            "ranks of the ipc fabric share GPUs and are time-sliced, so timings would mean nothing",
            place="--fabric", value=fabric, remedy="use virtual on one GPU",
        )  # fmt: skip
    if fabric == "symm":
        raise InputError(
            "bench has no plain-copy ceiling over a link yet, and no row without one is comparable",
            place="--fabric", value=fabric, remedy="use virtual; calibration fits no link from it",
        )  # fmt: skip
    if not torch.cuda.is_available():
        raise MissingHardwareError(
            "bench needs a CUDA GPU and this machine has none; "
            "--fabric host times what has a host version"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _measure(setting: Setting, wanted: list[str] | tuple[str, ...]) -> Iterator[Row]:
    """Yield all rows, with progress on stderr."""
    if setting.device.type == "cpu":
        warm_host()
    torch.manual_seed(setting.seed)
    sources: dict[str, Callable[[Setting], Iterator[Row]]] = {
        "planner": planner_rows,
        "histogram": histogram_rows,
        "reroute": reroute_rows,
        "transfers": _transfers,
        "gemm": gemm_rows,
        "block": block_rows,
    }
    for name in GROUPS:
        if name in wanted:
            for at, row in enumerate(sources[name](setting)):
                if sys.stderr.isatty():
                    print(f"\r\x1b[K{name}: {at + 1} rows", end="", file=sys.stderr, flush=True)
                yield row
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)


def _transfers(setting: Setting) -> Iterator[Row]:
    """Measure the ceiling first, then what is compared with it."""
    if setting.device.type == "cpu":
        return
    ceiling = copy_row(setting)
    yield ceiling
    yield from stream_rows(setting, ceiling)
    yield from reduction_rows(setting, ceiling)


def _write(path: Path, document: object) -> None:
    """Write under another name and rename: a reader never sees half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _table(found: Measurements) -> None:
    """Print one line a row: what it is, and its time."""
    for row in found.rows:
        facts = {
            key: value
            for key, value in vars(row).items()
            if key != "time" and not isinstance(value, list)
        }
        words = " ".join(f"{key}={_short(value)}" for key, value in facts.items())
        time = row.time
        print(
            f"{KIND_OF[type(row)]:<10}{time.median_us:>12.1f} us  "
            f"({time.low_us:.1f} to {time.high_us:.1f})  {words}"
        )
    print(f"{len(found.rows)} rows on {found.machine.device}, {found.date}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
