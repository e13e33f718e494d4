"""Transparent images are laid on white, as Pillow does it; all others are what OpenCV decodes."""
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from data.images import decode_image

RNG = np.random.default_rng(0)
COLOUR, GREY = RNG.integers(0, 256, (20, 30, 3), np.uint8), RNG.integers(0, 256, (20, 30), np.uint8)
RGBA, GREY_ALPHA = RNG.integers(0, 256, (20, 30, 4), np.uint8), RNG.integers(0, 256, (20, 30, 2), np.uint8)


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def by_opencv(extension, image):
    return cv2.imencode(extension, image)[1].tobytes()


PALETTE = Image.fromarray(COLOUR).quantize(16)
TRANSPARENT = {
    'colour': encoded(Image.fromarray(RGBA), 'PNG'), 'grey': encoded(Image.fromarray(GREY_ALPHA, 'LA'), 'PNG'),
    'palette': encoded(PALETTE, 'PNG', transparency=3),
    'colour key': encoded(Image.fromarray(COLOUR), 'PNG', transparency=tuple(COLOUR[3, 4].tolist())),
    'grey key': encoded(Image.fromarray(GREY), 'PNG', transparency=int(GREY[3, 4])),
    'grey key 0 of two levels': encoded(Image.fromarray(GREY > 99), 'PNG', transparency=0),
    '16 bits': by_opencv('.png', RNG.integers(0, 65536, (20, 30, 4), np.uint16)),
    'WebP': encoded(Image.fromarray(RGBA), 'WEBP'),
    'lossless WebP': encoded(Image.fromarray(RGBA), 'WEBP', lossless=True),
    'TIFF': encoded(Image.fromarray(RGBA), 'TIFF')}
OPAQUE = {
    'colour': by_opencv('.png', COLOUR), 'grey': by_opencv('.png', GREY), 'palette': encoded(PALETTE, 'PNG'),
    'alpha of 255': by_opencv('.png', np.dstack([COLOUR, np.full_like(GREY, 255)])),
    '16 bits': by_opencv('.png', RNG.integers(0, 65536, (20, 30, 3), np.uint16)),
    'alpha of 65535': by_opencv('.png', np.dstack([RNG.integers(0, 65536, (20, 30, 3), np.uint16),
                                                   np.full([20, 30], 65535, np.uint16)])),
    'WebP': by_opencv('.webp', COLOUR), 'TIFF': by_opencv('.tiff', COLOUR), 'BMP': by_opencv('.bmp', COLOUR),
    'BMP of four channels': encoded(Image.fromarray(RGBA), 'BMP'),
    'TIFF of CMYK': encoded(Image.fromarray(RGBA, 'CMYK'), 'TIFF'), 'JPEG': by_opencv('.jpg', COLOUR)}


def on_white(content):
    image = Image.open(io.BytesIO(content)).convert('RGBA')
    white = Image.new('RGBA', image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert('RGB'))[..., ::-1]


@pytest.mark.parametrize('name', TRANSPARENT)
def test_what_is_transparent_is_laid_on_white(name):
    found, shown = decode_image(TRANSPARENT[name]), on_white(TRANSPARENT[name])
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - shown).max() <= 1
    assert (found != cv2.imdecode(np.frombuffer(TRANSPARENT[name], np.uint8), cv2.IMREAD_COLOR)).any()


@pytest.mark.parametrize('name', OPAQUE)
def test_all_else_is_what_opencv_decodes(name):
    plain = cv2.imdecode(np.frombuffer(OPAQUE[name], np.uint8), cv2.IMREAD_COLOR)
    assert (decode_image(OPAQUE[name]) == plain).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_alpha_channel_is_turned_with_the_image(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    for kind in ('PNG', 'WEBP'):
        content = encoded(Image.fromarray(RGBA), kind, exif=exif, **({'lossless': True} if kind == 'WEBP' else {}))
        turned = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape
        assert decode_image(content).shape == turned
        plain = decode_image(encoded(Image.fromarray(RGBA), 'PNG'))
        assert sorted(decode_image(content).reshape(-1, 3).tolist()) == sorted(plain.reshape(-1, 3).tolist())
