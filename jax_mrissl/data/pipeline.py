"""From a prepared dataset to what each step reads; position is the global step."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jax_mrissl.core import processes
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.prepared import PreparedSet

Placement = Literal['auto', 'device', 'host', 'stream']
PLACEMENTS = ('auto', 'device', 'host', 'stream')
_THREADS = 4  # that read images for the host, two batches ahead each
PREFETCHED = 2 * _THREADS  # batches that they may make before one is asked for


@struct.dataclass
class Resident:
    """A whole set on the accelerator: image [n, H, W, C], box [n, 4], label, group.

    `label` and `window`, float32 [n, 2] or None: as of a `Batch`.
    """

    image: Any
    box: Any
    label: Any
    group: Any
    window: Any = None


@struct.dataclass
class Rows:
    """A batch of a resident set: row numbers, int32 [b]; mask, float32 [b].

    `partner`, int32 [b] or None: another row of each row's subject.
    """

    row: Any
    mask: Any
    partner: Any = None


def fetch(source: Any, feed: Any) -> Batch:
    """Gives the batch of a feed, inside the compiled step.

    Args:
        source: a `Resident` set where the feed is `Rows`; else unused.
        feed: a `Batch` as it is, or `Rows` to be gathered.
    """
    if isinstance(feed, Batch):
        return feed

    def take(values: Any, rows: jax.Array) -> Any:
        if values is None:
            return None
        return jnp.take(values, rows, axis=0, mode='clip')

    batch = Batch(
        image=take(source.image, feed.row),
        box=take(source.box, feed.row),
        label=take(source.label, feed.row),
        mask=feed.mask,
        group=take(source.group, feed.row),
        window=take(source.window, feed.row),
    )
    if feed.partner is None:
        return batch
    return dataclasses.replace(
        batch,
        partner_image=take(source.image, feed.partner),
        partner_box=take(source.box, feed.partner),
        partner_window=take(source.window, feed.partner),
    )


class _Range:
    """The integers below `count`, as a source that Grain can shuffle."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> np.int32:
        return np.int32(index)

    def __repr__(self) -> str:
        return f'_Range({self._count})'


def batch_rows(
    count: int, batch_size: int, seed: int, steps_per_epoch: int
) -> grain.MapDataset:
    """Says which rows each step reads; element t is int32 [batch_size].

    Every epoch is another shuffle of all rows, of which the first `steps_per_epoch`
    batches are read. Element t depends on these arguments and t alone.

    Raises:
        UserError: the set is smaller than an epoch.
    """
    used = steps_per_epoch * batch_size
    if not 0 < used <= count:
        raise UserError(
            f'{count} images do not make {max(steps_per_epoch, 1)} batches of '
            f'{batch_size}: set batch_size to at most {count}.'
        )
    rows = grain.MapDataset.source(_Range(count)).seed(seed).shuffle()
    return rows[:used].repeat().batch(batch_size)


@dataclasses.dataclass(frozen=True)
class Shard:
    """This process's share of every batch: rows `index` of `count` equal blocks."""

    index: int = 0
    count: int = 1

    @classmethod
    def own(cls) -> 'Shard':
        """Gives that of this process, numbered as the runtime that has the devices."""
        return cls(jax.process_index(), processes.count())

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Gives this process's rows of a batch, [..., B]."""
        share = rows.shape[-1] // self.count
        return rows[..., self.index * share : (self.index + 1) * share]


def with_partners(
    order: grain.MapDataset, groups: np.ndarray, seed: int
) -> grain.MapDataset:
    """Adds to each batch of rows another row of each row's subject.

    Element t depends on these arguments and t alone, and is int32 [2, B]: rows,
    partners as of `partner_draw`.

    Args:
        order: batches of row numbers, int32 [B].
        groups: int [n], each row's subject.
        seed: of the draws.
    """
    draw = partner_draw(groups, seed)
    return order.map_with_index(lambda step, rows: np.stack([rows, draw(step, rows)]))


def partner_draw(
    groups: np.ndarray, seed: int
) -> Callable[[int, np.ndarray], np.ndarray]:
    """Makes a function of a step and of rows that draws another row of each's subject.

    Drawn anew at each step, evenly from the subject's other images; an image that is
    its subject's only one is its own partner. int32 [B], as the rows.

    Args:
        groups: int [n], each row's subject.
        seed: of the draws.
    """
    by_group = np.argsort(groups, kind='stable')
    place = np.empty(len(groups), np.int64)  # of each row in `by_group`
    place[by_group] = np.arange(len(groups))
    _, number, counts = np.unique(groups, return_inverse=True, return_counts=True)
    start, count = (np.cumsum(counts) - counts)[number], counts[number]

    def draw(step: int, rows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, step])
        # Of the others: from 1 to count - 1 places further on, around the subject.
        further = rng.integers(1, np.maximum(count[rows], 2))
        partner = start[rows] + (place[rows] - start[rows] + further) % count[rows]
        return by_group[partner].astype(np.int32)

    return draw


def choose_placement(
    placement: Placement, prepared: PreparedSet, *, share: float = 0.25
) -> Placement:
    """Settles 'auto': on the accelerator if the set takes at most `share` of it.

    A CPU counts as an accelerator whose memory is the host's, of which the set then
    takes the share; a backend that does not tell its memory gets 'host'. Processes
    divide the memory of a host: each may come to need any row, as every epoch shuffles
    all of them, so each holds the whole set.
    """
    if placement not in PLACEMENTS:
        raise UserError(
            f'placement is {placement!r}; one of {", ".join(map(repr, PLACEMENTS))}.'
        )
    if placement != 'auto':
        return placement
    height, width, channels = prepared.image_shape
    size = len(prepared) * height * width * channels * prepared.bits // 8
    device = jax.local_devices()[0]
    if device.platform == 'cpu':
        return 'device' if size < share * _host_memory() else 'stream'
    limit = (device.memory_stats() or {}).get('bytes_limit', 0)
    if size < share * limit:
        return 'device'
    return 'host' if size < share * _host_memory() else 'stream'


def _host_memory() -> int:
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return total // processes.count_on_this_host()


def resident(prepared: PreparedSet) -> Resident:
    """Decodes a whole set, for the accelerator; on the host as yet."""
    return Resident(
        image=prepared.all_images(),
        box=prepared.boxes,
        label=prepared.labels,
        group=prepared.group_numbers,
        window=prepared.windows,
    )


def row_feeds(
    rows: np.ndarray,
    *,
    batch_size: int,
    steps_per_epoch: int,
    seed: int,
    first_step: int,
    shard: Shard,
    partners_of: np.ndarray | None = None,
) -> Iterator[Rows]:
    """Gives the feeds of a training run on some rows of a resident set, without end.

    Args:
        rows: int [n], the rows that are trained on.
        batch_size: of the global batch.
        steps_per_epoch: batches of an epoch.
        seed: of the shuffles.
        first_step: the global step of the first feed.
        shard: this process's share.
        partners_of: int [n], the subject of each of `rows`, where every row is to have
            a partner of its subject; None: no partners.
    """
    order = _shares(
        len(rows), batch_size, steps_per_epoch, seed, first_step, shard, partners_of
    )
    rows = np.asarray(rows, np.int32)
    mask = np.ones(batch_size // shard.count, np.float32)

    def feed(places: np.ndarray) -> Rows:
        row, *partner = rows[places]
        return Rows(row=row, mask=mask, partner=partner[0] if partner else None)

    return _iterate(order.map(feed), threads=0)


def open_input(
    prepared: PreparedSet,
    placement: Placement,
    *,
    batch_size: int,
    steps_per_epoch: int,
    seed: int,
    first_step: int,
    shard: Shard,
    partners: bool = False,
) -> tuple[Any, Iterator[Any]]:
    """Opens the input of a training run; the batches do not depend on the placement.

    Args:
        prepared: the images.
        placement: 'device', 'host' or 'stream'.
        batch_size: of the global batch.
        steps_per_epoch: batches of an epoch.
        seed: of the shuffles.
        first_step: the global step of the first batch.
        shard: this process's share.
        partners: whether each row comes with another image of its subject.

    Returns:
        What is to be put on every device (a `Resident` set, or nothing), and the feeds
        from `first_step` on, without end: `Rows` or `Batch`, on the host.
    """
    count = len(prepared)
    partners_of = prepared.group_numbers if partners else None
    if placement == 'device':
        feeds = row_feeds(
            np.arange(count),
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            first_step=first_step,
            shard=shard,
            partners_of=partners_of,
        )
        return resident(prepared), feeds
    if placement == 'host':
        images = prepared.all_images()

        def read(r: np.ndarray) -> np.ndarray:
            return images[r]
    else:

        def read(r: np.ndarray) -> np.ndarray:
            return prepared.images(r)

    mask = np.ones(batch_size // shard.count, np.float32)

    def window(r: np.ndarray) -> np.ndarray | None:
        return None if prepared.windows is None else prepared.windows[r]

    def batch(places: np.ndarray) -> Batch:
        r, *partner = places
        made = Batch(
            image=read(r),
            box=prepared.boxes[r],
            label=prepared.labels[r],
            mask=mask,
            group=prepared.group_numbers[r],
            window=window(r),
        )
        if not partner:
            return made
        return dataclasses.replace(
            made,
            partner_image=read(partner[0]),
            partner_box=prepared.boxes[partner[0]],
            partner_window=window(partner[0]),
        )

    order = _shares(
        count, batch_size, steps_per_epoch, seed, first_step, shard, partners_of
    )
    return (), _iterate(order.map(batch), threads=_THREADS)


def _shares(
    count: int,
    batch_size: int,
    steps_per_epoch: int,
    seed: int,
    first_step: int,
    shard: Shard,
    partners_of: np.ndarray | None,
) -> grain.MapDataset:
    """Gives this process's rows of each step, int32 [1 or 2, b]: rows, partners."""
    if batch_size % shard.count:
        raise UserError(
            f'A batch of {batch_size} cannot be shared by {shard.count} processes.'
        )
    rows = batch_rows(count, batch_size, seed, steps_per_epoch)
    if partners_of is None:
        rows = rows.map(lambda r: r[None])
    else:
        rows = with_partners(rows, partners_of, seed)
    return rows[first_step:].map(shard.of)


def _iterate(dataset: grain.MapDataset, *, threads: int) -> Iterator[Any]:
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=PREFETCHED if threads else 0
    )
    return iter(dataset.to_iter_dataset(options))


def evaluation_feeds(rows: np.ndarray, batch_size: int) -> Iterator[Rows]:
    """Cuts rows into batches of one size; the last is filled up and masked.

    Args:
        rows: int [n], of a resident set.
        batch_size: rows of every feed.
    """
    for start in range(0, len(rows), batch_size):
        block = np.asarray(rows[start : start + batch_size], np.int32)
        fill = batch_size - len(block)
        yield Rows(
            row=np.pad(block, (0, fill)),
            mask=np.pad(np.ones(len(block), np.float32), (0, fill)),
        )
