"""What a search of a sweep looks for."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from ..scenario.strict import Strict
from .condition import Condition


class SmallestSpec(Strict):
    """The smallest value of a key at which a condition holds, by bisection.

    The condition must go on holding above the value where it begins to: it is asked at both ends
    and at midpoints only. Where the ends contradict that, the answer says so; between them nobody
    looks.

    Attributes
    ----------
    of : str
        A path of the scenario with a number.
    between : list of number, 2
        Where to look. Whole numbers at both ends: only whole ones are tried.
    tolerance : float
        How far above the true smallest value the answer may lie, as a share of it; whole numbers
        are found exactly.
    condition : str
        On a result row, for example ``fraction_of_ideal >= 0.97 and fits``. Numbers are means over
        seeds; with draws it must hold in `confidence` of them.
    policy : str
        Whose row.
    confidence : float
        Share of draws in which the condition must hold.
    """

    of: str = Field(min_length=1)
    between: list[int | float] = Field(min_length=2, max_length=2)
    condition: str
    policy: str
    tolerance: float = Field(default=0.02, gt=0, le=1)
    confidence: float = Field(default=0.95, gt=0, le=1)

    @field_validator("condition")
    @classmethod
    def _known(cls, value: str) -> str:
        Condition(value)
        return value

    @field_validator("between")
    @classmethod
    def _rising(cls, value: list[int | float]) -> list[int | float]:
        low, high = value
        if isinstance(low, bool) or isinstance(high, bool) or not 0 <= low < high:
            raise ValueError("between goes up, from 0: [smallest, largest]")
        if low == 0 and not isinstance(low, int):
            raise ValueError("a search over fractions needs a smallest value above 0")
        return value

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return all(isinstance(end, int) for end in self.between)


class ParetoSpec(Strict):
    """What trades aims against each other best: no other point is as good in all and better in one.

    Attributes
    ----------
    maximise, minimise : list of str
        Result columns.
    policy : str or None
        Whose rows count; None: all, so that policies compete. A search with `trials` needs one.
    trials : int or None
        None runs the whole grid. A number lets Optuna's NSGA-II choose so many points of it.
    """

    maximise: list[str] = Field(default_factory=list)
    minimise: list[str] = Field(default_factory=list)
    policy: str | None = None
    trials: int | None = Field(default=None, ge=1, le=100_000)

    @model_validator(mode="after")
    def _aims(self) -> ParetoSpec:
        aims = [*self.maximise, *self.minimise]
        if len(aims) < 2 or len(set(aims)) < len(aims):
            raise ValueError("a trade needs two or more columns in maximise and minimise")
        if self.trials is not None and self.policy is None:
            raise ValueError("a search with trials needs policy: whose rows it is about")
        return self
