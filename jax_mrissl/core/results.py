"""What a study found for one arm: the row that metrics fill and tables show."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Unit = Literal['subject', 'slice']
# A baseline is what must be beaten; a control shows what a result does not mean.
Role = Literal['baseline', 'arm', 'control']

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
        mode: how it was put to the task: 'linear', 'knn', 'full'; '' of a baseline or
            control.
        unit: what one observation is.
        subjects, slices: how many were tested.
        estimates: by the name of the metric; one that is not there was not measured.
        role: what it is there for.
        prior_log_loss: of the class prior, over the same unit; None: no classes.
        training_log_loss: where training ended, over slices, mean over folds; None
            where it is not finite, or nothing was trained, or a number is told.
        training_error_share: of a number that is told, the mean squared error in which
            training ended, as a share of the variance; None as above.
        notes: the two above, or others.
    """

    arm: str
    mode: str
    unit: Unit
    subjects: int
    slices: int
    estimates: Mapping[str, Estimate]
    role: Role = 'arm'
    prior_log_loss: float | None = None
    training_log_loss: float | None = None
    training_error_share: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def failure(self) -> str:
        """Why it is no result; '': it is one."""
        if UNDER_TRAINED not in self.notes:
            return ''
        if self.training_error_share is not None:
            ended = (
                f'its training error ended at {self.training_error_share:.3f} of the '
                'variance'
            )
        elif self.training_log_loss is not None:
            ended = f'its training log loss ended at {self.training_log_loss:.4f}'
        else:
            ended = 'its training ended at a loss that is not finite'
        return f'{UNDER_TRAINED}: {ended}'

    def to_json(self) -> dict[str, Any]:
        """Gives plain dicts, lists, texts and numbers; estimates by their names."""
        found = dataclasses.asdict(self)
        estimates = found.pop('estimates')
        return {**found, **estimates, 'notes': list(self.notes)}
