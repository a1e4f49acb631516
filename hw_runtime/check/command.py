"""``python -m hw_runtime check``: prove that plans, transfers and sums are right on a fabric."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import replace
from typing import Any

from ultraep_sim.errors import InputError, UltraEPSimError

from ..errors import MissingHardwareError
from ..fabrics import FABRICS, Geometry
from ..fabrics.faults import FAULTS
from .suite import Case, Context, Mismatch, Row

HELP = "prove plans, transfers, reroute and gradient reduction on a fabric"
SCHEMA = "hw_runtime.check/1"
SUITES = ("plans", "weights", "gradients", "reroute", "moe", "races", "twin")

_EPILOG = """\
examples:
  python -m hw_runtime check                      # on the CPU, no GPU needed
  python -m hw_runtime check --fabric virtual     # on one GPU
  torchrun --nproc-per-node 8 -m hw_runtime check --fabric ipc    # one process a rank
  python -m hw_runtime check --inject swap_tile   # must fail: a proof that the checks can

exit status: 0 all green, 1 a check failed or the hardware is missing, 2 bad options

faults:
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG + "".join(f"  {name:<16}{what}\n" for name, what in FAULTS.items())
    parser.add_argument("--fabric", choices=list(FABRICS), default="host", help="backend [host]")
    parser.add_argument(
        "--suite", choices=SUITES, action="append", help="only this one; may be repeated [all]"
    )
    parser.add_argument("--inject", choices=list(FAULTS), help="break the host fabric on purpose")
    parser.add_argument("--seed", type=int, default=0, help="of loads, weights and orders [0]")
    parser.add_argument("--orders", type=int, default=200, help="random orders of races [200]")
    parser.add_argument("--plans", type=int, default=2000, help="loads that are planned [2000]")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Run the suites; 0 if nothing failed, 1 otherwise."""
    for name in ("orders", "plans"):
        if getattr(arguments, name) < 1:
            raise InputError(
                "nothing to check", place=f"--{name}", value=getattr(arguments, name),
                remedy="give 1 or more",
            )  # fmt: skip
    if arguments.seed < 0:
        raise InputError("negative", place="--seed", value=arguments.seed, remedy="give 0 or more")
    if arguments.inject and arguments.fabric != "host":
        raise InputError(
            "faults are put into the host fabric only", place="--inject", value=arguments.inject,
            remedy="leave out --fabric",
        )  # fmt: skip
    context = Context(
        arguments.fabric, arguments.seed, arguments.inject, arguments.orders, arguments.plans
    )
    require(context)
    rows = []
    names = [name for name in SUITES if name in (arguments.suite or SUITES)]
    for name in names:
        rows += run_suite(name, context)
    rank, rows = together(rows)
    if rank == 0:
        _report(arguments, rows)
        if arguments.inject and not any(row.status == "FAILED" for row in rows):
            raise InputError(
                "no chosen suite noticed the fault", place="--inject", value=arguments.inject,
                remedy="leave out --suite, or choose one that transfers, such as weights",
            )  # fmt: skip
    return int(any(row.status == "FAILED" for row in rows))


def require(context: Context) -> None:
    """Open the fabric once, so that missing hardware is said before anything runs."""
    from ultraep_sim.planning import EPLayout

    if context.fabric != "host":
        context.open(Geometry(EPLayout(context.ranks(2), 2, 1), 16, 4)).close()


def together(rows: list[Row]) -> tuple[int, list[Row]]:
    """Return this process's rank and what a report of the whole group has in it.

    Every process of a group finds rows. One of them reports its own and what failed in the others.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return 0, rows
    if not torch.distributed.is_initialized():
        return 0, rows
    from ..fabrics.processes import gather

    every = gather(torch, rows)
    failed = [
        replace(row, case=f"{row.case}, process {rank}")
        for rank, found in enumerate(every[1:], start=1)
        for row in found
        if row.status == "FAILED"
    ]
    return int(torch.distributed.get_rank()), every[0] + failed


def run_suite(name: str, context: Context) -> list[Row]:
    """Run one suite by name, with progress on stderr."""
    suite = importlib.import_module(f"hw_runtime.check.{name}").suite
    rows = []
    for case in suite(context):
        _progress(f"{name}: {case[0]}")
        rows.append(run_case(name, case))
    _progress("")
    return rows


def run_case(suite: str, case: Case) -> Row:
    """Turn what a case finds into a row."""
    name, check = case
    try:
        checked, detail = check()
    except Mismatch as found:
        return Row(suite, name, "FAILED", 0, str(found))
    except MissingHardwareError:
        raise
    except UltraEPSimError as error:  # a hang, a broken protocol
        return Row(suite, name, "FAILED", 0, str(error))
    except ModuleNotFoundError as error:  # the simulator's own needs, on a locked-down machine
        return Row(suite, name, "skipped", 0, f"needs {error.name}, which is not installed")
    if not checked:
        return Row(suite, name, "FAILED", 0, "nothing was compared")
    return Row(suite, name, "ok", checked, detail)


def _progress(text: str) -> None:
    """Keep one line up to date where somebody looks at it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)


def _report(arguments: argparse.Namespace, rows: list[Row]) -> None:
    failed = [row for row in rows if row.status == "FAILED"]
    if arguments.json:
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "fabric": arguments.fabric,
            "seed": arguments.seed,
            "inject": arguments.inject,
            "passed": not failed,
            "rows": [vars(row) for row in rows],
        }
        print(json.dumps(document, indent=2))
        return
    width = [max(len(str(getattr(row, key))) for row in rows) for key in ("suite", "case")]
    for row in rows:
        count = f"{row.checked:,}" if row.checked else ""
        print(
            f"{row.suite:<{width[0]}}  {row.case:<{width[1]}}  {row.status:<7}  {count:>11}  "
            f"{row.detail}"
        )
    broken = f", broken on purpose by {arguments.inject}" if arguments.inject else ""
    skipped = sum(row.status == "skipped" for row in rows)
    print(
        f"{len(rows) - len(failed) - skipped} of {len(rows)} checks green on the "
        f"{arguments.fabric} fabric{broken}"
        + (f"; {len(failed)} failed" if failed else "")
        + (f"; {skipped} skipped" if skipped else "")
    )
