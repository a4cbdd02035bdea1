"""From a batch to its views: policies, mapped over rows, keyed by row number."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_mrissl.augment.ct import WindowJitter
from jax_mrissl.core.batch import Batch

Crop = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Op = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Policy:
    """How one view is drawn from one image.

    Attributes:
        crop: from the canvas and its valid box to a square of the view's size.
        ops: then one after the other.

    An image is cut and resized in full depth, as a scanner does it, and then shown
    through its window; a `WindowJitter` that stands first chooses another one.
    """

    crop: Crop
    ops: tuple[Op, ...] = ()

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        boxes: jax.Array,
        row_ids: jax.Array,
        windows: jax.Array | None = None,
    ) -> jax.Array:
        """Draws one view per row.

        Args:
            key: of this step and view, the same on every device.
            images: uint8 or uint16 [B, H, W, C], canvases.
            boxes: int32 [B, 4], their valid parts.
            row_ids: int32 [B], each row's number in the whole batch: a row is drawn
                the same on any layout of devices.
            windows: float32 [B, 2], the values that become 0 and 1; None: the least
                and the greatest of the type.

        Returns: [B, size, size, C'], float32, or float64 where JAX is set to 64 bits.
        """
        dtype = jnp.result_type(float)
        full_scale = jnp.iinfo(images.dtype).max
        windowed = bool(self.ops) and isinstance(self.ops[0], WindowJitter)

        def draw(row_id: Any, image: Any, box: Any, window: Any) -> jax.Array:
            row_key = jax.random.fold_in(key, row_id)
            image = image.astype(dtype)
            if window is None:
                image = image / full_scale
            else:
                low, high = window.astype(dtype)
                image = (image - low) / (high - low)
            image = self.crop(jax.random.fold_in(row_key, 0), image, box)
            if not windowed:
                image = jnp.clip(image, 0.0, 1.0)
            for index, op in enumerate(self.ops, start=1):
                image = op(jax.random.fold_in(row_key, index), image)
            return image

        return jax.vmap(draw)(row_ids, images, boxes, windows)


def make_views(
    key: jax.Array, batch: Batch, policies: tuple[Policy, ...], row_ids: jax.Array
) -> tuple[jax.Array, ...]:
    """Draws one view of each row for each policy.

    Args:
        key: of this step, the same on every device.
        batch: canvases, B rows. Where it has partners, every second view (the second,
            the fourth ...) is drawn from them.
        policies: one per view.
        row_ids: int32 [B], each row's number in the whole batch.

    Returns: one array per policy, [B, size, size, C].
    """
    view_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
        jnp.arange(len(policies))
    )
    views: dict[int, jax.Array] = {}
    for policy, from_partner in dict.fromkeys(_draws(batch, policies)):
        # Views of one policy are drawn by one program: eight crops compile as two.
        alike = [
            i
            for i, draw in enumerate(_draws(batch, policies))
            if draw == (policy, from_partner)
        ]
        shown = batch.image, batch.box, row_ids, batch.window
        if from_partner:
            shown = (
                batch.partner_image,
                batch.partner_box,
                row_ids,
                batch.partner_window,
            )

        def draw(
            view_key: Any, policy: Policy = policy, shown: tuple[Any, ...] = shown
        ) -> jax.Array:
            return policy(view_key, *shown)

        if len(alike) == 1:
            views[alike[0]] = draw(view_keys[alike[0]])
        else:
            drawn = jax.vmap(draw)(view_keys[jnp.array(alike)])
            views |= {index: drawn[place] for place, index in enumerate(alike)}
    return tuple(views[i] for i in range(len(policies)))


def _draws(batch: Batch, policies: tuple[Policy, ...]) -> list[tuple[Policy, bool]]:
    """Says for each view how it is drawn, and whether from the partners."""
    has_partners = batch.partner_image is not None
    return [(p, has_partners and i % 2 == 1) for i, p in enumerate(policies)]
