"""How long a device takes for a piece of work that is started many times in a row."""
import statistics
import time

TURNS, LEAST_SECONDS = 5, 1.5


def seconds(work, wait, turns=TURNS, least=LEAST_SECONDS):
    """The median over ``turns``, each of as many runs as take ``least`` seconds in all, of a run's seconds.

    Args:
        work: () -> what it has started. wait: (that) -> after it is done; it is called at the end of a turn alone.
    """
    for _ in range(2):
        wait(work())
    begin = time.perf_counter()
    wait(work())
    runs = max(1, round(least / turns / (time.perf_counter() - begin)))
    found = []
    for _ in range(turns):
        begin = time.perf_counter()
        for _ in range(runs):
            last = work()
        wait(last)
        found.append((time.perf_counter() - begin) / runs)
    return statistics.median(found)
