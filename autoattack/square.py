"""Square: random search with square-shaped changes, by the logits alone (Andriushchenko et al. 2020, key SQ)."""
import math

import numpy as np
import tensorflow.compat.v1 as tf

from autoattack.attacker import Attacker, choose, put
from autoattack.geometry import project_l1
from autoattack.losses import margin

FIRST_SHARE = 0.8  # AA Sec 5: of an image's pixels in a window
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries; SQ Sec 3.3
TILES = 5  # of the start in L2 and L1, along a side
_QUERIES, _START = 0, 1


class SquareAttacker(Attacker):
    """Square. Each query changes a window of an image at random, and is kept if it lowers the margin.

    Every image has windows of its own; the published code draws one for the whole batch.

    Args: see ``Attacker``, and
        num_queries (int): of an image, after the start.
    Raises:
        ValueError: as ``Attacker``; ``attack`` also for images too small for the tiles of the start in L2 and L1.
    """
    name = 'square'

    def __init__(self, norm, epsilon, num_classes, num_queries=5000, seed=0, streams=None):
        super().__init__(norm, epsilon, num_classes, seed, streams)
        self._check_counts(num_queries=num_queries)
        self.num_queries = num_queries

    def _options(self):
        return {'num_queries': self.num_queries}

    def _search(self, victims, flat, standing):
        grid = Grid(victims.shape)
        changes = (Stripes if self.norm == 'Linf' else Bumps)(self.norm, self.radius, grid, self.num_queries)
        draw = self.streams.rows(victims.seeds, self._stream(_QUERIES), self.num_queries, *changes.query_numbers)
        draw_start = self.streams.rows(victims.seeds, self._stream(_START), changes.start_rows, *changes.start_numbers)

        def one_query(number, adv, rows, candidate, best, least):
            image, label = tf.gather(victims.image, rows), tf.gather(victims.label, rows)
            reached = margin(victims.get_logits(grid.flat(candidate)), label)
            # Values that are not finite are a wrong label too.
            reached = tf.where_v2(tf.math.is_finite(reached), reached, -np.inf)
            better = (reached < least) | (reached <= 0)
            best = choose(better, grid.flat(candidate), best)
            least = tf.where_v2(better, reached, least)
            broken = least <= 0
            adv = put(adv, rows, best, broken)
            rows, image, best, least = (tf.boolean_mask(v, ~broken) for v in (rows, image, best, least))
            # No query follows the last one.
            query = tf.minimum(number, self.num_queries - 1)
            candidate = changes.propose(grid.image(image), grid.image(best), query, draw(query, rows))
            return number + 1, adv, rows, candidate, best, least

        image = tf.gather(victims.image, standing)
        start = changes.start(grid.image(image), tf.stack(
            [draw_start(row, standing) for row in range(changes.start_rows)], axis=1))
        begin = [tf.constant(0), flat, standing, start, image, tf.fill(tf.shape(standing), np.inf)]
        _, adv, *_ = tf.while_loop(lambda number, _, rows, *__: (number <= self.num_queries) & (tf.size(rows) > 0),
                                   one_query, begin, back_prop=False, parallel_iterations=1, name='queries')
        return adv


class Grid:
    """Where an image's rows, columns and channels are; ``shape``: (H, W, 3) or (3, H, W)."""

    def __init__(self, shape):
        self.shape = list(shape)
        self._channel_axis = 3 if shape[2] <= shape[0] else 1
        sizes = self.shape[:]
        self.channels = sizes.pop(self._channel_axis - 1)
        self.height, self.width = sizes
        self.pixel_axes = [axis for axis in (1, 2, 3) if axis != self._channel_axis]

    def flat(self, image):
        return tf.reshape(image, [-1, int(np.prod(self.shape))])

    def image(self, flat):
        return tf.reshape(flat, [-1] + self.shape)

    def of_pixels(self, values):
        """[N,H,W] (H or W may be 1) as values of all channels of images."""
        return tf.expand_dims(values, self._channel_axis)

    def of_channels(self, values):
        """[N,C] as values of all pixels of images."""
        for axis in self.pixel_axes:
            values = tf.expand_dims(values, axis)
        return values

    def of_pixels_and_channels(self, values):
        """[N,H,W,C] (H or W may be 1) in the images' layout."""
        return values if self._channel_axis == 3 else tf.transpose(values, [0, 3, 1, 2])

    def windows(self, numbers, side):
        """Squares [N,H,W], bool, of ``side`` (int scalar), and their first rows and columns [N]; places are drawn with
        uniform ``numbers`` [N, 2]."""
        top, left = (tf.cast(numbers[:, axis] * tf.cast(size - side, tf.float32), tf.int64)
                     for axis, size in ((0, self.height), (1, self.width)))
        rows, columns = self.offsets(top, left)
        side = tf.cast(side, tf.int64)
        return (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side), top, left

    def offsets(self, top, left):
        """Rows [N,H,1] and columns [N,1,W] of pixels, counted from ``top`` and ``left`` [N]; all int64, as GPUs compute
        int32 on the host."""
        rows, columns = tf.range(self.height, dtype=tf.int64), tf.range(self.width, dtype=tf.int64)
        return (rows[tf.newaxis, :, tf.newaxis] - top[:, tf.newaxis, tf.newaxis],
                columns[tf.newaxis, tf.newaxis] - left[:, tf.newaxis, tf.newaxis])


class Stripes:
    """Changes in L-infinity (SQ Sec 3.4): from vertical stripes of +- epsilon, windows of one sign in each channel.

    ``start`` takes uniform numbers [N, start_rows, sum(start_numbers)], ``propose`` for its query
    [N, sum(query_numbers)]; the pairs are ``shared`` and ``own`` of ``ImageStreams.rows``.
    """
    start_rows = 1

    def __init__(self, _, radius, grid, num_queries):
        self._radius, self._grid = radius, grid
        sides = [min(max(round(math.sqrt(window_share(query) * grid.height * grid.width)), 1), grid.height, grid.width)
                 for query in range(num_queries)]
        self._sides = tf.constant(sides, tf.int32)
        self.start_numbers = 0, grid.channels * grid.width
        # All of a query's numbers are the batch's in the published code.
        self.query_numbers = 2 + grid.channels, 0

    def start(self, image, numbers):
        numbers = tf.reshape(numbers, [-1, self._grid.channels, 1, self._grid.width])
        signs = self._grid.of_pixels_and_channels(tf.transpose(_sign(numbers), [0, 2, 3, 1]))
        return tf.clip_by_value(image + self._radius * signs, 0.0, 1.0)

    def propose(self, image, best, query, numbers):
        window, _, _ = self._grid.windows(numbers, self._sides[query])
        change = 2 * self._radius * self._grid.of_channels(_sign(numbers[:, 2:]))
        point = best + tf.where_v2(self._grid.of_pixels(window), change, 0.0)
        point = tf.minimum(tf.maximum(point, image - self._radius), image + self._radius)
        return tf.clip_by_value(point, 0.0, 1.0)


class Bumps:
    """Changes in L2 and L1 (SQ Sec 3.5; MB Sec 5): a pair of bumps of opposite signs replaces a window, with the length
    that a second window gives up. As ``Stripes``."""
    query_numbers = 5, 3
    start_numbers = 1, 3

    def __init__(self, norm, radius, grid, num_queries):
        tile = grid.height // TILES
        if min(tile, grid.width // TILES) < 2:
            raise ValueError('square: images of {} x {} are too small for {}'.format(grid.height, grid.width, norm))
        self._norm, self._radius, self._grid = norm, radius, grid
        self._power = 2 if norm == 'L2' else 1
        sides, patterns, kinds = [], [], []
        for query in range(num_queries):
            side = max(round(math.sqrt(window_share(query) * grid.height * grid.width)), 3)
            side = min(side + (side % 2 == 0), grid.height, grid.width)
            if side not in sides:
                sides.append(side)
                patterns.append(bumps(side, norm))
            kinds.append(sides.index(side))
        room = max(sides)
        self._sides, self._kinds = tf.constant(sides, tf.int32), tf.constant(kinds, tf.int32)
        self._patterns = tf.constant(np.stack([np.pad(p, (0, room - len(p))) for p in patterns]))
        self._tile, self._first = tile, (grid.height - TILES * tile) // 2
        self.start_rows = (grid.height // tile) * (grid.width // tile)

    def start(self, image, numbers):
        """Bumps in all tiles of a grid."""
        grid, tile = self._grid, self._tile
        row, column = (np.arange(size) - self._first for size in (grid.height, grid.width))
        down, across = grid.height // tile, grid.width // tile
        inside = ((row >= 0) & (row < down * tile))[:, None] & ((column >= 0) & (column < across * tile))[None]
        number = np.where(inside, (row // tile)[:, None] * across + (column // tile)[None], 0)
        pattern = np.where(inside, bumps(tile, self._norm)[(row % tile)[:, None], (column % tile)[None]], 0)
        turned = np.where(inside, bumps(tile, self._norm)[(column % tile)[None], (row % tile)[:, None]], 0)
        shape = tf.where_v2(tf.gather(numbers[:, :, 0], number, axis=1) > 0.5, turned.astype(np.float32),
                            pattern.astype(np.float32))
        signs = tf.gather(_sign(numbers[:, :, 1:]), number, axis=1)
        return self._within(image, grid.of_pixels_and_channels(shape[..., tf.newaxis] * signs))

    def propose(self, image, best, query, numbers):
        grid = self._grid
        kind = self._kinds[query]
        side = self._sides[kind]
        first, top, left = grid.windows(numbers[:, 0:2], side)
        second, _, _ = grid.windows(numbers[:, 2:4], side)
        either, first, second = grid.of_pixels(first | second), grid.of_pixels(first), grid.of_pixels(second)
        change = best - image

        def inside(window, values):
            return tf.where_v2(window, values, 0.0)

        old = inside(first, change)
        rows, columns = grid.offsets(top, left)
        turned = (numbers[:, 4] > 0.5)[:, tf.newaxis, tf.newaxis]
        rows, columns = tf.where_v2(turned, columns, rows), tf.where_v2(turned, rows, columns)
        last = self._patterns.shape[1] - 1
        new = tf.gather_nd(self._patterns[kind], tf.clip_by_value(tf.stack([rows, columns], axis=-1), 0, last))
        new = inside(first, grid.of_pixels(new) * grid.of_channels(_sign(numbers[:, 5:])))
        new += old / (self._channel_length(old) + 1e-12)
        # What is left of the ball, in equal shares, and what both windows hold.
        free = tf.maximum(self._radius ** self._power - self._total(change), 0.0) / grid.channels
        room = free + self._channel_length(inside(either, change)) ** self._power
        room = tf.sqrt(room) if self._norm == 'L2' else grid.channels * room
        new *= room / (self._channel_length(new) + 1e-12)
        return self._within(image, tf.where_v2(first, new, inside(~second, change)))

    def _within(self, image, change):
        """Points of the ball around ``image`` in the direction of ``change``, cut to valid pixels."""
        if self._norm == 'L1':
            point = project_l1(self._grid.flat(image), self._grid.flat(change), self._radius * (1 - 1e-6))
            return self._grid.image(point)
        size = tf.sqrt(self._total(change)) + 1e-12
        return tf.clip_by_value(image + change / size * self._radius, 0.0, 1.0)

    def _total(self, change):
        """The sum of absolute values or of squares over an image, [N,1,1,1]."""
        return tf.reduce_sum(tf.abs(change) ** self._power, axis=[1, 2, 3], keepdims=True)

    def _channel_length(self, change):
        """Of each channel of an image."""
        total = tf.reduce_sum(tf.abs(change) ** self._power, axis=self._grid.pixel_axes, keepdims=True)
        return tf.sqrt(total) if self._norm == 'L2' else total


def window_share(query):
    """Share of an image's pixels in the window of query ``query``, from 0."""
    return FIRST_SHARE / 2 ** sum(query > limit for limit in HALVED_AFTER)


def bumps(side, norm):
    """A bump over one with the opposite sign, float32 [side, side], of length 1 in ``norm``."""
    def bump(height, width):
        values = np.zeros([height, width])
        for ring in range(max(height, width) // 2 + 1):
            top, left = height // 2 - ring, width // 2 - ring
            values[max(top, 0):max(top + 2 * ring + 1, 0), max(left, 0):max(left + 2 * ring + 1, 0)] += (
                1 / (ring + 1) ** (2 if norm == 'L2' else 4))
        return values / scale(values)

    def scale(values):
        return np.sqrt((values ** 2).sum()) if norm == 'L2' else np.abs(values).sum()

    pair = np.concatenate([bump(side // 2, side), -bump(side - side // 2, side)])
    return (pair / scale(pair)).astype(np.float32)


def _sign(numbers):
    return tf.sign(2 * numbers - 1)
