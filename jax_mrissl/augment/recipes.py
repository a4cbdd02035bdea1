"""Views as plain data, for configs: one view, one readable list.

A crop that names no `size` gets the `image_size` of its section.
"""

from typing import Any

View = list[dict[str, Any]]


def barlow_views() -> list[View]:
    """Gives the pair of Barlow Twins: the second is rarely blurred, but solarised.

    Source: Transform in main.py of facebookresearch/barlowtwins.
    """

    def view(blur: float, solarize: float) -> View:
        return [
            dict(name='random_resized_crop', scale=(0.08, 1.0)),
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

    return [view(blur=1.0, solarize=0.0), view(blur=0.1, solarize=0.2)]


def finetune_views() -> list[View]:
    """Gives the one light view of finetuning."""
    return [
        [
            dict(
                name='random_resized_crop', scale=(0.7, 1.0), interpolation='bilinear'
            ),
            dict(name='horizontal_flip', probability=0.5),
            dict(name='rotate', degrees=10.0),
            dict(name='brightness_contrast', brightness=0.2, contrast=0.2),
            dict(name='normalize'),
        ]
    ]


def evaluation_view() -> View:
    """Gives the view that is not random: the whole image, resized."""
    return [dict(name='resize'), dict(name='normalize')]
