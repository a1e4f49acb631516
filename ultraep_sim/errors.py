"""One exception tree. Every message names the file, the place, the value and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_UNSET: Any = object()
_MAX_VALUE_CHARS = 80


class UltraEPSimError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(UltraEPSimError, ValueError):
    """Something the user gave cannot be used.

    Parameters
    ----------
    problem : str
        What is wrong, in a few words.
    file : str or Path, optional
        The file it was read from.
    place : str, optional
        Where in that file or argument (a key, a row, an index).
    value : object, optional
        The offending value; long values are cut.
    remedy : str, optional
        What to do about it.

    Notes
    -----
    ``str()`` is always one line: ``FILE: PLACE: PROBLEM (got VALUE); REMEDY``.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        place: str | None = None,
        value: object = _UNSET,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.place = place
        self.value = None if value is _UNSET else value
        self._has_value = value is not _UNSET
        self.remedy = remedy
        super().__init__(self._message())

    def _message(self) -> str:
        head = ": ".join(part for part in (self.file, self.place) if part)
        text = f"{head}: {self.problem}" if head else self.problem
        if self._has_value:
            shown = repr(self.value)
            if len(shown) > _MAX_VALUE_CHARS:
                shown = shown[: _MAX_VALUE_CHARS - 3] + "..."
            text += f" (got {shown})"
        if self.remedy:
            text += f"; {self.remedy}"
        return " ".join(text.split())

    def at(self, *, file: str | Path | None = None, place: str | None = None) -> InputError:
        """Return the same error with a file or place filled in where it had none."""
        return type(self)(
            self.problem,
            file=self.file or file,
            place=self.place or place,
            value=self.value if self._has_value else _UNSET,
            remedy=self.remedy,
        )


class LoadsError(InputError):
    """A load matrix is not one."""


class LayoutError(InputError):
    """An expert-parallel layout is impossible."""


class PolicyError(InputError):
    """A policy is unknown, or an option of it is wrong."""


class TraceError(InputError):
    """A trace cannot be read or does not fit its use."""


class ArrivalsError(InputError):
    """A file of recorded arrivals cannot be read or does not fit its use."""


class ScenarioError(InputError):
    """A scenario file is wrong."""


class ProfileError(InputError):
    """A model shape or hardware profile is unknown or impossible."""


class CalibrationError(InputError):
    """Measurements cannot be read, or do not tell what is asked of them."""


class PlanError(UltraEPSimError):
    """A plan breaks one of its own invariants: a bug in the policy that made it."""
