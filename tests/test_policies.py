"""data/policies.py, against Pillow, loops over coordinates and the EfficientNet release's outputs."""
import collections
import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageEnhance, ImageOps

from data import policies
from data.operations import (
    OPERATIONS,
    auto_contrast,
    brightness,
    color,
    contrast,
    cutout,
    equalize,
    invert,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    solarize_add,
    translate_x,
    translate_y,
)
from data.policies import AUTOAUGMENT, POLICIES, REACH, Policy, apply_policy, make_policy, operate, operation_values

GEOMETRIC = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')


def noise(height, width, seed=0, low=0, high=256):
    """A random image that cannot be written to."""
    image = np.random.default_rng(seed).integers(low, high, (height, width, 3), dtype=np.uint8)
    image.flags.writeable = False
    return image


def gradient(height, width):
    """An image of smooth colours that does not reach 0 or 255."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 2 * x, 60 + y + x, 200 - 3 * y], axis=2).clip(20, 230).astype(np.uint8)


IMAGES = {'noise': noise(31, 40), 'pale': noise(30, 32, low=90, high=140), 'gradient': gradient(32, 48),
          'two-values': (noise(16, 16) // 128 * 200 + 20), 'constant': np.full((12, 9, 3), (10, 100, 200), np.uint8)}


@pytest.fixture(params=IMAGES, scope='module')
def image(request):
    return IMAGES[request.param]


def levels(one, other):
    """Largest difference in grey levels."""
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return np.abs(one.astype(int) - other.astype(int)).max()


def pillow(image):
    return Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))


def from_pillow(image):
    return np.asarray(image)[:, :, ::-1]


class Plus:
    """A generator whose signs are all positive."""

    def uniform(self):
        return 0.5


@pytest.fixture
def calls(monkeypatch):
    """The (operation, level, reach) of each call, in order; the image stays as it is."""
    made = []
    monkeypatch.setattr(policies, 'operate', lambda image, name, level, reach, rng:
                        made.append((name, level, reach)) or image)
    return made


# crc32 of the outputs of EN's `autoaugment.py` under TensorFlow 1.15.5 (translations of 100 pixels at level 10).
RELEASED = [
    ('AutoContrast', 0, 3269201220), ('Equalize', 0, 171007975), ('Invert', 0, 3076746969),
    ('Posterize', 0, 3837878172), ('Posterize', 6, 1908958945), ('Posterize', 10, 4019405790),
    ('Posterize', 17, 484279863), ('Posterize', 28, 3837878172),
    ('Solarize', 0, 3076746969), ('Solarize', 3, 4182804216), ('Solarize', 10, 3076746969),
    ('Solarize', 17, 4051925133), ('Solarize', 28, 3151284960),
    ('SolarizeAdd', 7, 2375903023), ('SolarizeAdd', 28, 185010044),
    ('Contrast', 0, 1557867647), ('Contrast', 9, 3415656022), ('Contrast', 28, 2820737255),
    ('Brightness', 0, 1356062042), ('Brightness', 9, 2025496725), ('Brightness', 28, 1514218469),
    ('ShearX', 4, 800558959), ('ShearX', 9, 1377233205), ('ShearX', 28, 3303118094),
    ('ShearY', 4, 1115372365), ('ShearY', 9, 3805586655), ('ShearY', 28, 4289042128),
    ('TranslateX', 1, 2546501375), ('TranslateY', 1, 613429348)]


@pytest.mark.parametrize('name, level, crc32', RELEASED)
def test_outputs_are_those_of_the_released_code(name, level, crc32):
    image = (30 + np.arange(20 * 24 * 3) ** 2 * 31 // 7 % 200).reshape(20, 24, 3).astype(np.uint8)
    assert zlib.crc32(operate(image, name, level, REACH['randaugment'], Plus()).tobytes()) == crc32


def test_operations_without_factor_equal_pillow(image):
    assert levels(equalize(image), from_pillow(ImageOps.equalize(pillow(image)))) == 0
    assert levels(invert(image), from_pillow(ImageOps.invert(pillow(image)))) == 0
    assert levels(auto_contrast(image), from_pillow(ImageOps.autocontrast(pillow(image)))) <= 1
    for bits in range(1, 9):
        assert levels(posterize(image, bits), from_pillow(ImageOps.posterize(pillow(image), bits))) == 0
    for threshold in (0, 1, 100, 128, 255, 256):
        assert levels(solarize(image, threshold), from_pillow(ImageOps.solarize(pillow(image), threshold))) == 0


@pytest.mark.parametrize('factor', [0.0, 0.1, 0.64, 1.0, 1.36, 1.9])
@pytest.mark.parametrize('name', ['Color', 'Brightness', 'Sharpness'])
def test_enhancements_equal_pillow(image, name, factor):
    theirs = from_pillow(getattr(ImageEnhance, name)(pillow(image)).enhance(factor))
    assert levels(OPERATIONS[name](image, factor), theirs) <= 1


@pytest.mark.parametrize('name', ['Color', 'Contrast', 'Brightness', 'Sharpness'])
def test_factor_one_changes_nothing(image, name):
    assert (OPERATIONS[name](image, 1.0) == image).all()


def test_colour_and_sharpness_leave_a_grey_image_alone():
    grey = np.repeat(np.arange(0, 256, 3, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(4, axis=1)
    flat = np.full((9, 9, 3), 77, np.uint8)
    for factor in (0.1, 0.37, 1.72, 1.9):
        assert (color(grey, factor) == grey).all() and (sharpness(flat, factor) == flat).all()


def test_blends_truncate_and_clip():
    image = np.array([[[10, 199, 255]]], np.uint8)
    assert brightness(image, 0.99).tolist() == [[[9, 197, 252]]]
    assert brightness(image, 1.3).tolist() == [[[13, 255, 255]]]
    assert color(np.array([[[0, 0, 255]]], np.uint8), 0.0).tolist() == [[[76, 76, 76]]]  # red, of weight 0.299


@pytest.mark.parametrize('shape, constant', [((16, 16), 1), ((32, 40), 5), ((15, 17), 0), ((300, 300), 255)])
def test_contrast_blends_with_the_number_of_pixels_over_256(shape, constant):
    image = noise(*shape, seed=1)
    for factor in (0.1, 0.7, 1.3, 1.9):
        expected = np.clip(constant + factor * (image.astype(float) - constant), 0, 255)
        whole = np.abs(expected - np.round(expected)) < 1e-3  # where float32 may fall to either side
        result = contrast(image, factor)
        assert (result == expected.astype(np.uint8))[~whole].all() and levels(result, expected.astype(np.uint8)) <= 1


def test_solarize_add_raises_the_dark_half():
    image = np.array([[[0, 100, 127], [128, 200, 255]]], np.uint8)
    assert solarize_add(image, 110).tolist() == [[[110, 210, 237], [128, 200, 255]]]
    assert solarize_add(image, 200).tolist() == [[[200, 255, 255], [128, 200, 255]]]


def test_posterize_with_no_bits_is_black():
    assert not posterize(noise(4, 4), 0).any()


@pytest.mark.parametrize('height, width', [(2, 9), (9, 2), (1, 1)])
def test_sharpness_leaves_an_image_without_inner_pixels_alone(height, width):
    image = noise(height, width)
    assert (sharpness(image, 1.9) == image).all()


def test_sharpness_keeps_the_border_and_smooths_with_a_heavy_centre():
    image = noise(5, 6, seed=2)
    result = sharpness(image, 0.0)
    inner = image[1:4, 1:4].astype(int)
    assert (result[2, 2] == (inner.sum(axis=(0, 1)) + 4 * inner[1, 1]) // 13).all()
    border = np.ones((5, 6), bool)
    border[1:-1, 1:-1] = False
    assert (result[border] == image[border]).all() and (result != image)[~border].any()


def nearest(image, source):
    """Image made pixel by pixel, and where it is certain.

    Args:
        source: function(x, y) of the result -> (x, y) of the image.
    Returns:
        (uint8 [H,W,3], bool [H,W]: no coordinate is so close to the border of two pixels that rounding decides).
    """
    height, width = image.shape[:2]
    result, certain = np.full_like(image, 128), np.ones((height, width), bool)
    for y in range(height):
        for x in range(width):
            place = source(x, y)
            certain[y, x] = all(abs(value - math.floor(value) - 0.5) > 0.003 for value in place)
            column, row = (math.floor(value + 0.5) for value in place)
            if 0 <= column < width and 0 <= row < height:
                result[y, x] = image[row, column]
    return result, certain


def turned(degrees, height, width):
    """Source of a rotation about the centre: with y pointing down, (cos, sin) is where the right comes from."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def source(x, y):
        right, down = x - (width - 1) / 2, y - (height - 1) / 2
        return (width - 1) / 2 + cosine * right - sine * down, (height - 1) / 2 + sine * right + cosine * down
    return source


@pytest.mark.parametrize('height, width', [(20, 23), (17, 8), (1, 13), (9, 1)])
@pytest.mark.parametrize('name, value', [
    (name, sign * value) for name, values in [('Rotate', (7.3, 24, 84)), ('ShearX', (0.12, 0.27, 0.84)),
                                              ('ShearY', (0.12, 0.27, 0.84)), ('TranslateX', (0, 3, 9.9, 225)),
                                              ('TranslateY', (0, 3, 9.9, 225))]
    for value in values for sign in (1, -1)])
def test_geometry_equals_a_loop_over_coordinates(height, width, name, value):
    image = noise(height, width, seed=3)
    source = {'Rotate': turned(value, height, width),
              'ShearX': lambda x, y: (x + value * y, y), 'ShearY': lambda x, y: (x, y + value * x),
              'TranslateX': lambda x, y: (x + value, y), 'TranslateY': lambda x, y: (x, y + value)}[name]
    expected, certain = nearest(image, source)
    assert certain.mean() > 0.9
    assert (OPERATIONS[name](image, value) == expected)[certain].all()


def test_directions():
    image = noise(8, 8, seed=4)
    assert (rotate(image, 90) == np.rot90(image)).all()  # np.rot90 turns counter-clockwise
    assert (translate_x(image, 3)[:, :5] == image[:, 3:]).all()
    assert (translate_y(image, -3)[3:] == image[:5]).all()
    assert (shear_x(image, 1)[2, :6] == image[2, 2:]).all() and (shear_x(image, 1)[2, 6:] == 128).all()
    assert (shear_y(image, 1)[:6, 2] == image[2:, 2]).all() and (shear_y(image, 1)[6:, 2] == 128).all()
    assert (translate_x(image, 8) == 128).all() and (translate_y(image, -8) == 128).all()


@pytest.mark.parametrize('pad_size, row, column, inside', [
    (2, 4, 5, (slice(2, 6), slice(3, 7))), (3, 0, 11, (slice(0, 3), slice(8, 12))),
    (3, 9, 1, (slice(6, 10), slice(0, 4))), (40, 5, 5, (slice(0, 10), slice(0, 12))),
    (0, 5, 5, (slice(0, 0), slice(0, 0)))])
def test_cutout_fills_a_square_with_grey(pad_size, row, column, inside):
    image = noise(10, 12, seed=5)
    expected = image.copy()
    expected[inside] = 128
    assert (cutout(image, pad_size, row, column) == expected).all()


def test_cutout_is_centred_on_any_pixel_alike():
    rng = np.random.default_rng(0)
    places = collections.Counter(operation_values('Cutout', 10, REACH['randaugment'], (3, 5, 3), rng)
                                 for _ in range(3000))
    assert set(places) == {(40, row, column) for row in range(3) for column in range(5)}
    assert all(abs(count - 200) < 4.5 * math.sqrt(200) for count in places.values())


@pytest.mark.parametrize('name, expected', [
    # values at levels 0, 5, 7, 10, 28
    ('Rotate', (0, 15, 21, 30, 84)), ('ShearX', (0, 0.15, 0.21, 0.3, 0.84)), ('ShearY', (0, 0.15, 0.21, 0.3, 0.84)),
    ('TranslateX', (0, 50, 70, 100, 280)), ('TranslateY', (0, 50, 70, 100, 280)),
    ('Color', (0.1, 1, 1.36, 1.9, 5.14)), ('Contrast', (0.1, 1, 1.36, 1.9, 5.14)),
    ('Brightness', (0.1, 1, 1.36, 1.9, 5.14)), ('Sharpness', (0.1, 1, 1.36, 1.9, 5.14)),
    ('Posterize', (1, 2, 2, 4, 1)), ('Solarize', (0, 128, 179, 0, 204)), ('SolarizeAdd', (0, 55, 77, 110, 308))])
def test_values_at_levels(name, expected):
    values = [operation_values(name, level, REACH['randaugment'], (9, 9, 3), Plus()) for level in (0, 5, 7, 10, 28)]
    assert all(len(value) == 1 for value in values)
    assert [value for value, in values] == pytest.approx(expected, rel=1e-12)
    if name in ('Posterize', 'Solarize', 'SolarizeAdd'):
        assert all(isinstance(value, int) for value, in values)


def test_reach_depends_on_the_policy():
    assert operation_values('TranslateY', 9, REACH['autoaugment'], (9, 9, 3), Plus()) == (225,)
    assert operation_values('TranslateX', 9, REACH['randaugment'], (9, 9, 3), Plus()) == (90,)
    assert [operation_values('Cutout', 7, REACH[name], (9, 9, 3), np.random.default_rng(0))[0]
            for name in POLICIES] == [70, 28]


@pytest.mark.parametrize('name', GEOMETRIC)
def test_half_of_the_geometric_values_are_negative(name):
    rng = np.random.default_rng(0)
    values = [operation_values(name, 4, REACH['randaugment'], (9, 9, 3), rng)[0] for _ in range(1000)]
    assert len(set(values)) == 2 and max(values) == -min(values) > 0
    assert 430 < sum(value < 0 for value in values) < 570


def test_table_of_sub_policies():
    table = AUTOAUGMENT
    assert len(table) == 25 and all(len(pair) == 2 for pair in table)
    assert table[0] == (('Equalize', 0.8, 1), ('ShearY', 0.8, 4))
    assert table[6] == (('Equalize', 0.4, 8), ('SolarizeAdd', 0.8, 3))
    assert table[12] == (('Posterize', 0.4, 6), ('AutoContrast', 0.4, 7))
    assert table[15] == (('Rotate', 1.0, 7), ('TranslateY', 0.8, 9))
    assert table[22] == (('Posterize', 0.8, 2), ('Solarize', 0.6, 10))
    assert table[24] == (('Color', 0.8, 6), ('Rotate', 0.4, 5))
    steps = [step for pair in table for step in pair]
    assert collections.Counter(name for name, _, _ in steps) == {
        'Equalize': 12, 'Color': 9, 'Rotate': 7, 'Solarize': 8, 'ShearY': 4, 'ShearX': 2, 'SolarizeAdd': 2,
        'Posterize': 2, 'AutoContrast': 2, 'Invert': 1, 'TranslateY': 1}
    # Sums over all steps, plain and weighted with the step's number.
    assert sum(probability for _, probability, _ in steps) == pytest.approx(29.8)
    assert sum(level for _, _, level in steps) == 240
    assert sum(number * probability for number, (_, probability, _) in enumerate(steps)) == pytest.approx(743.8)
    assert sum(number * level for number, (_, _, level) in enumerate(steps)) == 6019


def test_autoaugment_draws_a_sub_policy_and_its_steps_with_their_probabilities(calls):
    rng = np.random.default_rng(0)
    count, drawn, image = 20000, collections.Counter(), noise(2, 2)
    for _ in range(count):
        calls.clear()
        apply_policy(image, Policy('autoaugment'), rng)
        assert all(reach == (100, 250) for _, _, reach in calls)
        drawn[tuple((name, level) for name, level, _ in calls)] += 1
    expected = collections.Counter()
    for (first, p, level), (second, q, other) in AUTOAUGMENT:
        for steps, chance in [((), (1 - p) * (1 - q)), (((first, level),), p * (1 - q)),
                              (((second, other),), (1 - p) * q), (((first, level), (second, other)), p * q)]:
            if chance:
                expected[steps] += chance / 25
    assert set(drawn) <= set(expected)
    for steps, chance in expected.items():
        assert abs(drawn[steps] - count * chance) < 4.5 * math.sqrt(count * chance * (1 - chance)), steps


@pytest.mark.parametrize('num_layers, magnitude', [(1, 10), (2, 0), (3, 28)])
def test_randaugment_applies_as_many_operations_as_it_has_layers(calls, num_layers, magnitude):
    count, rng = 3200, np.random.default_rng(0)
    for _ in range(count):
        apply_policy(noise(2, 2), Policy('randaugment', num_layers, magnitude), rng)
    assert len(calls) == num_layers * count
    drawn = collections.Counter(calls)
    assert set(drawn) == {(name, magnitude, (40, 100)) for name in OPERATIONS} and len(drawn) == 16
    expected = num_layers * count / 16
    assert all(abs(number - expected) < 4.5 * math.sqrt(expected) for number in drawn.values())


def test_layers_of_randaugment_are_drawn_apart(calls):
    rng = np.random.default_rng(0)
    for _ in range(3000):
        apply_policy(noise(2, 2), Policy('randaugment'), rng)
    names = [name for name, _, _ in calls]
    assert len(set(zip(names[::2], names[1::2]))) == 256


def test_default_policy_is_that_of_the_release():
    assert Policy('randaugment') == ('randaugment', 2, 10)


def test_operations_work_on_the_result_of_the_one_before(monkeypatch):
    monkeypatch.setattr(policies, 'AUTOAUGMENT', ((('Invert', 1.0, 0), ('Solarize', 1.0, 5)),))
    result = apply_policy(np.full((2, 2, 3), 55, np.uint8), Policy('autoaugment'), np.random.default_rng(0))
    assert (result == 55).all()  # 55 -> 200 -> 55; the other way round 55 -> 55 -> 200
    monkeypatch.setattr(policies, 'RANDAUGMENT', ('Invert',))
    results = [apply_policy(np.full((2, 2, 3), 55, np.uint8), Policy('randaugment', layers), np.random.default_rng(0))
               for layers in (1, 2, 3)]
    assert [np.unique(result).tolist() for result in results] == [[200], [55], [200]]


@pytest.mark.parametrize('name', OPERATIONS)
@pytest.mark.parametrize('level', [0, 5, 10, 30])
def test_every_operation_gives_a_new_image_of_the_same_shape(name, level):
    for image in (noise(32, 32), noise(20, 1), noise(1, 20), noise(1, 1), np.full((7, 5, 3), 3, np.uint8),
                  noise(40, 50)[::-1, 3:30:2], noise(9, 9)[:, ::-1, ::-1]):
        before = image.copy()
        for reach in REACH.values():
            result = operate(image, name, level, reach, np.random.default_rng(0))
            plain = operate(before, name, level, reach, np.random.default_rng(0))
            assert result.shape == image.shape and result.dtype == np.uint8
            assert (result == plain).all() and (image == before).all() and not np.shares_memory(plain, before)


@settings(deadline=None, max_examples=100)
@given(height=st.integers(1, 60), width=st.integers(1, 60), name=st.sampled_from(POLICIES),
       num_layers=st.integers(1, 4), magnitude=st.integers(0, 30), seed=st.integers(0, 2 ** 32))
def test_any_image_gives_a_view_of_its_size_that_the_seed_decides(height, width, name, num_layers, magnitude, seed):
    image, policy = noise(height, width), Policy(name, num_layers, magnitude)
    before = image.copy()
    one, same = (apply_policy(image, policy, np.random.default_rng(seed)) for _ in range(2))
    assert one.shape == image.shape and one.dtype == np.uint8
    assert (one == same).all() and (image == before).all()


@pytest.mark.parametrize('name', POLICIES)
def test_views_differ(name):
    rng = np.random.default_rng(0)
    assert len({apply_policy(IMAGES['noise'], Policy(name), rng).tobytes() for _ in range(50)}) > 20


@pytest.mark.parametrize('policy, message', [
    (Policy('randaugmentt'), r"--augment-name 'randaugmentt': choose from \['autoaugment', 'randaugment'\]"),
    (Policy(None), "--augment-name None: choose from"),
    (Policy('randaugment', num_layers=0), "--randaug-num-layers 0: must be at least 1"),
    (Policy('randaugment', magnitude=31), "--randaug-magnitude 31: must be 0 to 30"),
    (Policy('randaugment', magnitude=-1), "--randaug-magnitude -1: must be 0 to 30"),
    (Policy('autoaugment', magnitude=math.nan), "--randaug-magnitude nan: must be 0 to 30")])
def test_a_policy_out_of_range_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        apply_policy(noise(2, 2), policy, np.random.default_rng(0))


@pytest.mark.parametrize('flags, expected', [
    ((None, None, None), None), (('autoaugment', None, None), Policy('autoaugment')),
    (('randaugment', None, None), Policy('randaugment', 2, 10)),
    (('randaugment', 3, None), Policy('randaugment', 3, 10)),
    (('randaugment', None, 0), Policy('randaugment', 2, 0))])
def test_flags_that_are_left_out_have_the_releases_defaults(flags, expected):
    assert make_policy(*flags) == expected


@pytest.mark.parametrize('flags', [(None, 2, None), (None, None, 10), ('autoaugment', None, 0),
                                   ('autoaugment', 2, None)])
def test_strengths_of_randaugment_are_refused_without_it(flags):
    with pytest.raises(ValueError, match='--randaug-(num-layers|magnitude): needs --augment-name randaugment'):
        make_policy(*flags)
