"""native/resampling against Pillow, whose values it has."""
import concurrent.futures

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from native import resampling
from native.resampling import resize, warp


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks(height, width, seed=0):
    """An image of hard edges between black and white, at which the cubics overshoot."""
    small = np.random.default_rng(seed).integers(0, 2, (-(-height // 5), -(-width // 5), 3), dtype=np.uint8) * 255
    return small.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]


def pillow_resize(image, height, width, kernel=Image.BICUBIC):
    """The width first: in one call Pillow 13 sometimes begins with the height."""
    return np.asarray(Image.fromarray(image).resize((width, image.shape[0]), kernel).resize((width, height), kernel))


def pillow_warp(image, matrix):
    black = dict(resample=Image.BICUBIC, fillcolor=(0, 0, 0))
    return np.asarray(Image.fromarray(image).transform(image.shape[1::-1], Image.AFFINE, np.ravel(matrix), **black))


@pytest.mark.parametrize('make', [noise, blocks])
@pytest.mark.parametrize('old, new', [((333, 500), (256, 384)), ((180, 200), (256, 284)), ((97, 61), (224, 224)),
                                      ((500, 375), (32, 32)), ((64, 64), (64, 64)), ((64, 90), (64, 31)),
                                      ((5, 7), (9, 5))])
def test_resizing_is_pillow_s(make, old, new):
    image = make(*old)
    assert (resize(image, *new) == pillow_resize(image, *new)).all()
    assert (resize(image, *new, kernel='bilinear') == pillow_resize(image, *new, Image.BILINEAR)).all()


@settings(deadline=None, max_examples=150)
@given(st.tuples(*4 * [st.integers(1, 70)]), st.data())
def test_resizing_is_pillow_s_for_any_sizes_and_any_window(sizes, data):
    height, width, new_height, new_width = sizes
    image = blocks(height, width, seed=height)
    expected = pillow_resize(image, new_height, new_width)
    assert (resize(image, new_height, new_width) == expected).all()
    (top, bottom), (left, right) = (sorted(data.draw(st.lists(
        st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in (new_height, new_width))
    window = top, left, bottom - top, right - left
    assert (resize(image, new_height, new_width, window) == expected[top:bottom, left:right]).all()


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    assert np.ptp(resize(stripes, 16, 16)[2:-2].astype(int)) <= 4


@settings(deadline=None, max_examples=150)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4),
       st.lists(st.floats(-30, 30), min_size=2, max_size=2))
def test_warping_is_pillow_s(size, turn, shift):
    image, matrix = blocks(*size, seed=size[0]), [turn[:2] + shift[:1], turn[2:] + shift[1:]]
    assert (warp(image, matrix) == pillow_warp(image, matrix)).all()


@pytest.mark.parametrize('matrix', [
    [[1, 0, 0], [0, 1, 0]], [[1, 0, 20.5], [0, 1, 0]], [[1, 0, 0], [0, 1, -7.25]], [[1, 0.27, 0], [0, 1, 0]],
    [[1, 0, 0], [-0.3, 1, 0]], [[0, 1, 0], [-1, 0, 40]], [[-1, 0, 60], [0, -1, 40]]])
@pytest.mark.parametrize('make', [noise, blocks])
def test_shifts_shears_and_quarter_turns_are_pillow_s(make, matrix):
    image = make(40, 60)
    assert (warp(image, matrix) == pillow_warp(image, matrix)).all()


def test_warping_by_nothing_changes_nothing_and_what_is_uncovered_is_black():
    image = noise(9, 12) | 1
    assert (warp(image, [[1, 0, 0], [0, 1, 0]]) == image).all()
    shifted = warp(image, [[1, 0, 3], [0, 1, -2]])
    assert (shifted[2:, :-3] == image[:-2, 3:]).all() and not shifted[:2].any() and not shifted[:, -3:].any()


def test_parts_of_images_are_taken_as_they_are_and_never_written_to():
    whole = noise(40, 50)
    for part in whole[3:30:2, 5:40], whole[:, ::-1], whole[:, :, ::-1]:
        before, plain = part.copy(), np.ascontiguousarray(part)
        assert (resize(part, 20, 30) == resize(plain, 20, 30)).all()
        assert (warp(part, [[1, 0.1, 0], [0, 1, 0]]) == warp(plain, [[1, 0.1, 0], [0, 1, 0]])).all()
        assert (part == before).all()


def test_threads_do_not_disturb_each_other():
    images = [blocks(50 + k, 70 - k, seed=k) for k in range(8)]
    alone = [resize(image, 33, 44) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all((one == other).all() for one, other in zip(pool.map(lambda i: resize(i, 33, 44), images), alone))


def test_a_library_that_has_not_been_built_is_named(monkeypatch):
    monkeypatch.setattr(resampling, 'LIBRARY', '/nowhere/libresampling.so')
    with pytest.raises(ValueError, match='resampling: /nowhere/libresampling.so cannot be loaded; run `make setup`'):
        resampling.load_library.__wrapped__()
