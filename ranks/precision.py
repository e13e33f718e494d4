"""What the machines of a job compute a training in."""
from machine.devices import Precisions, fastest_precisions
from ranks.gather import gather_texts
from ranks.launched import Ranks


def agreed_precisions(ranks: Ranks) -> Precisions:
    """``fastest_precisions`` of a job: of each, 'float32' unless all of its ranks' machines have the same.

    All ranks must ask.
    """
    told = [text.split() for text in gather_texts(ranks, ' '.join(fastest_precisions()))]
    return Precisions(*(each[0] if len(set(each)) == 1 else 'float32' for each in zip(*told)))
