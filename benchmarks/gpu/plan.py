"""What is measured, the most telling first."""
from typing import NamedTuple, Optional

# The networks that PyTorch has as well: names here, and of torch_networks.py.
IN_TORCH = {'resnet50': 'resnet50', 'convnext-t': 'convnext_tiny'}
# PyTorch's ways on a GPU and elsewhere; those of a second round are tried when all else has been.
WAYS = {'cuda': (('graph', 'reduce-overhead'), ('max-autotune', 'eager')), 'cpu': (('eager',), ())}
ALL_WAYS = tuple(dict.fromkeys(way for rounds in WAYS.values() for ways in rounds for way in ways))
PRECISIONS = ('bfloat16', 'float16', 'tf32', 'float32')


class Task(NamedTuple):
    """said: an exported step's JSON file. way: PyTorch's, or None for XLA."""
    said: dict
    way: Optional[str]

    @property
    def name(self):
        if self.way is None:
            return 'XLA, ' + self.said['name']
        return 'PyTorch, {}-{}, {}'.format('-'.join(of_torch(self.said)[:2]), self.said['precision'], self.way)


def of_torch(said):
    """What PyTorch's figure is the same for: step, network and precision; PyTorch has one layout, channels last."""
    return said['step'], said['network'], said['precision']


def _rank(said):
    """The training step in bfloat16 and NHWC first, then the attacks likewise, then what differs in more."""
    steps = ('train', 'pgd', 'apgd')
    other = [said['network'] != 'resnet50', said['layout'] != 'NHWC', said['precision'] != 'bfloat16']
    return sum(other), steps.index(said['step']), PRECISIONS.index(said['precision']), other


def tasks(exported, sides, platform):
    """The ``Task``s, the most telling first.

    Args:
        exported (list of dict): the JSON files. sides (container of str): of 'XLA' and 'PyTorch', those that are there.
        platform (str): of ``WAYS``, PyTorch's.
    """
    made, later, asked = [], [], set()
    for said in sorted(exported, key=_rank):
        if 'XLA' in sides:
            made.append(Task(said, None))
        if 'PyTorch' in sides and said['network'] in IN_TORCH and of_torch(said) not in asked:
            asked.add(of_torch(said))
            first, second = WAYS[platform]
            made += [Task(said, way) for way in first]
            later += [Task(said, way) for way in second]
    return made + later
