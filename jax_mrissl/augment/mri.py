"""What a scanner does to an MR image: coil shading, ghosts, noise of the magnitude.

Ops take one image, float32 [H, W, C] in [0, 1], C 1 or 3, and keep shape and range.
All channels of an image get the same disturbance: they are one measurement.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_mrissl.augment.intensity import check_noise, make_noisy


def bias_field(coefficients: jax.Array, height: int, width: int) -> jax.Array:
    """Gives a smooth field of positive factors: exp of a polynomial.

    Args:
        coefficients: float32 [order + 1, order + 1]; entry (i, j) multiplies
            y**i x**j, both coordinates from -1 to 1 between the outermost pixels'
            centres. Entries with i + j above the order are not used.
        height, width: of the field, in pixels.

    Returns: float32 [height, width], above 0.

    Source: TorchIO's BiasField, after Van Leemput et al. 1999; in two dimensions.
    """
    powers = jnp.arange(len(coefficients))
    used = powers[:, None] + powers[None, :] < len(coefficients)
    y = jnp.linspace(-1.0, 1.0, height, dtype=coefficients.dtype)
    x = jnp.linspace(-1.0, 1.0, width, dtype=coefficients.dtype)
    polynomial = jnp.einsum(
        'yi,ij,xj->yx',
        y[:, None] ** powers[None, :],
        jnp.where(used, coefficients, 0.0),
        x[:, None] ** powers[None, :],
        # TF32 products would show as steps in a smooth field.
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.exp(polynomial)


@dataclasses.dataclass(frozen=True)
class BiasField:
    """Brighter near the coil, darker away from it: a smooth field of factors.

    Attributes:
        coefficient: x for coefficients of the polynomial drawn from [-x, x].
        order: of the polynomial.
        probability: per image.

    Source: TorchIO's RandomBiasField (order 3, x = 0.5); 0.3 here, as images in
    [0, 1] saturate. Its constant term, a factor on the whole image, is kept.
    """

    coefficient: float = 0.3
    order: int = 3
    probability: float = 0.3

    def __post_init__(self):
        if self.coefficient < 0 or self.order < 0:
            raise ValueError('coefficient and order are at least 0.')

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        field_key, apply_key = jax.random.split(key)
        coefficients = jax.random.uniform(
            field_key,
            (self.order + 1, self.order + 1),
            minval=-self.coefficient,
            maxval=self.coefficient,
        )
        apply = jax.random.bernoulli(apply_key, self.probability)
        # Coefficients of zero make a field of ones.
        field = bias_field(jnp.where(apply, coefficients, 0.0), *image.shape[:2])
        return jnp.clip(image * field[:, :, None], 0.0, 1.0)


def ghosted(
    image: jax.Array, ghosts: jax.Array, axis: jax.Array, intensity: jax.Array
) -> jax.Array:
    """Adds `ghosts` faint copies of an image to it, shifted along one axis.

    Every `ghosts`-th line of k-space along the axis is damped, the central one spared:
    what a periodic motion during the acquisition does.

    Args:
        image: float32 [H, W, C].
        ghosts: how many, at least 1; an int32 scalar.
        axis: 0 for ghosts above and below, 1 for left and right; an int32 scalar.
        intensity: from 0, no ghosts, to 1, those lines removed; a scalar.

    Returns: the real part, the same shape; not clipped.

    Source: TorchIO's Ghosting with `restore=None`.
    """
    spectrum = jnp.fft.fft2(image, axes=(0, 1))
    height, width, _ = image.shape
    rows = jnp.where(axis == 0, _line_factors(height, ghosts, intensity), 1.0)
    columns = jnp.where(axis == 1, _line_factors(width, ghosts, intensity), 1.0)
    factors = rows[:, None, None] * columns[None, :, None]
    disturbed = jnp.fft.ifft2(spectrum * factors, axes=(0, 1))
    return disturbed.real.astype(image.dtype)


def _line_factors(size: int, ghosts: jax.Array, intensity: jax.Array) -> jax.Array:
    """Gives the factor of each line of k-space, [size], in the FFT's own order."""
    # Lines are counted from one end of k-space, whose centre is line size // 2.
    lines = jnp.arange(size)
    damped = (lines % ghosts == 0) & (lines != size // 2)
    return jnp.fft.ifftshift(jnp.where(damped, 1 - intensity, 1.0))


@dataclasses.dataclass(frozen=True)
class Ghosting:
    """Faint copies of the head beside itself, as motion or pulsation makes them.

    Attributes:
        ghosts: lowest and highest number of copies, drawn per image.
        intensity: lowest and highest damping of the lines of k-space.
        probability: per image.

    The axis, up and down or left and right, is drawn per image too.

    Source: TorchIO's RandomGhosting: 4 to 10 ghosts, intensity 0.5 to 1. Milder here:
    at its full strength the head itself fades.
    """

    ghosts: tuple[int, int] = (4, 10)
    intensity: tuple[float, float] = (0.2, 0.5)
    probability: float = 0.1

    def __post_init__(self):
        if not 1 <= self.ghosts[0] <= self.ghosts[1]:
            raise ValueError(f'ghosts is {self.ghosts}; 1 <= fewest <= most.')
        if not 0 <= self.intensity[0] <= self.intensity[1] <= 1:
            raise ValueError(
                f'intensity is {self.intensity}; 0 <= lowest <= highest <= 1.'
            )

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        count_key, axis_key, intensity_key, apply_key = jax.random.split(key, 4)
        fewest, most = self.ghosts
        ghosts = jax.random.randint(count_key, (), fewest, most + 1)
        axis = jax.random.randint(axis_key, (), 0, 2)
        low, high = self.intensity
        intensity = jax.random.uniform(intensity_key, minval=low, maxval=high)
        disturbed = jnp.clip(ghosted(image, ghosts, axis, intensity), 0.0, 1.0)
        apply = jax.random.bernoulli(apply_key, self.probability)
        return jnp.where(apply, disturbed, image)


def add_rician_noise(key: jax.Array, image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Adds complex noise to a magnitude image, and takes the magnitude again.

    Args:
        key: of this draw.
        image: float32 [H, W, C], a magnitude.
        sigma: standard deviation of either part of the noise, in units of the image.

    Returns: sqrt((image + n1)**2 + n2**2), at least 0, not clipped above. Background
    becomes Rayleigh noise of mean 1.25 sigma, as in a scan that was not masked.

    Source: Gudbjartsson and Patz 1995; MONAI's RandRicianNoise.
    """
    real, imaginary = sigma * jax.random.normal(key, (2, *image.shape[:2], 1))
    return jnp.hypot(image + real, jnp.broadcast_to(imaginary, image.shape))


@dataclasses.dataclass(frozen=True)
class RicianNoise:
    """The noise of MR magnitudes, its deviation drawn from `sigma`, of full scale."""

    sigma: tuple[float, float] = (0.0, 0.05)
    probability: float = 0.3

    def __post_init__(self):
        check_noise(self.sigma)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Maps one image to the same shape."""
        return make_noisy(
            add_rician_noise,
            key,
            image,
            sigma=self.sigma,
            probability=self.probability,
        )
