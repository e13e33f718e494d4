"""Reading one image file."""
import cv2
import numpy as np


def read_image(path):
    """Decode an image file.

    Returns:
        uint8 [H,W,3] in BGR, or None if the file is missing or holds no image that OpenCV can decode.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except (OSError, cv2.error):
        return None
