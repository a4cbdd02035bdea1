"""What is to be told apart: a dataset's classes, or some of them joined."""

import dataclasses

import numpy as np

from jax_mrissl.core.errors import UserError, expect_known


@dataclasses.dataclass(frozen=True)
class LabelTask:
    """A classification task.

    Attributes:
        classes: the names of the classes, in order of their numbers.
        joined: joined[stored label] is the class number.
    """

    classes: tuple[str, ...]
    joined: tuple[int, ...]

    def labels(self, stored: np.ndarray) -> np.ndarray:
        """Maps stored labels, int [n], to class numbers; -1 stays -1."""
        table = np.array([*self.joined, -1], np.int32)
        return table[stored]


_SEVERITY = {
    # Moderate has two subjects in the Kaggle set: too few to be split over folds.
    'severity3': LabelTask(
        ('NonDemented', 'VeryMildDemented', 'MildOrModerate'), (0, 1, 2, 2)
    ),
    'severity4': LabelTask(
        ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented'),
        (0, 1, 2, 3),
    ),
}


def label_task(name: str, stored_classes: tuple[str, ...]) -> LabelTask:
    """Gives the task `name` on a dataset with `stored_classes`.

    Args:
        name: 'severity3' or 'severity4' for dementia by severity, or 'classes' for
            the dataset's own classes.
        stored_classes: as in the dataset's card.

    Raises:
        UserError: an unknown task, or one that these classes do not allow.
    """
    expect_known(name, [*_SEVERITY, 'classes'], 'finetune.task')
    if name == 'classes':
        if len(stored_classes) < 2:
            raise UserError('This dataset has fewer than two classes to tell apart.')
        return LabelTask(stored_classes, tuple(range(len(stored_classes))))
    task = _SEVERITY[name]
    if stored_classes != _SEVERITY['severity4'].classes:
        raise UserError(
            f'finetune.task={name!r} needs the four classes of dementia; this '
            f'dataset has {", ".join(stored_classes) or "none"}. '
            '--config.finetune.task=classes uses its own.'
        )
    return task
