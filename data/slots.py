"""Memory shared by a process and the workers that it forks: slots for finished batches, sent from where they lie."""
import collections
import ctypes
import heapq
import mmap
import os
import weakref
from typing import Any, Deque, Dict, List

_PER_MAP = 64  # slots that are mapped together, as each map holds a file descriptor


class Slots:
    """Slots of ``size`` bytes each, numbered from 0.

    The first process takes slots, its workers fill them, and it lends the filled ones to ZMQ. The lowest free slot is
    taken first, so memory is taken up by as many as were ever in use at the same time. Make it before the workers are
    forked. The memory has no name: nothing of it is left when its processes have ended, however they did.
    """

    def __init__(self, size: int) -> None:
        self._size, self._stride = size, -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._file = os.memfd_create('batches', os.MFD_CLOEXEC)
        self._maps: Dict[int, memoryview] = {}  # of this process, by number // _PER_MAP
        self._free: List[int] = []
        self._returned: Deque[int] = collections.deque()
        self.count = 0  # slots that have been in use

    def close(self) -> None:
        """Give up this process's hold; memory that is still lent stays until it comes back."""
        os.close(self._file)
        self._maps.clear()

    def take(self) -> int:
        """The number of a slot that is not in use."""
        while self._returned:
            heapq.heappush(self._free, self._returned.popleft())
        if self._free:
            return heapq.heappop(self._free)
        if self.count % _PER_MAP == 0:
            os.ftruncate(self._file, (self.count + _PER_MAP) * self._stride)
        self.count += 1
        return self.count - 1

    def buffer(self, number: int) -> memoryview:
        """A slot's memory (memoryview of ``size`` bytes)."""
        group, place = divmod(number, _PER_MAP)
        if group not in self._maps:
            length = _PER_MAP * self._stride
            self._maps[group] = memoryview(mmap.mmap(self._file, length, offset=group * length))
        begin = place * self._stride
        return self._maps[group][begin:begin + self._size]

    def lend(self, number: int, length: int) -> memoryview:
        """The first bytes of a slot (memoryview). Once nobody refers to it, in any thread, the slot is free."""
        owner = (ctypes.c_ubyte * length).from_buffer(self.buffer(number))  # which all views of the memory refer to
        returned: Any = weakref.finalize(owner, self._returned.append, number)
        returned.atexit = False
        return memoryview(owner).cast('B')
