"""From a batch to its views: policies, mapped over rows, keyed by row number."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import BatchAxis

Crop = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Op = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Policy:
    """How one view is drawn from one image.

    Attributes:
        crop: from the canvas and its valid box to a square of the view's size.
        ops: then one after the other.
    """

    crop: Crop
    ops: tuple[Op, ...] = ()

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        boxes: jax.Array,
        row_ids: jax.Array,
    ) -> jax.Array:
        """Draws one view per row.

        Args:
            key: of this step and view, the same on every device.
            images: uint8 or uint16 [B, H, W, C], canvases.
            boxes: int32 [B, 4], their valid parts.
            row_ids: int32 [B], each row's number in the whole batch: a row is drawn
                the same on any layout of devices.

        Returns: [B, size, size, C'], float32, or float64 where JAX is set to 64 bits.
        """
        dtype = jnp.result_type(float)
        full_scale = jnp.iinfo(images.dtype).max

        def draw(row_id: Any, image: Any, box: Any) -> jax.Array:
            row_key = jax.random.fold_in(key, row_id)
            image = image.astype(dtype) / full_scale
            image = self.crop(jax.random.fold_in(row_key, 0), image, box)
            for index, op in enumerate(self.ops, start=1):
                image = op(jax.random.fold_in(row_key, index), image)
            return image

        return jax.vmap(draw)(row_ids, images, boxes)


def make_views(
    key: jax.Array, batch: Batch, policies: tuple[Policy, ...], axis: BatchAxis
) -> tuple[Batch, ...]:
    """Draws one view of each image for each policy.

    Args:
        key: of this step, the same on every device.
        batch: canvases; under pmap, this device's rows.
        policies: one per view.
        axis: where the rest of the batch is.

    Returns: the batch once per policy, with views in the place of images.
    """
    row_ids = axis.row_ids(len(batch.image))
    views = []
    for index, policy in enumerate(policies):
        view_key = jax.random.fold_in(key, index)
        images = policy(view_key, batch.image, batch.box, row_ids)
        views.append(dataclasses.replace(batch, image=images))
    return tuple(views)
