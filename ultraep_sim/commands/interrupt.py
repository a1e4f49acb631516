"""Ctrl-C that works at any moment, also inside libraries that swallow it.

Compiling for the first time, numba imports much, part of it under ``except:``; an interrupt that
falls in there is lost. So the handler also leaves a note, and long work asks for it.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

EXIT_CODE = 130  # what a shell reports of a command that ended by SIGINT

_pressed = False


def install() -> None:
    """Handle Ctrl-C here, unless whoever started the process has it ignored (nohup, ``&``)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


def _handle(number: int, frame: FrameType | None) -> NoReturn:
    global _pressed
    if _pressed:  # the second time: at once
        os._exit(EXIT_CODE)
    _pressed = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise the interrupt again if one was swallowed."""
    if _pressed:
        raise KeyboardInterrupt


def leave() -> NoReturn:
    """End the process with 130.

    A plain exit may end as death by signal instead: CPython remembers that an interrupt passed
    through an extension module being imported. All cleaning up has been done by now.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODE)
