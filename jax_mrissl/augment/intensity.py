"""What a view's pixels say: blur, noise, brightness, gamma, normalisation.

Ops take one image, float32 [H, W, C] in [0, 1], C 1 or 3, and keep shape and range;
`Normalize`, which stands last, alone leaves the range.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def gaussian_blur(image: jax.Array, sigma: jax.Array, *, radius: int) -> jax.Array:
    """Blurs [H, W, C] by a Gaussian, edge pixels repeated outwards.

    Args:
        image: float32.
        sigma: standard deviation in pixels, above 0; a scalar.
        radius: taps on each side; 3 sigma leaves out 0.3 % of the weight.

    Source: methods that cite Pillow's GaussianBlur get a stack of box filters, which
    is off by up to 12 of 255 levels at sigma 0.5; this is the Gaussian itself.
    """
    taps = jnp.arange(-radius, radius + 1, dtype=image.dtype)
    weights = jnp.exp(-0.5 * (taps / sigma) ** 2)
    weights = weights / weights.sum()
    # Each axis is one product with a banded matrix: faster than 2 r + 1 shifts, and
    # than a convolution, on a CPU at these sizes; a matrix unit does not notice it.
    exact = lax.Precision.HIGHEST
    rows = _band(weights, image.shape[0], radius)
    columns = _band(weights, image.shape[1], radius)
    image = jnp.einsum('yh,hwc->ywc', rows, image, precision=exact)
    return jnp.einsum('xw,ywc->yxc', columns, image, precision=exact)


def _band(weights: jax.Array, size: int, radius: int) -> jax.Array:
    """Gives the matrix that filters one axis, [size, size], edges repeated."""
    offsets = jnp.arange(size)[None, :] - jnp.arange(size)[:, None]  # [out, in]
    near = jnp.abs(offsets) <= radius
    band = jnp.where(near, weights[jnp.clip(offsets + radius, 0, 2 * radius)], 0.0)
    # What falls off an end belongs to the pixel at that end: cumulative sums of the
    # kernel's two tails, by how far the row is from the end.
    tail = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights)])
    from_end = jnp.arange(size)
    lost_low = tail[jnp.clip(radius - from_end, 0, 2 * radius + 1)]
    lost_high = tail[jnp.clip(radius - from_end[::-1], 0, 2 * radius + 1)]
    return band.at[:, 0].add(lost_low).at[:, -1].add(lost_high)


@dataclasses.dataclass(frozen=True)
class GaussianBlur:
    """A Gaussian blur with a standard deviation drawn from `sigma`, in pixels."""

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5

    def __post_init__(self):
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f'sigma is {self.sigma}; 0 < lowest <= highest.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        sigma_key, apply_key = jax.random.split(key)
        low, high = self.sigma
        sigma = jax.random.uniform(sigma_key, minval=low, maxval=high)
        apply = jax.random.bernoulli(apply_key, self.probability)
        blurred = gaussian_blur(image, sigma, radius=math.ceil(3 * high))
        return jnp.where(apply, jnp.clip(blurred, 0.0, 1.0), image)


@dataclasses.dataclass(frozen=True)
class Solarize:
    """Inverts what is at or above a threshold, as Pillow's `ImageOps.solarize`.

    Attributes:
        threshold: in [0, 1]; 128 of 255 levels, as in the sources of the methods.
        probability: per image.
    """

    threshold: float = 128 / 255
    probability: float = 0.2

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f'threshold is {self.threshold}; from 0 to 1, such as 128 / 255.'
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        apply = jax.random.bernoulli(key, self.probability)
        # Half a level below, so that rounding in float32 does not decide.
        bright = image >= self.threshold - 0.5 / 255
        return jnp.where(apply & bright, 1 - image, image)


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with black: clip(factor * image)."""
    return jnp.clip(factor * image, 0.0, 1.0)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with the mean of the image's gray version; one number an image."""
    return _blend(image, to_gray(image).mean(), factor)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with the image's gray version; nothing happens to gray images."""
    return image if image.shape[-1] == 1 else _blend(image, to_gray(image), factor)


def to_gray(image: jax.Array) -> jax.Array:
    """Gives the luma by ITU-R BT.601, [H, W, 1]."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array([0.299, 0.587, 0.114], image.dtype)
    return jnp.sum(image * weights.reshape(1, 1, 3), axis=-1, keepdims=True)


def _blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(factor * image + (1 - factor) * other, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class BrightnessContrast:
    """Brightness, then contrast, by factors around one; for gray images.

    Attributes:
        brightness, contrast: x for a factor drawn from [max(0, 1 - x), 1 + x].
        probability: per image.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    probability: float = 1.0

    def __post_init__(self):
        if min(self.brightness, self.contrast) < 0:
            raise ValueError('brightness and contrast are at least 0.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        first_key, second_key, apply_key = jax.random.split(key, 3)
        changed = adjust_brightness(image, draw_factor(first_key, self.brightness))
        changed = adjust_contrast(changed, draw_factor(second_key, self.contrast))
        apply = jax.random.bernoulli(apply_key, self.probability)
        return jnp.where(apply, changed, image)


def draw_factor(key: jax.Array, strength: float) -> jax.Array:
    """Draws a factor from [max(0, 1 - strength), 1 + strength]."""
    low = max(0.0, 1 - strength)
    return jax.random.uniform(key, minval=low, maxval=1 + strength)


def add_gaussian_noise(key: jax.Array, image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Adds noise of standard deviation `sigma`, the same in all channels.

    Args:
        key: of this draw.
        image: float32 [H, W, C].
        sigma: in units of the image; a scalar.

    Returns: the same shape; not clipped.
    """
    return image + sigma * jax.random.normal(key, (*image.shape[:2], 1))


@dataclasses.dataclass(frozen=True)
class GaussianNoise:
    """Noise of a standard deviation drawn from `sigma`, of full scale.

    Source: siaug (chest X-ray) draws 0.01 to 0.03. Pixels are clipped, so that a black
    background gets half of it: for MR magnitudes `rician_noise` is the true one.
    """

    sigma: tuple[float, float] = (0.0, 0.03)
    probability: float = 0.3

    def __post_init__(self):
        check_noise(self.sigma)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        return make_noisy(
            add_gaussian_noise,
            key,
            image,
            sigma=self.sigma,
            probability=self.probability,
        )


def check_noise(sigma: tuple[float, float]) -> None:
    """Raises ValueError unless `sigma` is a range of standard deviations."""
    if not 0 <= sigma[0] <= sigma[1]:
        raise ValueError(f'sigma is {sigma}; 0 <= lowest <= highest.')


def make_noisy(
    add: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    image: jax.Array,
    *,
    sigma: tuple[float, float],
    probability: float,
) -> jax.Array:
    """Adds noise of a drawn strength now and then, clipped to [0, 1].

    Args:
        add: the noise, of (key, image, standard deviation).
        key: of this draw.
        image: float32 [H, W, C] in [0, 1].
        sigma: lowest and highest standard deviation.
        probability: that there is any.
    """
    sigma_key, noise_key, apply_key = jax.random.split(key, 3)
    low, high = sigma
    drawn = jax.random.uniform(sigma_key, minval=low, maxval=high)
    noisy = jnp.clip(add(noise_key, image, drawn), 0.0, 1.0)
    return jnp.where(jax.random.bernoulli(apply_key, probability), noisy, image)


@dataclasses.dataclass(frozen=True)
class Gamma:
    """Changes tissue contrast: image ** gamma; black and white stay.

    Attributes:
        log_gamma: x for a gamma of exp(U(-x, x)), so that darkening by gamma and
            brightening by 1 / gamma are equally likely.
        probability: per image.

    Source: TorchIO's RandomGamma, x = 0.3.
    """

    log_gamma: float = 0.3
    probability: float = 0.5

    def __post_init__(self):
        if self.log_gamma < 0:
            raise ValueError(f'log_gamma is {self.log_gamma}; at least 0.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        gamma_key, apply_key = jax.random.split(key)
        exponent = jax.random.uniform(
            gamma_key, minval=-self.log_gamma, maxval=self.log_gamma
        )
        apply = jax.random.bernoulli(apply_key, self.probability)
        return image ** jnp.where(apply, jnp.exp(exponent), 1.0)


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Subtracts a mean and divides by a deviation, per channel; stands last.

    A gray image, C = 1, comes out with as many channels as there are means: the
    networks of torchvision's layout take three.

    Attributes:
        mean, std: of the channels; ImageNet's by default.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        if len(self.mean) != len(self.std):
            raise ValueError('mean and std have different lengths.')
        if min(self.std) <= 0:
            raise ValueError(f'std is {self.std}; all above 0.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps [H, W, C] in [0, 1] to [H, W, len(mean)], centred near 0."""
        del key
        mean = jnp.array(self.mean, image.dtype).reshape(1, 1, -1)
        std = jnp.array(self.std, image.dtype).reshape(1, 1, -1)
        return (image - mean) / std
