"""The commands. Data goes to stdout, all else to stderr; bad input is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ultraep_sim.commands import (
    calibrate,
    capacity,
    doctor,
    interrupt,
    plan,
    policies,
    report,
    run,
    sweep,
    timeline,
    topology,
    trace,
    validate,
)
from ultraep_sim.errors import InputError, UltraEPSimError

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, interrupt.EXIT_CODE

app = typer.Typer(
    name="ultraep-sim",
    help="Which expert-load balancer, on which rack, is worth what, under the router's real load?",
    epilog="Start with: ultraep-sim run. Something odd? ultraep-sim doctor.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(epilog=run.EPILOG)(run.run)
app.command(epilog=calibrate.EPILOG)(calibrate.calibrate)
app.command(epilog=capacity.EPILOG)(capacity.capacity)
app.command(epilog=plan.EPILOG)(plan.plan)
app.add_typer(trace.app, name="trace")
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=policies.EPILOG)(policies.policies)
app.add_typer(sweep.app, name="sweep")
app.command(epilog=timeline.EPILOG)(timeline.timeline)
app.command(epilog=topology.EPILOG)(topology.topology)
app.command(epilog=validate.EPILOG)(validate.validate)
app.command(epilog=doctor.EPILOG)(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"ultraep-sim {version('ultraep-sim')}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    # No docstring: it would replace the help text above.
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0, 2 on bad input, 130 on Ctrl-C, 1 on the rest."""
    interrupt.install()
    code = invoke(sys.argv[1:] if arguments is None else list(arguments))
    if code == INTERRUPTED:
        interrupt.leave()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone: point stdout elsewhere, so that the flush at exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILURE
    sys.exit(code)


def invoke(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; every error becomes one line on stderr here."""
    try:
        result = app(list(arguments), prog_name="ultraep-sim", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except InputError as error:
        return _say(str(error), BAD_INPUT)
    except UltraEPSimError as error:
        return _say(str(error), FAILURE)
    except OSError as error:
        return _say(_os_error(error), BAD_INPUT)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        # A wrong option or argument. Typer vendors the class and does not export it, so it is
        # known by its method; anything else is a bug and keeps its traceback.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _say(_usage(error, message(), arguments), BAD_INPUT)
    return result if isinstance(result, int) else 0


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    return code


def _os_error(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename is not None else ""
    return f"{name}{error.strerror or error}; check the path, its permissions and free space"


def _usage(error: Exception, message: str, arguments: Sequence[str]) -> str:
    """Add to Typer's message what it leaves out: the value that was typed, and where help is."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", None) or "ultraep-sim"
    got = ""
    for name in getattr(getattr(error, "param", None), "opts", ()):
        for index, word in enumerate(arguments):
            if word == name and index + 1 < len(arguments):
                got = f" (got {arguments[index + 1]!r})"
            elif word.startswith(f"{name}="):
                got = f" (got {word.partition('=')[2]!r})"
    return f"{message.rstrip('.')}{got}; see {command} --help"


if __name__ == "__main__":
    main()
