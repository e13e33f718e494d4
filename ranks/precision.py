"""What the machines of a job compute an attack in."""
from machine.devices import fast_precision
from ranks.gather import gather_texts
from ranks.launched import Ranks


def agreed_precision(ranks: Ranks) -> str:
    """``fast_precision`` of a job: 'float32' unless all of its ranks' machines have the same; all ranks must ask."""
    fast = set(gather_texts(ranks, fast_precision()))
    return fast.pop() if len(fast) == 1 else 'float32'
