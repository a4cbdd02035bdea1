"""A stage of work and its content address."""

import dataclasses
from typing import Any

from jax_mrissl.core.digest import digest

# Raised by hand when a stage of that kind would give other numbers than before. The
# code's commit is not part of an address: it would throw every result away each time.
KIND_VERSION = {'pretrain': 2, 'finetune': 4, 'controls': 2, 'by_fold': 1}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        kind: a key of `KIND_VERSION`.
        params: JSON of all that decides its numbers, dataset fingerprints included.
        inputs: the stages whose results it reads.
    """

    kind: str
    params: Any
    inputs: tuple['Stage', ...] = ()

    @property
    def address(self) -> str:
        """The SHA-256 of what this stage is."""
        return digest(
            {
                'kind': self.kind,
                'version': KIND_VERSION[self.kind],
                'params': self.params,
                'inputs': [stage.address for stage in self.inputs],
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Gives the stage and all that it comes from, as JSON values."""
        return {
            'kind': self.kind,
            'address': self.address,
            'params': self.params,
            'parents': [stage.to_json() for stage in self.inputs],
        }
