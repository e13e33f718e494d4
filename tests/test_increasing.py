"""data/increasing.py, RandAugment of rising severity, against Pillow and the figures of timm."""
import collections

import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageEnhance, ImageOps

from data import increasing
from data.increasing import OPERATIONS, grey, rand_augment
from test_policies import IMAGES, from_pillow, pillow

LEVELS = (0.0, 0.1, 0.33, 0.7, 0.8, 0.85, 0.9, 0.9314, 0.95, 1.0)
SHOTS = {**IMAGES, 'photo-like': np.random.default_rng(4).integers(0, 256, (11, 13, 3), dtype=np.uint8)
         .repeat(5, axis=0).repeat(4, axis=1)}


def affine(image, *matrix):
    return image.transform(image.size, Image.AFFINE, matrix, resample=Image.BICUBIC, fillcolor=(0, 0, 0))


def solarize_add(image, addition):
    return image.point([min(255, v + addition) if v < 128 else v for v in range(256)] * 3)


def posterize(image, bits):
    """As ``ImageOps.posterize``, which from Pillow 13 on refuses 0 bits."""
    return image.point([v & ~(2 ** (8 - bits) - 1) for v in range(256)] * 3)


def enhanced(name):
    return lambda image, factor: getattr(ImageEnhance, name)(image).enhance(factor)


# What timm does with each operation's argument, in Pillow's words.
PILLOW = {
    'AutoContrast': ImageOps.autocontrast, 'Equalize': ImageOps.equalize, 'Invert': ImageOps.invert,
    'Rotate': lambda image, degrees: image.rotate(degrees, resample=Image.BICUBIC, fillcolor=(0, 0, 0)),
    'PosterizeIncreasing': posterize, 'SolarizeIncreasing': ImageOps.solarize, 'SolarizeAdd': solarize_add,
    'ColorIncreasing': enhanced('Color'), 'ContrastIncreasing': enhanced('Contrast'),
    'BrightnessIncreasing': enhanced('Brightness'), 'SharpnessIncreasing': enhanced('Sharpness'),
    'ShearX': lambda image, v: affine(image, 1, v, 0, 0, 1, 0),
    'ShearY': lambda image, v: affine(image, 1, 0, 0, v, 1, 0),
    'TranslateXRel': lambda image, share: affine(image, 1, 0, share * image.size[0], 0, 1, 0),
    'TranslateYRel': lambda image, share: affine(image, 1, 0, 0, 0, 1, share * image.size[1])}


@pytest.mark.parametrize('shot', SHOTS)
@pytest.mark.parametrize('name', OPERATIONS)
def test_each_operation_has_the_very_values_of_pillow(name, shot):
    image = SHOTS[shot]
    for level in LEVELS:
        for sign in (-1, 1):
            values = OPERATIONS[name].values(level, sign)
            expected = from_pillow(PILLOW[name](pillow(image), *values))
            assert (OPERATIONS[name].apply(image, *values) == expected).all(), (level, sign)


def test_grey_values_are_pillow_s():
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    assert (grey(image) == np.asarray(pillow(image).convert('L'))).all()


def test_arguments_are_those_of_timm(load_json):
    told = load_json('rat/data_path.json')['randaugment']
    assert list(OPERATIONS) == told['ops']
    for name, by_magnitude in told['args_at_magnitude_positive_sign'].items():
        for magnitude, expected in by_magnitude.items():
            assert list(OPERATIONS[name].values(float(magnitude) / 10, 1)) == expected, (name, magnitude)
    assert (increasing.LAYERS, increasing.PROBABILITY, increasing.MAGNITUDE, increasing.DEVIATION) == (
        told['n_ops'], told['prob'], told['magnitude'], told['mstd'])


def test_of_signed_operations_either_sign_does_the_opposite():
    for name in ('Rotate', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel'):
        (one,), (other,) = (OPERATIONS[name].values(0.9, sign) for sign in (1, -1))
        assert one == -other > 0
    for name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
        values = OPERATIONS[name + 'Increasing'].values
        assert values(0.9, 1) == (pytest.approx(1.81),) and values(0.9, -1) == (pytest.approx(0.19),)
        assert values(1.0, -1) == (pytest.approx(0.1),)


def test_two_operations_of_fifteen_each_applied_or_not(monkeypatch):
    drawn = []

    def watched(name, operation):
        return operation._replace(values=lambda level, sign: drawn[-1].append((name, level, sign)) or (),
                                  apply=lambda image: image)
    monkeypatch.setattr(increasing, 'OPERATIONS', {n: watched(n, o) for n, o in OPERATIONS.items()})
    rng, image, count = np.random.default_rng(0), np.zeros((2, 2, 3), np.uint8), 6000
    for _ in range(count):
        drawn.append([])
        rand_augment(image, rng)
    applied = np.bincount([len(found) for found in drawn], minlength=3)
    assert scipy.stats.chisquare(applied, count * np.array([0.25, 0.5, 0.25])).pvalue > 1e-3
    names = collections.Counter(name for found in drawn for name, _, _ in found)
    assert scipy.stats.chisquare([names[name] for name in OPERATIONS]).pvalue > 1e-3
    pairs = [found for found in drawn if len(found) == 2]
    same = sum(one[0] == other[0] for one, other in pairs)  # with replacement
    assert scipy.stats.binomtest(same, len(pairs), 1 / 15).pvalue > 1e-3
    levels = np.array([level for found in drawn for _, level, _ in found])
    assert levels.max() == 1.0 and scipy.stats.kstest(
        levels[levels < 1], scipy.stats.truncnorm(-np.inf, 2, 0.9, 0.05).cdf).pvalue > 1e-3
    assert scipy.stats.binomtest(int((levels == 1).sum()), len(levels), scipy.stats.norm.sf(2)).pvalue > 1e-3
    signs = [sign for found in drawn for _, _, sign in found]
    assert scipy.stats.binomtest(signs.count(-1), len(signs)).pvalue > 1e-3


def test_the_image_is_left_alone_and_the_generator_decides():
    image = SHOTS['photo-like'].copy()
    image.flags.writeable = False
    views = [[rand_augment(image, np.random.default_rng(seed)) for seed in range(60)] for _ in range(2)]
    assert all((one == other).all() for one, other in zip(*views))
    assert sum((view != image).any() for view in views[0]) > 30
