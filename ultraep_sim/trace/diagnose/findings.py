"""What a check says: the disease, what was seen, how sure it is, and what helps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

STOPS, WARNS, TELLS = "stops", "warns", "tells"
"""No trace can be made of it; a trace can be made but is wrong or mixed; good to know."""


@dataclass(frozen=True)
class Finding:
    """One disease of a dump.

    Attributes
    ----------
    name : str
    seen : str
        With numbers.
    sure : {"sure", "likely", "possible"}
    remedy : str
    level : {"stops", "warns", "tells"}
    repairs : tuple of str
        Names of the repairs that mend it.
    data : dict
        What a repair needs; not printed.
    """

    name: str
    seen: str
    sure: str
    remedy: str
    level: str = WARNS
    repairs: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict, repr=False)

    def line(self) -> str:
        """Return one line: name, certainty, what was seen, remedy."""
        with_repair = "".join(f" (--repair {name})" for name in self.repairs)
        return f"{self.name} ({self.sure}): {self.seen}; {self.remedy}{with_repair}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields."""
        plain = asdict(self)
        del plain["data"]
        return {**plain, "repairs": list(self.repairs)}


def some(values: list[Any], most: int = 6) -> str:
    """Join the first values, and say how many there are more."""
    text = ", ".join(str(value) for value in values[:most])
    return text if len(values) <= most else f"{text} and {len(values) - most} more"
