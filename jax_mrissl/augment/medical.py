"""Views of medical images as plain data: what differs between patients and scans.

These are proposals, not published recipes: ranges are taken from the sources named at
each, order and probabilities are ours. First the window, while the values outside of
it are there; then where the head lies, and what the scanner adds.
"""

from typing import Any

POLICIES = ('mri', 'ct', 'xray')

_FLIP = dict(name='horizontal_flip', probability=0.5)

# Lowest and highest share of the area, for large and for small crops. Half a slice
# and more, as two small crops of a brain seldom show the same tissue: cf. nnssl (two
# thirds of the volume's sides), Wolf et al. 2023 (CT: 0.9 to 1, small 0.1 to 0.33),
# siaug (X-ray: 0.3 to 0.9).
_LARGE = {'mri': (0.4, 1.0), 'ct': (0.4, 1.0), 'xray': (0.3, 0.9)}
_SMALL = {'mri': (0.1, 0.4), 'ct': (0.1, 0.33), 'xray': (0.1, 0.3)}


def view(
    policy: str, *, blur: float = 0.3, small: bool = False
) -> list[dict[str, Any]]:
    """Gives one view.

    Args:
        policy: one of `POLICIES`.
        blur: the probability of the blur.
        small: a small crop, of several that are compared with large ones.
    """
    ops = {'mri': _mri, 'ct': _ct, 'xray': _xray}[policy](blur)
    return [
        dict(
            name='random_resized_crop',
            scale=(_SMALL if small else _LARGE)[policy],
            interpolation='bilinear',  # a cubic overshoots at the skull
        ),
        *ops,
        dict(name='normalize'),
    ]


def _mri(blur: float) -> list[dict[str, Any]]:
    """MR magnitudes. No solarisation: it would turn the order of tissues around.

    Source: bias field, ghosting and gamma after TorchIO, Rician noise after MONAI,
    rotation after MoCo-CXR, all at or below their defaults.
    """
    return [
        # Of percentiles, where the record has kept what lies outside of them.
        dict(name='window_jitter', width=(0.9, 1.2), level=0.05, probability=0.5),
        _FLIP,
        dict(name='affine', degrees=10.0, probability=0.5),
        dict(name='bias_field', coefficient=0.3, order=3, probability=0.3),
        dict(name='ghosting', ghosts=(4, 10), intensity=(0.2, 0.5), probability=0.1),
        dict(name='gaussian_blur', sigma=(0.1, 1.5), probability=blur),
        dict(name='rician_noise', sigma=(0.0, 0.05), probability=0.3),
        dict(name='gamma', log_gamma=0.3, probability=0.5),
        dict(name='brightness_contrast', brightness=0.5, contrast=0.5, probability=0.8),
    ]


def _ct(blur: float) -> list[dict[str, Any]]:
    """CT slices: Hounsfield units are calibrated, so that only the window varies.

    Source: window after agnalt/random-windowing.
    """
    return [
        dict(name='window_jitter', width=(0.7, 1.3), level=0.15, probability=0.8),
        _FLIP,
        dict(name='affine', degrees=10.0, translate=0.05, probability=0.5),
        dict(name='gaussian_blur', sigma=(0.1, 1.5), probability=blur),
        dict(name='gaussian_noise', sigma=(0.0, 0.03), probability=0.3),
    ]


def _xray(blur: float) -> list[dict[str, Any]]:
    """Radiographs.

    Source: rotation after MoCo-CXR, noise after siaug, gamma after TorchIO.
    """
    return [
        _FLIP,
        dict(name='affine', degrees=10.0, probability=0.5),
        dict(name='gaussian_blur', sigma=(0.1, 1.5), probability=blur),
        dict(name='gaussian_noise', sigma=(0.0, 0.03), probability=0.3),
        dict(name='gamma', log_gamma=0.3, probability=0.5),
        dict(name='brightness_contrast', brightness=0.5, contrast=0.5, probability=0.8),
    ]
