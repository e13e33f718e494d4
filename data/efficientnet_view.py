"""The EN release's evaluation view of an image, by TensorFlow's own decoder and resizing, in a tf.data pipeline."""
import contextlib
from typing import Any, Callable, Iterator, Tuple

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

from data.augment import VALIDATION_MARGIN
from data.images import JPEG_START, check_whole, decode_image
from data.protocols import DataSet
from data.stream import ValidationBatches
from data.transparency import blend
from data.views import made_by_tensorflow
from ranks.sessions import cpu_session_config
from settings.data import View


def released_view(content: Any, size: int) -> Any:
    """Decode, crop the middle, resize (EN release); what is transparent is laid on white, not dropped as there.

    Args:
        content (tf.Tensor): string scalar, a JPEG or PNG file. size (int): pixels per side of the result.
    Returns:
        tf.Tensor: float32 [size,size,3], RGB, 0-255; bicubic resizing may go beyond both ends.
    """
    def window(shape: Any) -> Any:
        height, width = shape[0], shape[1]
        side = tf.cast(size / (size + VALIDATION_MARGIN) * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
        return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])

    def from_jpeg() -> Any:
        return tf.image.decode_and_crop_jpeg(content, window(tf.image.extract_jpeg_shape(content)), channels=3)

    def from_other() -> Any:
        image = tf.cast(tf.image.decode_png(content, channels=4), tf.int32)
        image = tf.cast(blend(image[..., :3], image[..., 3:]), tf.uint8)
        return tf.slice(image, *_corner_and_size(window(tf.shape(image))))

    image = tf.cond(tf.image.is_jpeg(content), from_jpeg, from_other)
    # TensorFlow 1's bicubic: corners aligned to neither pixel centres nor ends, no smoothing when shrinking.
    image = tf.image.resize_bicubic(image[tf.newaxis], [size, size])[0]
    image.set_shape([size, size, 3])
    return image


def _corner_and_size(window: Any) -> Any:
    return tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0)


def for_tensorflow(content: bytes) -> bytes:
    """``content`` as a JPEG, or as a PNG, the other format that keeps every pixel; raises ``Undecodable``."""
    if content.startswith(JPEG_START):
        check_whole(content)
        return content
    return cv2.imencode('.png', decode_image(content))[1].tobytes()


class ReleasedValidationBatches(ValidationBatches):
    """``ValidationBatches`` of the EN release's view; image is float32 [batch,S,S,3], BGR, 0-255 and a little
    beyond."""

    def __iter__(self) -> Iterator[Tuple[np.ndarray, ...]]:
        with tf.Graph().as_default() as graph:
            element = self._pipeline()
        config = cpu_session_config()
        config.inter_op_parallelism_threads = self._threads + 1
        # Entered itself, it would be the caller's default session, and its graph the default one, between two batches.
        with contextlib.closing(tf.Session(graph=graph, config=config)) as session:
            for number in self._numbers:
                yield self._batch_of(number, lambda: session.run(element))

    def _pipeline(self) -> Any:
        positions = np.concatenate([self._positions(number) for number in self._numbers] or [[]]).astype(np.int64)
        data = tf.data.Dataset.from_tensor_slices(positions)
        data = data.map(lambda position: tf.numpy_function(self._load, [position], [tf.string, tf.int64]),
                        num_parallel_calls=self._threads, deterministic=True)
        data = data.map(lambda content, label: (tf.reverse(released_view(content, self._view.input_size), [2]), label),
                        num_parallel_calls=self._threads, deterministic=True)
        return tf.data.make_one_shot_iterator(data.prefetch(self._batch)).get_next()

    def _load(self, position: int) -> Tuple[bytes, np.int64]:
        found = self._reader.read(int(position), for_tensorflow)
        return (b'', np.int64(0)) if found is None else (found[0], np.int64(found[1]))

    def _batch_of(self, number: int, next_element: Callable[[], Any]) -> Tuple[np.ndarray, ...]:
        image, label, index = self._empty(np.float32)
        for row, position in enumerate(self._positions(number)):
            try:
                image[row], label[row] = next_element()
                index[row] = position
            except tf.errors.InvalidArgumentError:  # and the pipeline goes on with the next image
                self._reader.leave_out(position)
        return image, label, index


def validation_batches(dataset: DataSet, batch: int, view: View, *share: Any) -> ValidationBatches:
    """The batches in which images are evaluated: see ``ValidationBatches``, of whose kind that of ``view`` is."""
    kind = ReleasedValidationBatches if made_by_tensorflow(view) else ValidationBatches
    return kind(dataset, batch, view, *share)
