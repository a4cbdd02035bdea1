"""What a study found for one arm: the row that metrics fill and tables show."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Unit = Literal['subject', 'slice']

# Notes of rows. An under-trained arm is no result: tables show that instead of numbers.
UNDER_TRAINED = 'under-trained'
SIMULATED = 'simulated'


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the number; None where it is undefined.
        low, high: the ends of the 95 % interval; None where there is none, as for a
            number that does not vary with the sample.
        undefined: the resamples in which the number was undefined and which the
            interval leaves out.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: int = 0


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """One arm of a study, measured over subjects or over slices.

    Attributes:
        arm: what it learned from, in the study's words.
        mode: how it was put to the task: 'linear', 'full'; '' where there is nothing
            to train.
        unit: what one observation is.
        subjects, slices: how many were tested.
        log_loss, accuracy, macro_auroc: the results.
        prior_log_loss: of the class prior, over the same unit.
        training_log_loss: where training ended, over slices, mean over folds; None
            where nothing was trained.
        notes: the two above, or others.
    """

    arm: str
    mode: str
    unit: Unit
    subjects: int
    slices: int
    log_loss: Estimate
    accuracy: Estimate
    macro_auroc: Estimate
    prior_log_loss: float
    training_log_loss: float | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Gives plain dicts, lists, texts and numbers."""
        return {**dataclasses.asdict(self), 'notes': list(self.notes)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> 'ArmResult':
        """Reads what `to_json` gave."""
        fields = dict(stored)
        for name in ('log_loss', 'accuracy', 'macro_auroc'):
            fields[name] = Estimate(**fields[name])
        return cls(**{**fields, 'notes': tuple(fields['notes'])})
