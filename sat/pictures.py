"""Pictures of images, for files and notebooks."""
from typing import NamedTuple

from files.atomic import write_bytes
from files.pictures import image_grid, png_bytes


class Picture(NamedTuple):
    """png (bytes): a PNG file's content, which notebooks show."""
    png: bytes

    def save(self, path):
        """Write it to a file."""
        write_bytes(path, self.png)

    def _repr_png_(self):
        return self.png


def picture(rows, captions=None, names=None):
    """The ``Picture`` of rows of images; see ``files.pictures.image_grid``."""
    return Picture(png_bytes(image_grid(rows, captions, names)))
