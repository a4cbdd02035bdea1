r"""Draws what augmentation does to the images of a prepared dataset.

    python -m jax_mrissl.show --dataset=brain_mri --data_dir=data --out=ops.png

    python -m jax_mrissl.show --dataset=brain_mri --data_dir=data --out=views.png \
        --recipe=simclr:mri

Without a recipe: a few images, one per row, through each operation at its default
strength. With one, METHOD or METHOD:POLICY: the views that it draws of them. Methods:
barlow, simclr, swav, vicreg. Policies: natural (the default), mri, ct, xray.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError, expect_known

if TYPE_CHECKING:
    import numpy as np

    from jax_mrissl.augment.recipes import View
    from jax_mrissl.data.prepared import PreparedSet

_DATASET = flags.DEFINE_string('dataset', None, 'The name of a prepared dataset.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where prepared datasets are.')
_OUT = flags.DEFINE_string('out', None, 'The picture to write, a PNG file.')
_RECIPE = flags.DEFINE_string(
    'recipe', '', 'METHOD or METHOD:POLICY. Default: each operation by itself.'
)
_IMAGES = flags.DEFINE_integer(
    'images', 4, 'How many images, spread over the dataset.', lower_bound=1
)
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', 128, 'Height and width of the views, in pixels.', lower_bound=8
)
_FOREGROUND = flags.DEFINE_float(
    'foreground',
    0.0,
    'With a recipe: the least share of a crop that is not background.',
    lower_bound=0.0,
    upper_bound=1.0,
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draws.')


def main(argv: list[str]) -> None:
    """Draws the picture of the flags."""
    del argv
    dataset, data_dir, out = (_needed(flag) for flag in (_DATASET, _DATA_DIR, _OUT))
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.data.prepared import open_prepared
    from jax_mrissl.report.montage import montage

    prepared = open_prepared(data_dir, dataset)
    if _RECIPE.value:
        captions, views = _recipe(_RECIPE.value, gray=prepared.image_shape[-1] == 1)
    else:
        captions, views = _each_op()
    rows = draw_rows(
        prepared,
        views,
        count=_IMAGES.value,
        image_size=_IMAGE_SIZE.value,
        seed=_SEED.value,
    )
    file = Path(out).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(montage(rows, captions))
    print(f'{len(rows)} images in {len(captions)} columns: {file}')


def draw_rows(
    prepared: 'PreparedSet',
    views: 'list[View]',
    *,
    count: int,
    image_size: int,
    seed: int,
) -> 'list[list[np.ndarray]]':
    """Draws views of a few images.

    Args:
        prepared: the images.
        views: one per column.
        count: how many images, spread evenly over the dataset; all if it has fewer.
        image_size: of views that name no size, in pixels.
        seed: of the draws.

    Returns: for each image its views, float32 [size, size, C] in [0, 1].
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jax_mrissl.augment import build_policy

    count = min(count, len(prepared))
    chosen = np.linspace(0, len(prepared) - 1, count).astype(int)
    images, boxes = prepared.images(chosen), prepared.boxes[chosen]
    windows = None if prepared.windows is None else prepared.windows[chosen]
    columns = []
    for index, view in enumerate(views):
        crop, *ops = view
        size = round(image_size * crop.get('size_fraction', 1.0))
        crop = {'size': size} | {k: v for k, v in crop.items() if k != 'size_fraction'}
        # What normalisation makes of a view is for a network, not for eyes.
        ops = [op for op in ops if op['name'] != 'normalize']
        policy = build_policy([crop, *ops], where=f'view {index + 1}')
        key = jax.random.fold_in(jax.random.key(seed), index)
        drawn = jax.jit(policy)(key, images, boxes, jnp.arange(count), windows)
        columns.append(np.asarray(drawn))
    return [[column[row] for column in columns] for row in range(count)]


def _needed(flag: 'flags.FlagHolder[str | None]') -> str:
    if not flag.value:
        raise UserError(f'--{flag.name} is missing. --help shows examples.')
    return flag.value


def _each_op() -> 'tuple[list[str], list[View]]':
    """Gives captions and views: the image, a crop, and each op, never left out."""
    from jax_mrissl.augment import OPS

    whole: dict[str, Any] = dict(name='resize')
    names = [name for name in OPS if name != 'normalize']
    views = [[whole, dict(name=name, probability=1.0)] for name in names]
    return (
        ['image', 'random_resized_crop', *names],
        [[whole], [dict(name='random_resized_crop')], *views],
    )


def _recipe(recipe: str, *, gray: bool) -> 'tuple[list[str], list[View]]':
    """Gives captions and views: the image, and what a recipe draws."""
    from jax_mrissl.augment import recipes
    from jax_mrissl.configs._methods import METHODS

    method, colon, policy = recipe.partition(':')
    expect_known(method, METHODS, 'method of --recipe')
    section = METHODS[method]('', policy if colon else 'natural', _FOREGROUND.value)
    views: list[View] = section['views']
    captions = [f'view {index + 1}' for index in range(len(views))]
    if gray:
        pairs = [recipes.leave_out_colour(view) for view in views]
        views = [view for view, _ in pairs]
        if left_out := dict.fromkeys(name for _, names in pairs for name in names):
            print(f'Left out, as the images are gray: {", ".join(left_out)}.')
    return ['image', *captions], [[dict(name='resize')], *views]


if __name__ == '__main__':
    run_command(main, __doc__)
