"""Memory that was freed goes back to the system: in a process of its own, and in a training's first steps."""
import platform
import subprocess
import sys

import pytest

from training import callbacks

HELD = '''
import re, sys
from machine.memory import give_back
def resident():
    return int(re.search(r'VmRSS:\\s*(\\d+)', open('/proc/self/status').read())[1]) // 1024
before = resident()
held = [bytearray(1000) for _ in range(200000)]  # 190 MiB, which Python takes from the C library
last = bytearray(1000)
del held  # the last one keeps the end of the heap where it is
freed = resident()
give_back()
print(before, freed, resident())
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="malloc_trim is glibc's")
def test_freed_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, '-c', HELD], stdout=subprocess.PIPE, text=True, check=True)
    before, freed, after = map(int, done.stdout.split())
    assert freed > before + 150  # the C library keeps it
    assert after < before + 30


def test_the_first_steps_give_back_what_preparing_them_took(monkeypatch):
    given = []
    monkeypatch.setattr(callbacks, 'give_back', lambda: given.append(1))
    callback = callbacks.GiveBackMemory()
    for step in range(1, 6):
        assert callback._before_run(None) is None
        assert len(given) == min(step, 3)


def test_a_system_without_it_is_none_of_our_business(monkeypatch):
    import ctypes

    from machine import memory
    monkeypatch.setattr(ctypes, 'CDLL', lambda _: object())
    memory.give_back()
