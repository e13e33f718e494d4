"""Batches as functions of their number, and loops that prepare them ahead in threads. Nothing here forks."""
import collections
import concurrent.futures
import functools
import itertools
import logging
import os
import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

import cv2
import numpy as np

from data.images import Undecodable, Unreadable
from data.protocols import DataSet, Stream
from data.stopwatch import stopwatch
from data.views import augment, check_view, decoded, opened, validation_transform
from native import jpeg_part, resampling
from settings.data import View

logger = logging.getLogger(__name__)
Built = TypeVar('Built')

# Second word of a random stream's seed: what the stream is for.
_ORDER, _SAMPLE = 0, 1


def available_cores() -> int:
    """Number of CPU cores this process may run on."""
    return len(os.sched_getaffinity(0))


class TrainingStream:
    """An endless sequence of augmented training batches, each a function of (seed, number) alone.

    The samples are passes over the set, one after the other, pass p in an order drawn from (seed, p); batch b holds the
    samples ``b*batch`` to ``(b+1)*batch - 1``, so a batch may span passes and the set may be smaller than a batch.
    The augmentation of sample i draws from (seed, i). (FD serves shuffled passes without such an order.)

    With ``shard`` (I, N) the set is images I, I + N, I + 2N, ... only, and I joins the seed: N streams of one seed hold
    every image once, and which images meet does not depend on the order of the files.

    An unreadable image is replaced by the next readable one of its pass, with one warning per image.

    Attributes:
        unreadable (dict of str to str): names of the images that could not be had so far, each with what is wrong.
        specs (list of (dtype, shape)): of the arrays of a batch.

    Args:
        view (settings.data.View): see ``augment``.
    Raises:
        ValueError: ``batch``, ``view``, ``seed`` or ``shard`` is out of range, or `make setup` has not been run.
    """

    def __init__(self, dataset: DataSet, batch: int, view: View, seed: int, shard: Tuple[int, int] = (0, 1)) -> None:
        _check_positive('--batch', batch)
        check_view(view)
        if seed < 0:
            raise ValueError("--seed {}: must not be negative".format(seed))
        index, count = shard
        if not 0 <= index < count <= len(dataset.files):
            raise ValueError("--shard {}/{}: needs 0 <= I < N, and N no larger than the {} images of {}".format(
                index, count, len(dataset.files), dataset.name))
        self._dataset, self._batch, self._view = dataset, batch, view
        self._indexes = np.arange(index, len(dataset.files), count)
        self._seed = [seed], [index] if count > 1 else []  # what comes before and after the words of one draw
        self.specs = _specs(batch, view.input_size)
        self._reader = _Reader(dataset)
        for library in jpeg_part, resampling:
            library.load_library()
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    @property
    def unreadable(self) -> Dict[str, str]:
        return {name: str(error) for name, error in self._reader.unreadable.items()}

    def batch(self, number: int) -> Tuple[np.ndarray, ...]:
        """Batch ``number`` (from 0).

        Returns:
            image (uint8 [batch,S,S,3], BGR), label (int32 [batch]).
        Raises:
            ValueError: not one image of the set can be decoded.
        """
        arrays = tuple(np.empty(shape, dtype) for dtype, shape in self.specs)
        self.fill(number, *arrays)
        return arrays

    def fill(self, number: int, image: np.ndarray, label: np.ndarray) -> None:
        """Write batch ``number`` into arrays of the shapes and dtypes in ``specs``. Raises: see ``batch``."""
        with stopwatch.during('batch'):
            for row in range(self._batch):
                image[row], label[row] = self._sample(number * self._batch + row)

    def _sample(self, position: int) -> Tuple[np.ndarray, int]:
        passes, offset = divmod(position, len(self._indexes))
        order = self._order(passes)
        for index in itertools.chain(order[offset:], order[:offset]):
            found = self._reader.read(index, functools.partial(self._see, position))
            if found is not None:
                return found
        raise ValueError("none of the {} images of {} can be decoded; the first: {}".format(
            len(order), self._dataset.name, self._reader.unreadable[self._dataset.files[self._indexes[0]]]))

    def _see(self, position: int, content: bytes) -> np.ndarray:
        rng = self._random(_SAMPLE, position)
        image = opened(content, self._view)
        with stopwatch.during('augment'):
            return augment(image, self._view, rng)

    def _draw_order(self, passes: int) -> np.ndarray:
        return self._random(_ORDER, passes).permutation(self._indexes)

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        before, after = self._seed
        return np.random.default_rng(before + [purpose, number] + after)


class FakeStream:
    """The same batch for ever (``--fake``): pixel noise, labels 0, 1, 2, ... For speed tests and dry runs."""

    unreadable: Dict[str, str] = {}

    def __init__(self, batch: int, input_size: int, num_classes: int) -> None:
        _check_positive('--batch', batch)
        _check_positive('--input-size', input_size)
        _check_positive('--num-classes', num_classes)
        self._image = np.random.default_rng(0).integers(0, 256, (batch, input_size, input_size, 3), dtype=np.uint8)
        self._label = np.arange(batch, dtype=np.int32) % np.int32(num_classes)
        self.specs = _specs(batch, input_size)

    def batch(self, number: int) -> Tuple[np.ndarray, ...]:
        """Returns: image (uint8 [batch,S,S,3]), label (int32 [batch]), the same arrays for every ``number``."""
        return self._image, self._label

    def fill(self, number: int, image: np.ndarray, label: np.ndarray) -> None:
        """Write the batch into arrays of the shapes and dtypes in ``specs``."""
        with stopwatch.during('batch'):
            image[:], label[:] = self._image, self._label


class ValidationBatches:
    """This rank's share of a validation set, or of a list of its images, in order, every batch filled up to one size.

    Batch k holds images ``k*batch`` to ``(k+1)*batch - 1`` of the list and belongs to rank ``k % size``: all ranks
    together hold every image once, and what is batched together does not depend on the number of ranks. (FD gives each
    of R ranks ``N // R`` images and never evaluates the remainder.)

    Iterating yields image (uint8 [batch,S,S,3], BGR), label (int32 [batch]), index (int32 [batch], position in the
    set). Rows without an image, at the end of the list or because one is unreadable, have index -1, label 0, zero
    pixels.

    Args:
        view (settings.data.View): see ``validation_transform``.
        indices (sequence of int): positions in the set of the listed images; None lists the whole set.

    Attributes:
        rounds (int): batches of the rank that has the most, which may be one more than this one has.
        round_size (int): images of all ranks' batches together.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, dataset: DataSet, batch: int, view: View, rank: int = 0, size: int = 1,
                 threads: Optional[int] = None, indices: Optional[Sequence[int]] = None) -> None:
        _check_positive('--batch', batch)
        check_view(view)
        if not 0 <= rank < size:
            raise ValueError("rank {} of {} ranks".format(rank, size))
        self._dataset, self._batch, self._view = dataset, batch, view
        self._indices = range(len(dataset.files)) if indices is None else indices
        num_batches = -(-len(self._indices) // batch)
        self._numbers = range(rank, num_batches, size)
        self.rounds, self.round_size = len(range(0, num_batches, size)), size * batch
        self._threads = available_cores() if threads is None else threads
        self._reader = _Reader(dataset)

    @property
    def unreadable(self) -> List[str]:
        """Names (sorted list of str) of the images that could not be had so far."""
        return sorted(self._reader.unreadable)

    @property
    def reasons(self) -> Dict[str, str]:
        """Why they could not be had, by their names."""
        return {name: error.reason for name, error in self._reader.unreadable.items()}

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Tuple[np.ndarray, ...]]:
        return in_order(self._build, self._numbers, self._threads)

    def _build(self, number: int) -> Tuple[np.ndarray, ...]:
        image, label, index = self._empty(np.uint8)
        decode = functools.partial(decoded, view=self._view)
        for row, position in enumerate(self._positions(number)):
            found = self._reader.read(position, decode)
            if found is not None:
                picture, label[row] = found
                image[row], index[row] = validation_transform(picture, self._view), position
        return image, label, index

    def _positions(self, number: int) -> Sequence[int]:
        """Where in the set the images of a batch are."""
        return self._indices[number * self._batch:(number + 1) * self._batch]

    def _empty(self, dtype: Any) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arrays of a batch whose rows are all without an image."""
        size = self._view.input_size
        return (np.zeros((self._batch, size, size, 3), dtype), np.zeros(self._batch, np.int32),
                np.full(self._batch, -1, np.int32))


def iterate(stream: Stream, start: int = 0, stride: int = 1,
            threads: Optional[int] = None) -> Iterator[Tuple[np.ndarray, ...]]:
    """Yield ``stream.batch(start)``, ``stream.batch(start + stride)``, ... in this order, for ever.

    At most ``threads + 1`` batches are prepared ahead, in threads that end when the generator is closed.

    Args:
        threads (int or None): number of threads; None takes one per available core.
    Raises:
        ValueError: ``threads`` or ``stride`` is not positive.
    """
    _check_positive('stride', stride)
    return in_order(stream.batch, itertools.count(start, stride), available_cores() if threads is None else threads)


def in_order(build: Callable[[int], Built], numbers: Iterable[int], threads: int) -> Iterator[Built]:
    """Yield ``build(number)`` for each of ``numbers``, in this order; ``threads + 1`` at most are prepared ahead.

    Raises:
        ValueError: ``threads`` is not positive.
    """
    _check_positive('threads', threads)
    return _prefetch(build, iter(numbers), threads)


def _prefetch(build: Callable[[int], Built], numbers: Iterator[int], threads: int) -> Iterator[Built]:
    cv2.setNumThreads(0)  # the pool's threads are the parallelism; OpenCV's own would only compete with them
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix='batch')
    waiting = collections.deque(pool.submit(build, number) for number in itertools.islice(numbers, threads + 1))
    try:
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(build, number) for number in itertools.islice(numbers, 1))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Reader:
    """Decodes images by index; remembers those that fail and warns of each once. Safe to share between threads."""

    def __init__(self, dataset: DataSet) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self.unreadable: Dict[str, Unreadable] = {}  # by name

    def read(self, index: int, decode: Callable[[bytes], Any]) -> Optional[Tuple[Any, int]]:
        """``decode``'s result for the content, and the label (int), or None.

        Every image is tried each time: whether a part of a damaged one can be had depends on the part, and must not
        depend on what was asked for before.
        """
        try:
            with stopwatch.during('read'):
                content, label = self._dataset.load(index)
            return decode(content), label
        except Undecodable as error:
            self.leave_out(index, error)
        except Unreadable as error:
            self.leave_out(index, error)
        return None

    def leave_out(self, index: int, error: Optional[Exception] = None) -> None:
        """Remember that the image cannot be had; ``error``: why, Unreadable or Undecodable, if that is known."""
        name = self._dataset.files[index]
        with self._lock:
            if name not in self.unreadable:
                self.unreadable[name] = error if isinstance(error, Unreadable) else Unreadable(name, str(error or ''))
                logger.warning("%s; it is left out", self.unreadable[name])


def _specs(batch: int, input_size: int) -> List[Tuple[Any, Tuple[int, ...]]]:
    """dtype and shape of a batch's images and of its labels."""
    return [(np.uint8, (batch, input_size, input_size, 3)), (np.int32, (batch,))]


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError("{} {}: must be at least 1".format(name, value))
