"""``python -m hw_runtime compile``: every kernel for every architecture, with what each takes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from hw_runtime import compile as compiler
from hw_runtime.compile import ARCHITECTURES, Cubin, cache_directory, compile_family, families
from ultraep_sim.errors import InputError

HELP = "compile all kernels for all architectures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "--arch",
        action="append",
        metavar="sm_XX",
        help=f"one architecture, repeatable; default {', '.join(ARCHITECTURES)}",
    )
    parser.add_argument("--json", action="store_true", help="print data only, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compile; 0 if everything did."""
    asked = arguments.arch or list(ARCHITECTURES)
    unknown = sorted(set(asked) - set(ARCHITECTURES))
    if unknown:
        raise InputError(
            "unknown architecture",
            place="--arch",
            value=unknown[0],
            remedy=f"give {', '.join(ARCHITECTURES)}",
        )
    made = [compile_family(family, arch) for family in families() for arch in asked]
    if arguments.json:
        json.dump(_data(made), sys.stdout, indent=2)
        print()
    else:
        _table(made)
    return 0


def _data(made: list[Cubin]) -> dict[str, object]:
    rows = [
        {
            "family": cubin.family,
            "arch": cubin.arch,
            "bytes": len(cubin.code),
            "cached": cubin.cached,
            "kernels": [asdict(one) for one in cubin.resources],
        }
        for cubin in made
    ]
    return {"toolkit": compiler.toolkit(), "cache": str(cache_directory()), "cubins": rows}


def _table(made: list[Cubin]) -> None:
    print(f"{compiler.toolkit()}; cubins in {cache_directory()}")
    for cubin in made:
        note = ", cached" if cubin.cached else ""
        print(f"{cubin.family} {cubin.arch}: {len(cubin.code)} bytes{note}")
        for one in cubin.resources:
            print(
                f"  {one.kernel:32} {one.registers:4} registers {one.shared_bytes:7} B shared "
                f"{one.stack_bytes:5} B stack {one.spill_bytes:4} B spilled"
            )
