"""What a study is: arms to compare, what is measured of them, and what the paper says about it."""
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from studies.cells import Cell
from studies.scales import AUTOATTACK, CLEAN, PGD, Scale


class Arm(NamedTuple):
    """One way of training.

    name: in tables and names of cells. words: its flags. seeds: how many unless told, from 1 on. base: the arm
    that it is compared with, cell by cell of the same seed.
    """
    name: str
    words: Tuple[str, ...] = ()
    seeds: int = 3
    base: Optional[str] = None


class Column(NamedTuple):
    """A figure of a cell.

    name: in tables; '{steps}', '{part}' and '{version}' stand for the scale's. read: the content of a cell's file → a
    number, or None where there is none. percent (bool): whether it is a fraction, shown in %.
    """
    name: str
    read: Callable[[Dict[str, Any]], Optional[float]]
    percent: bool = True


class Claim(NamedTuple):
    """What the paper says of two arms.

    text: in words. column: by its name in code. sign: +1 where ``arm`` has more of it than ``base``, -1 where less.
    """
    text: str
    arm: str
    base: str
    column: str
    sign: int


class Study(NamedTuple):
    """A study.

    section: of the paper. question: in a line. arms: by scale. cell: (scale, arm, seed) → Cell; other cells that it
    needs are made by ``others``: scale → cells. columns: by their names in code. claims: of the paper. limits: what
    small scale cannot tell. published: names of others' figures in ``published.py``.
    draw: (study's table) → a matplotlib figure. scaled: the scale of its cells, where that is another.
    """
    name: str
    section: str
    question: str
    arms: Callable[[Scale], Sequence[Arm]]
    cell: Callable[[Scale, Arm, int], Cell]
    columns: Dict[str, Column]
    claims: Sequence[Claim]
    limits: str
    draw: Callable[..., Any]
    published: Sequence[str] = ()
    others: Callable[[Scale], Sequence[Cell]] = lambda scale: ()
    scaled: Callable[[Scale], Scale] = lambda scale: scale

    def rows(self, scale, seeds=None):
        """[(arm, seed, cell)] of this scale, the first seed of every arm first; ``seeds``: of every arm, where not as
        many as each arm names."""
        wanted = [(arm, arm.seeds if seeds is None else seeds) for arm in self.arms(scale)]
        return [(arm, seed, self.cell(scale, arm, seed)) for seed in range(1, max(count for _, count in wanted) + 1)
                for arm, count in wanted if seed <= count]


def accuracy(job, under_attack=True):
    """Reads the fraction of images that a job found right, clean or under attack."""
    def read(content):
        found = content['jobs'].get(job)
        if found is None:
            return None
        part = found['found']['adversarial' if under_attack else 'clean']
        return part['top1_correct'] / found['found']['num_images']
    return read


# Clean and PGD on all test images, AutoAttack on its part of them.
JUDGED = {CLEAN: Column('clean', accuracy(PGD, under_attack=False)), PGD: Column('PGD-{steps}', accuracy(PGD)),
          AUTOATTACK: Column('AutoAttack {version} ({part})', accuracy(AUTOATTACK))}
