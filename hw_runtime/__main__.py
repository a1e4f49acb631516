"""``python -m hw_runtime VERB``: the commands of the GPU twin.

A verb is a module with ``HELP`` (one line), ``add_arguments(parser)`` and
``run(arguments) -> int``; it is imported only when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ultraep_sim.errors import InputError, UltraEPSimError

# verb -> (module, one line of help that needs no import)
VERBS = {
    "bench": (
        "hw_runtime.bench.command",
        "measure kernels, transfers and the MoE block, as JSON for calibration",
    ),
    "check": (
        "hw_runtime.check.command",
        "prove plans, transfers, reroute and gradient reduction on a fabric",
    ),
    "compile": (
        "hw_runtime.compile_command",
        "compile all kernels for all architectures",
    ),
    "record": (
        "hw_runtime.record.command",
        "record the routing of a mixture-of-experts model as a trace",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 on success, 2 on bad input (one line on stderr), 1 on a failure."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m hw_runtime", description="The GPU twin.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for verb, (module, help_line) in VERBS.items():
        sub = verbs.add_parser(verb, help=help_line, description=help_line)
        if verb == asked:
            loaded = importlib.import_module(module)
            loaded.add_arguments(sub)
            sub.set_defaults(run=loaded.run)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except UltraEPSimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
