"""Pictures of images: their pixels, their captions, and the file's bytes."""
import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from files.pictures import image_grid, magnified_difference, png_bytes

GAP = 6
RNG = np.random.default_rng(0)


def some_images(count, side=24):
    return RNG.integers(0, 256, (count, side, side, 3), np.uint8)


def test_images_stand_in_their_rows_pixel_by_pixel():
    images = some_images(5)
    picture = image_grid([images[:3], images[3:]], least=24)
    assert picture.dtype == np.uint8 and picture.shape == (2 * (24 + GAP) + GAP, 3 * (24 + GAP) + GAP, 3)
    for k, image in enumerate(images):
        top, left = (GAP + (k // 3) * (24 + GAP), GAP + (k % 3) * (24 + GAP))
        assert (picture[top:top + 24, left:left + 24] == image).all()
        picture[top:top + 24, left:left + 24] = 255
    assert (picture == 255).all()  # nothing else, nor where the second row has no third image


def test_small_images_are_magnified_to_squares_of_whole_pixels():
    digit = np.repeat(load_digits().images[0][..., None], 3, 2) * 15.9  # 8 x 8, fractions
    picture = image_grid([[digit]], least=60)  # by 8, the least that makes 60
    expected = cv2.resize(digit.round().astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST)
    assert (picture[GAP:-GAP, GAP:-GAP] == expected).all()
    assert image_grid([some_images(1, 100)]).shape[0] == 100 + 2 * GAP  # large ones are not


def test_values_outside_the_pixel_range_are_its_ends():
    image = np.zeros([4, 4, 3]) + [-3.0, 270.0, 254.6]
    assert (image_grid([[image]], least=4)[GAP:-GAP, GAP:-GAP] == [0, 255, 255]).all()


def written_under(caption, side=96):
    """The pixels below an image with ``caption``."""
    return image_grid([[np.zeros([side, side, 3])]], [[caption]])[GAP + side:]


def test_captions_are_letters_umlauts_too():
    as_written = written_under('Bär')
    assert (as_written < 128).any()
    for other in ('Bar', 'B?r', 'B??r', 'B\N{REPLACEMENT CHARACTER}r', 'Bär\n'):
        assert as_written.shape != written_under(other).shape or (as_written != written_under(other)).any(), other
    assert (written_under('').min(), written_under(' ').min()) == (255, 255)


def test_a_caption_of_two_lines_is_twice_as_high():
    one, two = (written_under(text) for text in ('Kater', 'Kater\n97.3%'))
    assert len(two) - GAP == 2 * (len(one) - GAP)
    assert (two[:len(one) - GAP] == one[:-GAP]).all()


def test_a_long_caption_stays_under_its_image():
    images = some_images(2, 96)
    picture = image_grid([images], [['a name that is longer than its image is wide', 'b']])
    alone = image_grid([images], [['', 'b']])
    assert (picture[:, GAP + 96:] == alone[:, GAP + 96:]).all() and (picture != alone).any()


def test_rows_have_names_left_of_them():
    images = some_images(2)
    named = image_grid([images[:1], images[1:]], names=['ohne', 'gestört'], least=24)
    left = named.shape[1] - 24 - GAP
    for number, image in enumerate(images):
        top = GAP + number * (24 + GAP)
        assert (named[top:top + 24, left:-GAP] == image).all()
        assert (named[top:top + 24, :left] < 128).any()


@pytest.mark.parametrize('rows', [[], [[]], [[np.zeros([4, 4])]], [[np.zeros([4, 4, 3]), np.zeros([5, 4, 3])]]])
def test_what_is_no_set_of_images_of_one_size_is_refused(rows):
    with pytest.raises(ValueError, match='of one size'):
        image_grid(rows)


def test_a_difference_is_magnified_to_the_whole_range():
    image = some_images(1)[0]
    changed = image.astype(float)
    changed[0, 0] += (4, -4, 2)
    shown, factor = magnified_difference(image, changed)
    assert factor == 127 / 4 and tuple(shown[0, 0]) == (255, 1, 192) and (shown[1:] == 128).all()
    same, factor = magnified_difference(image, image)
    assert factor == 1 and (same == 128).all()


def test_a_png_has_the_pictures_pixels():
    picture = some_images(1, 50)[0]
    content = png_bytes(picture)
    assert content.startswith(b'\x89PNG')
    assert (cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == picture).all()
