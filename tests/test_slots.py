"""data/slots.py: memory that a process shares with its workers."""
import os

from data.slots import Slots


def test_a_slot_is_free_again_when_nobody_refers_to_what_was_lent():
    slots = Slots(100)
    assert [slots.take() for _ in range(3)] == [0, 1, 2]
    first, second = slots.lend(1, 60), slots.lend(0, 100)
    part = first[10:20]
    assert slots.take() == 3
    del first, second
    assert slots.take() == 0 and slots.take() == 4 and slots.count == 5
    del part
    assert slots.take() == 1 and slots.count == 5
    slots.close()


def test_what_a_worker_writes_is_there_in_each_of_many_slots():
    slots = Slots(5000)
    before, _ = [slots.take() for _ in range(2)], slots.buffer(0)
    done, go = os.pipe(), os.pipe()
    worker = os.fork()
    if not worker:
        os.read(go[0], 1)
        for number in range(200):
            slots.buffer(number)[:] = bytes([number]) * 5000
        os.write(done[1], b'x')
        os._exit(0)
    after = [slots.take() for _ in range(198)]  # slots that the worker has not seen when it was forked
    os.write(go[1], b'x')
    assert os.read(done[0], 1) == b'x' and os.waitpid(worker, 0)[1] == 0
    for number in before + after:
        assert len(slots.buffer(number)) == 5000 and set(slots.lend(number, 5000)) == {number}
    open_files = len(os.listdir('/proc/self/fd'))
    lent = slots.lend(7, 4)
    slots.close()
    assert len(os.listdir('/proc/self/fd')) < open_files and open_files < 100 and lent == bytes([7]) * 4
    for end in done + go:
        os.close(end)
