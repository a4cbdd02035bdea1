import numpy as np

from jax_mrissl.report.overlay import overlay


def test_what_speaks_for_is_orange_what_speaks_against_blue():
    image = np.full((10, 10), 0.5)
    saliency = np.zeros((10, 10))
    saliency[2, 3], saliency[7, 7] = 4.0, -4.0
    made = overlay(image, saliency)
    assert made.shape == (10, 10, 3) and made.dtype == np.uint8
    red, green, blue = (int(v) for v in made[2, 3])
    assert red > green > blue
    red, green, blue = (int(v) for v in made[7, 7])
    assert blue > green > red
    np.testing.assert_array_equal(made[0, 0], [128, 128, 128])


def test_an_empty_map_leaves_the_image_as_it_is():
    image = np.linspace(0, 1, 12).reshape(3, 4)
    made = overlay(image, np.zeros((3, 4)))
    assert (made == np.round(image * 255)[..., None]).all()
