"""What a network's outputs mean: classes with probabilities, or a number."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import numpy as np

from jax_mrissl.data.labels import LabelTask
from jax_mrissl.metrics.calibration import fit_temperature, softmax
from jax_mrissl.metrics.classification import by_subject, log_loss
from jax_mrissl.metrics.linear import LinearModel, fit_linear_probe, fit_ridge
from jax_mrissl.metrics.probes import knn_predict
from jax_mrissl.models.heads import LinearHead, OrdinalHead
from jax_mrissl.objectives.supervised import RowLoss, cross_entropy, squared_error
from jax_mrissl.tasks.from_config import Json
from jax_mrissl.tasks.labelled import LabelledData

# A class that no neighbour has is unlikely, not impossible.
_LEAST_VOTE = 1e-4


class Answers(Protocol):
    """What a task makes of outputs. `rows` are of the labelled data, int [k]."""

    @property
    def head(self) -> nn.Module:
        """From embeddings to outputs."""

    @property
    def row_loss(self) -> RowLoss:
        """What training minimises."""

    def truth(self, train: np.ndarray) -> np.ndarray:
        """Gives what every row's output is compared with, [n], for training rows."""

    def read(self, outputs: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Gives a full network's outputs in the units of the task, [k, K]."""

    def loss(self, rows: np.ndarray, outputs: np.ndarray) -> float:
        """Gives the loss by subject, what validation chooses by."""

    def fit_linear(
        self,
        features: np.ndarray,
        train: np.ndarray,
        held: np.ndarray,
        l2_strengths: tuple[float, ...],
    ) -> tuple[LinearModel, Json]:
        """Fits a linear probe to features [n, F]; gives it and facts about it."""

    def vote(
        self,
        features: np.ndarray,
        train: np.ndarray,
        rows: np.ndarray,
        neighbours: int,
    ) -> np.ndarray:
        """Lets the nearest training rows vote; outputs [k, K]."""

    def columns(
        self,
        held: np.ndarray,
        held_outputs: np.ndarray,
        test: np.ndarray,
        test_outputs: np.ndarray,
        *,
        temperature: float | None = None,
    ) -> Mapping[str, np.ndarray]:
        """Gives the columns of predictions that belong to this kind of task."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassAnswers:
    """Classes: outputs are logits; probabilities are calibrated on validation."""

    data: LabelledData

    @property
    def head(self) -> nn.Module:
        """Logits, or of ordered grades the log probabilities by thresholds."""
        return head_of(self.data.task)

    row_loss = staticmethod(cross_entropy)

    def truth(self, train: np.ndarray) -> np.ndarray:
        """Gives the class numbers, int32 [n]."""
        del train
        return self.data.labels

    def read(self, outputs: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Gives the logits."""
        del train
        return outputs.astype(np.float64)

    def loss(self, rows: np.ndarray, outputs: np.ndarray) -> float:
        """Gives the log loss by subject."""
        labels, groups = self.data.labels[rows], self.data.prepared.groups[rows]
        subjects = by_subject(softmax(outputs), labels, groups)
        return float(log_loss(subjects.probabilities, subjects.labels))

    def fit_linear(
        self,
        features: np.ndarray,
        train: np.ndarray,
        held: np.ndarray,
        l2_strengths: tuple[float, ...],
    ) -> tuple[LinearModel, Json]:
        """Fits multinomial logistic regression."""
        data = self.data
        probe = fit_linear_probe(
            features[train],
            data.labels[train],
            features[held],
            data.labels[held],
            data.prepared.groups[held],
            classes=len(data.task.classes),
            l2_strengths=l2_strengths,
        )
        return probe.model, {
            'l2_strength': probe.l2_strength,
            'training_log_loss': probe.training_log_loss,
            'converged': probe.converged,
            'strength_at_edge_of_grid': probe.at_edge,
        }

    def vote(
        self,
        features: np.ndarray,
        train: np.ndarray,
        rows: np.ndarray,
        neighbours: int,
    ) -> np.ndarray:
        """Gives the logarithms of the shares of votes."""
        shares = knn_predict(
            features[train],
            self.data.labels[train],
            features[rows],
            classes=len(self.data.task.classes),
            neighbours=neighbours,
        )
        return np.log(np.maximum(shares, _LEAST_VOTE))

    def columns(
        self,
        held: np.ndarray,
        held_outputs: np.ndarray,
        test: np.ndarray,
        test_outputs: np.ndarray,
        *,
        temperature: float | None = None,
    ) -> Mapping[str, np.ndarray]:
        """Gives logits, calibrated probabilities, and numbers where classes have any.

        `temperature`: what logits are divided by; None: it is fitted to validation.
        """
        if temperature is None:
            temperature = fit_temperature(held_outputs, self.data.labels[held])
        probabilities = softmax(test_outputs / temperature)
        found: dict[str, Any] = {
            'logits': test_outputs,
            'validation_logits': held_outputs,
            'temperature': np.float64(temperature),
            'probabilities': probabilities,
        }
        if values := self.data.task.values:
            found['targets'] = self.data.targets[test]
            found['predictions'] = probabilities @ np.array(values)
            found['validation_targets'] = self.data.targets[held]
            found['validation_predictions'] = softmax(
                held_outputs / temperature
            ) @ np.array(values)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class NumberAnswers:
    """A number: one output, in the number's own units; a network learns it scaled."""

    data: LabelledData

    @property
    def head(self) -> nn.Module:
        """One output."""
        return head_of(self.data.task)

    row_loss = staticmethod(squared_error)

    def _scale(self, train: np.ndarray) -> tuple[float, float]:
        return scale_of(self.data.targets[train])

    def truth(self, train: np.ndarray) -> np.ndarray:
        """Gives the numbers in deviations of the training rows, float32 [n]."""
        mean, deviation = self._scale(train)
        return ((self.data.targets - mean) / deviation).astype(np.float32)

    def read(self, outputs: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Gives the numbers in their units, [k, 1]."""
        mean, deviation = self._scale(train)
        return outputs.astype(np.float64) * deviation + mean

    def loss(self, rows: np.ndarray, outputs: np.ndarray) -> float:
        """Gives the mean squared error of the subjects' means."""
        _, member = np.unique(self.data.prepared.groups[rows], return_inverse=True)
        error = outputs[:, 0] - self.data.targets[rows]
        means = np.bincount(member, error) / np.bincount(member)
        return float(np.mean(means**2))

    def fit_linear(
        self,
        features: np.ndarray,
        train: np.ndarray,
        held: np.ndarray,
        l2_strengths: tuple[float, ...],
    ) -> tuple[LinearModel, Json]:
        """Fits ridge regression."""
        targets = self.data.targets
        fits = [
            fit_ridge(features[train], targets[train], l2_strength=strength)
            for strength in sorted(l2_strengths, reverse=True)
        ]
        losses = [self.loss(held, fit.logits(features[held])) for fit in fits]
        best = int(np.argmin(losses))
        own = fits[best].logits(features[train])[:, 0]
        return fits[best], {
            'l2_strength': sorted(l2_strengths, reverse=True)[best],
            'training_squared_error': float(np.mean((own - targets[train]) ** 2)),
            'strength_at_edge_of_grid': best in (0, len(fits) - 1),
        }

    def vote(
        self,
        features: np.ndarray,
        train: np.ndarray,
        rows: np.ndarray,
        neighbours: int,
    ) -> np.ndarray:
        """Gives the weighted mean of the neighbours' numbers."""
        numbers, places = np.unique(self.data.targets[train], return_inverse=True)
        shares = knn_predict(
            features[train],
            places,
            features[rows],
            classes=len(numbers),
            neighbours=neighbours,
        )
        return (shares @ numbers)[:, None]

    def columns(
        self,
        held: np.ndarray,
        held_outputs: np.ndarray,
        test: np.ndarray,
        test_outputs: np.ndarray,
        *,
        temperature: float | None = None,
    ) -> Mapping[str, np.ndarray]:
        """Gives the numbers, told and true."""
        del temperature
        return {
            'targets': self.data.targets[test],
            'predictions': test_outputs[:, 0],
            'validation_targets': self.data.targets[held],
            'validation_predictions': held_outputs[:, 0],
        }


def head_of(task: LabelTask) -> nn.Module:
    """Makes what stands on an encoder for a task: embeddings to outputs."""
    if task.kind == 'regression':
        return LinearHead(1)
    count = len(task.classes)
    return OrdinalHead(count) if task.kind == 'ordinal' else LinearHead(count)


def scale_of(numbers: np.ndarray) -> tuple[float, float]:
    """Gives mean and deviation of the training rows' numbers."""
    return float(numbers.mean()), float(numbers.std()) or 1.0


def answers(data: LabelledData) -> Answers:
    """Gives what the data's task makes of outputs."""
    kinds: dict[str, Any] = {
        'classes': ClassAnswers,
        'ordinal': ClassAnswers,
        'regression': NumberAnswers,
    }
    found: Answers = kinds[data.task.kind](data)
    return found
