"""What a study is made of: cells, and the commands that fill one."""
from typing import Dict, List, NamedTuple, Sequence, Tuple

TRAIN, JUDGE, SWEEP, LANDSCAPE, COUNT = 'train', 'judge', 'sweep', 'landscape', 'count'  # kinds of jobs

# What stands for a path in a job's words: the images; those of a part of the test set; a cell's training.
DATA, PART = '{data}', '{part}'


def run_of(cell):
    """What stands in a job's words for the log directory of the cell of this name."""
    return '{{run:{}}}'.format(cell)


class Job(NamedTuple):
    """One command of a cell.

    name: of its results. kind: how it is started and read, one of those above. words: its flags; folders of data and
    of other jobs are named as above. passes: forward passes with their gradients through the network that it takes,
    about, for estimates of its time.
    """
    name: str
    kind: str
    words: Tuple[str, ...]
    passes: float


class Cell(NamedTuple):
    """A training and its judgements, or judgements of others' trainings, with one seed.

    name: of its file of results. jobs: one after another. needs: cells whose weights it uses. network: flags that say
    how long a pass takes. ranks: processes of its trainings and evaluations.
    """
    name: str
    jobs: Tuple[Job, ...]
    needs: Tuple[str, ...] = ()
    network: Tuple[str, ...] = ()
    ranks: int = 1

    @property
    def passes(self):
        return sum(job.passes for job in self.jobs)


def in_order(cells: Sequence[Cell]) -> List[Cell]:
    """The cells, each once and behind those that it needs.

    Raises:
        ValueError: two cells of one name differ, or a needed one is missing.
    """
    named: Dict[str, Cell] = {}
    for cell in cells:
        if named.setdefault(cell.name, cell) != cell:
            raise ValueError('two cells are named {}'.format(cell.name))
    for cell in named.values():
        for need in cell.needs:
            if need not in named:
                raise ValueError('{} needs the cell {}, which is none of this study'.format(cell.name, need))
    ordered: List[Cell] = []
    waiting = list(named.values())
    while waiting:
        missing = {cell.name for cell in waiting}
        ready = [cell for cell in waiting if not missing.intersection(cell.needs)]
        if not ready:
            raise ValueError('cells need each other in a circle: {}'.format(', '.join(c.name for c in waiting)))
        ordered += ready
        waiting = [cell for cell in waiting if cell not in ready]
    return ordered
