"""Where the attacks' random numbers come from."""
import tensorflow.compat.v1 as tf

import draws


class ImageStreams:
    """Random numbers from each image's own seeds, so that they depend neither on its batch nor on its place in it.

    In all methods ``seeds`` is int64 [N, 2] as ``seeds.image_seeds`` gives them, and ``stream`` an int64 scalar:
    other streams of an image have other numbers.
    """

    def uniform(self, seeds, stream, shape):
        """float32 [N, *shape], uniform in [0, 1)."""
        return draws.uniform(draws.fold_in(seeds, tf.cast(stream, tf.int64)), shape)

    def normal(self, seeds, stream, shape):
        """float32 [N, *shape], standard normal."""
        return draws.normal(draws.fold_in(seeds, tf.cast(stream, tf.int64)), shape)

    def rows(self, seeds, stream, count, shared, own):
        """Rows of uniform numbers, drawn at once, to be taken one after another.

        Args:
            count (int): of rows. shared, own (int): numbers of a row; the published code draws the first ``shared`` of
                them once for a whole batch. Here every image has its own of both.
        Returns:
            function (row int scalar, images int [M]) -> float32 [M, shared + own], of these of the N images.
        """
        table = self.uniform(seeds, stream, [count, shared + own])
        return lambda row, images: tf.gather(table[:, row], images)
