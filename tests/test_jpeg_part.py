"""native/jpeg_part, and the images of which only a part is decoded, against OpenCV's decoder of whole images."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from data.images import Jpeg, Undecodable, decode_image, open_image
from native import jpeg_part
from third_party.imagenet_utils import View, augment

SAMPLINGS = {'4:2:0': cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, '4:2:2': cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
             '4:4:0': cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440, '4:4:4': cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
             '4:1:1': cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411}
# The first application segment of a camera's file: EXIF, little-endian, one tag: 0x0112, orientation, 6 (turned).
EXIF = b'\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'


def picture(height, width):
    """Smooth shapes with noise: neighbouring blocks of a JPEG of it differ in all their coefficients."""
    y, x = np.mgrid[:height, :width][..., None]
    waves = 127 + 90 * np.sin(y / (5.0, 9.0, 14.0) + x / (11.0, 4.0, 7.0))
    return np.clip(waves + np.random.default_rng(0).normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(image, sampling='4:2:0', *flags):
    found, content = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], *flags])
    assert found
    return content.tobytes()


def boxes(shape, count):
    """Random rectangles (top, bottom, left, right), and those at the corners."""
    rng = np.random.default_rng(0)
    height, width = shape[:2]
    for _ in range(count):
        (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (height, width))
        yield top, bottom, left, right
    for top, bottom in ((0, 1), (0, height), (height - 1, height)):
        for left, right in ((0, 1), (0, width), (width - 1, width)):
            yield top, bottom, left, right


def assert_parts_equal(content, count=60):
    image, whole = open_image(content), decode_image(content)
    assert isinstance(image, Jpeg) and image.shape == whole.shape
    for top, bottom, left, right in boxes(whole.shape, count):
        part = jpeg_part.decode(content, top, left, bottom - top, right - left)
        assert (part == whole[top:bottom, left:right]).all(), (top, bottom, left, right)
        assert (image[top:bottom, left:right] == part).all()
    assert (image[:, :] == whole).all()


@pytest.mark.parametrize('sampling', SAMPLINGS)
@pytest.mark.parametrize('flags', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 3)])
def test_a_part_is_that_of_the_whole_image(sampling, flags):
    assert_parts_equal(encode(picture(75, 93), sampling, *flags))


@pytest.mark.parametrize('height, width', [(1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (31, 15)])
def test_parts_of_small_images(height, width):
    assert_parts_equal(encode(picture(height, width)))


def test_parts_of_a_grey_image_have_three_channels():
    assert_parts_equal(encode(picture(50, 70)[:, :, 0]))


def test_parts_of_a_photograph(fixture_path):
    with open(fixture_path('sample.jpg'), 'rb') as source:
        assert_parts_equal(source.read())


def test_a_view_of_a_jpeg_is_that_of_its_pixels(fixture_path):
    with open(fixture_path('sample.jpg'), 'rb') as source:
        content = source.read()
    for augmentation in ('imagenet', 'imagenet-light', 'efficientnet', 'cifar', 'none'):
        for seed in range(10):
            views = [augment(image, View(96, augmentation), np.random.default_rng(seed))
                     for image in (open_image(content), decode_image(content))]
            assert (views[0] == views[1]).all()


def test_images_that_are_no_plain_jpeg_are_decoded_as_a_whole():
    image = picture(20, 30)
    turned = encode(image)[:2] + EXIF + encode(image)[2:]
    assert decode_image(turned).shape == (30, 20, 3)  # OpenCV turns it
    png = cv2.imencode('.png', image)[1].tobytes()
    for content in (turned, png):
        assert (open_image(content) == decode_image(content)).all()


def cmyk(width):
    """A JPEG of four channels whose blocks are all mid-grey: one symbol for each."""
    frame = b'\xff\xc0\x00\x14\x08\x00\x08' + width.to_bytes(2, 'big') + b'\x04' + b''.join(
        bytes([number, 0x11, 0]) for number in range(1, 5))
    tables = b'\xff\xdb\x00\x43\x00' + b'\x01' * 64 + b''.join(
        b'\xff\xc4\x00\x14' + bytes([kind]) + b'\x01' + b'\x00' * 15 + b'\x00' for kind in (0x00, 0x10))
    scan = b'\xff\xda\x00\x0e\x04' + b''.join(bytes([number, 0]) for number in range(1, 5)) + b'\x00\x3f\x00'
    return b'\xff\xd8' + tables + frame + scan + b'\x00' * width + b'\xff\xd9'


def test_a_jpeg_of_four_channels_is_decoded_as_a_whole():
    content = cmyk(8)
    assert decode_image(content).shape == (8, 8, 3) and (open_image(content) == decode_image(content)).all()


@pytest.mark.parametrize('flags', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 3)])
def test_a_file_that_was_cut_off_is_refused_wherever(flags):
    content = encode(picture(60, 50), '4:2:0', *flags)
    for end in range(4, len(content)):
        for decode in (open_image, decode_image):
            with pytest.raises(Undecodable, match='truncated'):
                decode(content[:end])
    for more in (b'', b'\0' * 10, b'\xff\xd8\xff\xe0 another'):
        assert (decode_image(content + more) == decode_image(content)).all()


def test_the_end_of_a_thumbnail_is_not_that_of_the_image():
    content, small = encode(picture(60, 50)), encode(picture(8, 8))
    exif = b'\xff\xe1' + (len(small) + 2).to_bytes(2, 'big') + small
    whole = content[:2] + exif + content[2:]
    assert (decode_image(whole) == decode_image(content)).all()
    with pytest.raises(Undecodable, match='truncated'):
        decode_image(whole[:-10])


@pytest.mark.parametrize('flags', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)])
def test_all_lengths_of_entropy_coded_data_end_where_they_do(flags):
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 60, (100, 2)):
        content = encode(rng.integers(0, 256, (height, width, 3), np.uint8), '4:2:0', *flags)
        assert jpeg_part.has_end(content) and not jpeg_part.has_end(content[:-2])


def test_content_that_opencv_cannot_decode_is_refused():
    for content in (b'', b'no image', encode(picture(20, 20))[:30]):
        with pytest.raises(Undecodable):
            open_image(content)


def test_a_header_of_too_many_pixels_is_refused():
    content = encode(picture(20, 30))
    huge = content.replace(b'\x08\x00\x14\x00\x1e\x03', b'\x08\xff\x00\xff\x00\x03')
    assert huge != content and jpeg_part.size(huge) is None
    with pytest.raises(Undecodable):
        open_image(huge)


@pytest.mark.parametrize('box', [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 21, 5), (0, 0, 5, 31), (20, 0, 1, 1),
                                 (0, 30, 1, 1),
                                 (0, 0, 0, 5), (0, 0, 5, 0), (2 ** 31 - 1, 0, 2, 2)])
def test_a_part_outside_the_image_is_refused(box):
    content = encode(picture(20, 30))
    assert jpeg_part.size(content) == (20, 30) and jpeg_part.decode(content, 15, 20, 5, 10) is not None
    library, out = jpeg_part.load_library(), np.full(2000, 7, np.uint8)
    assert library.jpeg_part_decode(content, len(content), *box, out.ctypes.data) == 0 and (out == 7).all()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_content_gives_a_part_or_none_and_the_same_each_time(data):
    content = bytearray(encode(picture(40, 56), data.draw(st.sampled_from(sorted(SAMPLINGS)))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[:data.draw(st.integers(2, len(content)))])
    size = jpeg_part.size(content)
    if size and size[0] * size[1] < 10 ** 6:
        top, left = (data.draw(st.integers(0, side - 1)) for side in size)
        height, width = size[0] - top, size[1] - left
        one, same = (jpeg_part.decode(content, top, left, height, width) for _ in range(2))
        assert (one is None) == (same is None)
        assert one is None or (one == same).all() and one.shape == (height, width, 3)


def test_a_library_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(jpeg_part, 'LIBRARY', str(tmp_path / 'missing.so'))
    with pytest.raises(ValueError, match='missing.so cannot be loaded; run `make setup`'):
        jpeg_part.load_library.__wrapped__()
