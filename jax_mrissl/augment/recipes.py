"""Views as plain data, for configs: one view, one readable list.

A crop that names no `size` gets the `image_size` of its section, or `size_fraction` of
it. A policy says for which images a recipe is:

natural   photographs: what the methods' own papers and code do
mri       slices of MR magnitudes; no colour, no inverted tissue
ct        slices stored through one window
xray      radiographs
"""

from typing import Any

from jax_mrissl.augment import medical
from jax_mrissl.core.errors import expect_known

View = list[dict[str, Any]]

POLICIES = ('natural', *medical.POLICIES)
_SMALL = 3 / 7  # 96 of 224 pixels, SwAV's small views


def barlow_views(policy: str = 'natural', *, foreground: float = 0.0) -> list[View]:
    """Gives the pair of Barlow Twins and VICReg: the second is rarely blurred.

    Args:
        policy: one of `POLICIES`.
        foreground: the least share of a crop that is not background; for skull-stripped
            images, about 0.3.

    Source: natural: Transform in main.py of facebookresearch/barlowtwins, whose second
    view is also solarised now and then. Others: `medical`; of the pair, it keeps the
    unequal blur alone.
    """
    expect_known(policy, POLICIES, 'policy of views')
    if policy == 'natural':
        pair = [_byol(blur=1.0, solarize=0.0), _byol(blur=0.1, solarize=0.2)]
    else:
        pair = [medical.view(policy, blur=blur) for blur in (0.5, 0.1)]
    return [_masked(view, foreground) for view in pair]


def simclr_views(
    policy: str = 'natural', *, strength: float = 1.0, foreground: float = 0.0
) -> list[View]:
    """Gives the pair of SimCLR, both drawn alike.

    Args:
        policy: one of `POLICIES`.
        strength: natural: of the colour jitter; 1.0 as on ImageNet, 0.5 as on CIFAR-10
            and other small sets.
        foreground: as of `barlow_views`.

    Source: natural: google-research/simclr, data_util.py, which does not normalise;
    here all recipes do, and alike, so that all encoders take the same input. Others:
    `medical`.
    """
    expect_known(policy, POLICIES, 'policy of views')
    if policy == 'natural':
        view = _distorted(dict(scale=(0.08, 1.0)), strength)
    else:
        view = medical.view(policy)
    return [_masked(view, foreground) for _ in range(2)]


def swav_views(
    policy: str = 'natural',
    *,
    small: int = 6,
    strength: float = 1.0,
    foreground: float = 0.0,
) -> list[View]:
    """Gives the crops of SwAV: two large, then `small` small ones.

    Args:
        policy: one of `POLICIES`.
        small: how many small crops; 0: the large pair alone.
        strength: natural: of the colour jitter; 1.0 as on ImageNet.
        foreground: as of `barlow_views`.

    Source: natural: facebookresearch/swav, multicropdataset.py and the scripts of its
    800-epoch run; its deviation of 0.228 (a slip) is ImageNet's 0.229 here. Others:
    `medical`.
    """
    expect_known(policy, POLICIES, 'policy of views')
    if policy == 'natural':
        large, little = _multi_crop(strength)
    else:
        large = medical.view(policy)
        little = medical.view(policy, small=True)
        little[0]['size_fraction'] = _SMALL
    views = [large] * 2 + [little] * small
    return [_masked(view, foreground) for view in views]


def report_views(method: str) -> list[View]:
    """Gives the views of the Lightly library's defaults, for the report's replay.

    Args:
        method: 'barlow', 'simclr' or 'swav'.

    All are bilinear and normalised as ImageNet. They differ from the official recipes
    in that alone, for these versions: SimCLRTransform and SwaVTransform from 1.3.2;
    BYOLTransform for Barlow Twins, as Lightly's code from July 2023 has it (before, and
    for its published CIFAR-10 table: SimCLR's at strength 0.5). The version that the
    report used is not known.

    Source: lightly.transforms of lightly-ai/lightly.
    """
    expect_known(method, ('barlow', 'simclr', 'swav'), 'method of the report')
    bilinear = dict(interpolation='bilinear')
    if method == 'barlow':
        first = _byol(blur=1.0, solarize=0.0, **bilinear)
        return [first, _byol(blur=0.1, solarize=0.2, **bilinear)]
    if method == 'simclr':
        crop = dict(scale=(0.08, 1.0), **bilinear)
        return [_distorted(crop, 1.0) for _ in range(2)]
    large, little = _multi_crop(1.0)
    return [_masked(view, 0.0) for view in [large] * 2 + [little] * 6]


def finetune_views() -> list[View]:
    """Gives the one light view of finetuning."""
    return [
        [
            dict(
                name='random_resized_crop', scale=(0.7, 1.0), interpolation='bilinear'
            ),
            dict(name='horizontal_flip', probability=0.5),
            dict(name='affine', degrees=10.0),
            dict(name='brightness_contrast', brightness=0.2, contrast=0.2),
            dict(name='normalize'),
        ]
    ]


def evaluation_view() -> View:
    """Gives the view that is not random: the whole image, resized."""
    return [dict(name='resize'), dict(name='normalize')]


def report_evaluation_view() -> View:
    """Gives the report's view for finetuning: the middle, not resized, black around.

    It is meant for images that are stored as they come: 208 pixels of the Kaggle set in
    a view of 224.
    """
    return [dict(name='center_crop'), dict(name='normalize')]


def leave_out_colour(view: View) -> tuple[View, list[str]]:
    """Leaves out what does nothing to gray images.

    Args:
        view: of a recipe, for images with one channel.

    Returns: the view that draws from the same distribution, and the plain names of what
    was left out, for a message; none where the view has no colour in it.
    """
    kept, names = [], []
    for op in view:
        if op['name'] == 'random_grayscale':
            names.append('random grayscale')
            continue
        if op['name'] == 'color_jitter':
            # A field that is not named has the op's default, which is not 0.
            names += [part for part in ('saturation', 'hue') if op.get(part, 1.0)]
            op = {**op, 'saturation': 0.0, 'hue': 0.0}
        kept.append(dict(op))
    return kept, names


def _byol(*, blur: float, solarize: float, **crop: Any) -> View:
    """Gives a view of BYOL's pair, which Barlow Twins took over."""
    return [
        dict(name='random_resized_crop', scale=(0.08, 1.0), **crop),
        dict(name='horizontal_flip', probability=0.5),
        dict(
            name='color_jitter',
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            probability=0.8,
        ),
        dict(name='random_grayscale', probability=0.2),
        dict(name='gaussian_blur', sigma=(0.1, 2.0), probability=blur),
        dict(name='solarize', probability=solarize),
        dict(name='normalize'),
    ]


def _distorted(crop: dict[str, Any], strength: float) -> View:
    """Gives a view of SimCLR's kind, which SwAV took over."""
    return [
        dict(name='random_resized_crop', **crop),
        dict(name='horizontal_flip', probability=0.5),
        dict(
            name='color_jitter',
            brightness=0.8 * strength,
            contrast=0.8 * strength,
            saturation=0.8 * strength,
            hue=0.2 * strength,
            probability=0.8,
        ),
        dict(name='random_grayscale', probability=0.2),
        dict(name='gaussian_blur', sigma=(0.1, 2.0), probability=0.5),
        dict(name='normalize'),
    ]


def _multi_crop(strength: float) -> tuple[View, View]:
    """Gives SwAV's large and its small view."""
    large = dict(scale=(0.14, 1.0), interpolation='bilinear')
    little = dict(scale=(0.05, 0.14), interpolation='bilinear', size_fraction=_SMALL)
    return (
        _distorted(large, strength),
        _distorted(little, strength),
    )


def _masked(view: View, foreground: float) -> View:
    """Copies a view; where `foreground` is above 0, its crop asks for as much."""
    crop, *ops = (dict(op) for op in view)
    return [{**crop, 'foreground': foreground} if foreground else crop, *ops]
