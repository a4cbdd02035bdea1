"""What a step receives."""

from typing import Any

from flax import struct

Array = Any


@struct.dataclass
class Batch:
    """Images with what is known of them; a pytree. B rows.

    Attributes:
        image: uint8 or uint16 [B, H, W, C], C 1 or 3, the stored canvas with its
            background; or, after an augmentation, float32 views.
        box: int32 [B, 4]: top, left, height, width of the part that is not background.
        label: int32 [B], -1 where unknown; where a number is learned, float32 [B].
        mask: float32 [B]: 1 for a row that counts, 0 for one that fills a last batch.
        group: int32 [B], equal for images of one subject.
        window: float32 [B, 2], the stored values that are shown as black and as white;
            None: all that the type of `image` holds.
        partner_image, partner_box, partner_window: another image of each row's
            subject, where views are to be drawn from two images; else None.
    """

    image: Array
    box: Array
    label: Array
    mask: Array
    group: Array
    window: Array | None = None
    partner_image: Array | None = None
    partner_box: Array | None = None
    partner_window: Array | None = None
