"""Pictures made of images: rows of them with captions, as one array and as a PNG."""
import functools
import io
import os
from typing import List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LETTERS = 6, 12  # pixels: around images, and height of the captions' letters
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def image_grid(rows: Sequence[Sequence[np.ndarray]], captions: Optional[Sequence[Sequence[str]]] = None,
               names: Optional[Sequence[str]] = None, least: int = 96) -> np.ndarray:
    """Rows of images on white paper.

    Args:
        rows: of images [h,w,3] in RGB, uint8 or float in 0-255, all of one size; rows may differ in length.
        captions: one for each image, which stands under it; lines are cut with an ellipsis to the image's width.
        names: one for each row, which stands left of it.
        least (int): pixels of the longer side of an image at least; smaller ones are magnified by a whole number, so
            that each of their pixels is a square.
    Returns:
        np.ndarray: uint8 [H,W,3] in RGB.
    Raises:
        ValueError: there is no image, or their sizes differ.
    """
    cells = _cells(rows, least)
    height, width = next(image.shape[:2] for row in cells for image in row)
    lines = [[caption.split('\n') for caption in row] for row in captions or ()]
    line_height = sum(_font().getmetrics()) + 2
    below = [line_height * max(map(len, row), default=0) for row in lines] or [0] * len(cells)
    left = _GAP + int(max((_font().getlength(name) + _GAP for name in names or ()), default=0))
    picture = Image.new('RGB', (left + max(map(len, cells)) * (width + _GAP),
                                _GAP + sum(height + extra + _GAP for extra in below)), _PAPER)
    draw = ImageDraw.Draw(picture)
    top = _GAP
    for number, row in enumerate(cells):
        if names:
            draw.text((_GAP, top + (height - line_height) // 2), names[number], _INK, _font())
        for column, image in enumerate(row):
            at = left + column * (width + _GAP)
            picture.paste(Image.fromarray(image), (at, top))
            for place, line in enumerate(lines[number][column] if lines else ()):
                draw.text((at, top + height + place * line_height), _fitting(line, width), _INK, _font())
        top += height + below[number] + _GAP
    return np.array(picture)


def magnified_difference(image: np.ndarray, changed: np.ndarray) -> Tuple[np.ndarray, float]:
    """What has been added to an image, on grey.

    Args:
        image, changed: [h,w,3], uint8 or float in 0-255.
    Returns:
        (uint8 [h,w,3], float): 128 where nothing was changed, and the factor that takes the largest change to 127; 1 if
        there is none.
    """
    difference = np.asarray(changed, np.float64) - image
    largest = np.abs(difference).max()
    factor = 127 / largest if largest else 1.0
    return (128 + difference * factor).round().astype(np.uint8), float(factor)


def png_bytes(picture: np.ndarray) -> bytes:
    """A PNG file's content, of uint8 [H,W,3] in RGB."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, 'PNG')
    return content.getvalue()


@functools.lru_cache(maxsize=None)
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: letters of Latin, Greek, Cyrillic and more."""
    import matplotlib  # not by those who only name this module
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), _LETTERS)


def _fitting(line: str, width: int) -> str:
    """A line of text, cut with an ellipsis where it is longer than ``width`` pixels."""
    if _font().getlength(line) <= width:
        return line
    kept = len(line)
    while kept and _font().getlength(line[:kept].rstrip() + '…') > width:
        kept -= 1
    return line[:kept].rstrip() + '…'


def _cells(rows: Sequence[Sequence[np.ndarray]], least: int) -> List[List[np.ndarray]]:
    """The images as uint8, magnified."""
    sizes = sorted({np.shape(image) for row in rows for image in row})
    if len(sizes) != 1 or len(sizes[0]) != 3 or sizes[0][2] != 3:
        raise ValueError('a picture is made of RGB images [h,w,3] of one size, not of {}'.format(
            ' and '.join(map(str, sizes)) or 'none'))
    factor = max(1, -(-least // max(sizes[0][:2])))
    return [[np.asarray(image).round().clip(0, 255).astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
             for image in row] for row in rows]
