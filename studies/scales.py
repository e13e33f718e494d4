"""How large a study is: small, on CIFAR-10 by two cores, or as in the paper, on ImageNet by a cluster."""
from typing import NamedTuple, Tuple

from studies.cells import DATA, JUDGE, PART, TRAIN, Cell, Job, run_of

CLEAN, PGD, AUTOATTACK = 'clean', 'PGD', 'AutoAttack'  # what is measured of a network

# Passes that an update takes: a pass is one forward and one backward through the network, to its input; an update's
# also goes to the weights.
OF_UPDATE = 1.5

# Of an image that AutoAttack's judges, about: 60% are right at first and take APGD-CE's 100 steps, 40% all of the nine
# runs of 100 steps that follow. Only estimates of time rest on it.
_PASSES_OF_APGD = 0.6 * 100 + 0.4 * 900


class Scale(NamedTuple):
    """What the cells of a study have in common.

    arch, train: flags of a network, and of its training. images: of the training set. epochs, steps (of the training
    attack): for estimates. epsilon: in pixel levels, 0-255. pgd_steps: of the PGD that judges. test_images: that it
    judges. part_images: that AutoAttack judges. part: the words that choose them. version: AutoAttack's.
    data: words for messages. ranks (int): of a training. note: what there is to know of it, for the page.
    """
    name: str
    arch: Tuple[str, ...]
    train: Tuple[str, ...]
    images: int
    epochs: int
    steps: int
    batch: int
    epsilon: float
    pgd_steps: int
    test_images: int
    part_images: int
    part: Tuple[str, ...]
    version: str
    data: str
    ranks: int
    note: str = ''

    def training(self, words, seed, epochs=None, data=DATA):
        """The job that trains; ``words`` win over the scale's own flags."""
        epochs = epochs or self.epochs
        return Job(TRAIN, TRAIN, (*self.arch, *self.train, '--epochs', str(epochs), '--eval-every', str(epochs), *words,
                                 '--data', data, '--seed', str(seed)), self.images * epochs * (self.steps + OF_UPDATE))

    def pgd(self, load):
        """The job that judges all test images, clean and under PGD; ``load``: words of a log directory."""
        return Job(PGD, JUDGE, ('--load', load, '--attack-iter', str(self.pgd_steps), '--attack-epsilon',
                                _text(self.epsilon), '--attack-step-size', '1', '--batch', '200', '--data', DATA),
                   self.test_images * self.pgd_steps)

    def autoattack(self, load, words=(), name=AUTOATTACK):
        """The job that judges some test images by AutoAttack."""
        return Job(name, JUDGE, ('--load', load, *words, '--attack', 'autoattack', '--autoattack-version', self.version,
                                 '--attack-epsilon', _text(self.epsilon), '--batch', '200', *self.part),
                   self.part_images * _PASSES_OF_APGD)

    def cell(self, arm, words, seed):
        """A network trained with one seed and judged.

        Args:
            arm (str): of the cell's name. words (sequence of str): what is special in its training.
        """
        name = '{}-{}-{}'.format(self.name, arm, seed)
        load = run_of(name)
        return self.of_jobs(name, (self.training(words, seed), self.pgd(load), self.autoattack(load)))

    def of_jobs(self, name, jobs, needs=()):
        """A cell of this scale's network and number of ranks."""
        return Cell(name, tuple(jobs), tuple(needs), self.arch, self.ranks)


def _text(number):
    return '{:g}'.format(number)


# Ours: chosen on one seed of ReLU, docs/results.md says by what. Precisions are named, so that the same command trains
# the same network on every processor.
SMALL = Scale(
    'small', ('--arch', 'CifarResNet', '-d', '20'),
    ('--batch', '128', '--attack-iter', '1', '--attack-epsilon', '8', '--attack-step-size', '8', '--base-lr', '0.4',
     '--warmup-epochs', '3', '--lr-cosine-to', '0', '--attack-precision', 'bfloat16', '--update-precision', 'bfloat16'),
    images=50000, epochs=15, steps=1, batch=128, epsilon=8, pgd_steps=50, test_images=8000, part_images=1000,
    part=('--data', PART), version='apgd', data='CIFAR-10 as folders of images, train/ and test/', ranks=1,
    note='CifarResNet-20 on CIFAR-10 (50,000 training images, 8,000 test images), 15 epochs of PGD-1 from a random '
    'start (one of five images: from the image), steps of 8 at epsilon 8, SGD with warm-up and a cosine, bfloat16 in '
    'training. Chosen on seed 1 of ReLU alone, by trainings of 5 epochs, judged on 2,000 test images: the recipe of '
    'SAT had 56.0% clean and 36.3% under PGD-10 (32.0% under PGD-20 with steps of 2); without label smoothing 57.3% '
    'and 36.0%; with steps of 10, always from a random start, 55.5% and (PGD-20) 33.0%; with two steps of 5 54.6% and '
    '31.8%, for a third more time. `apgd` is APGD-CE and APGD-T, the first two of AutoAttack\'s four attacks, on the '
    'first 100 test images of each class; the study `sanity` has all four. ReLU ends some 5 points clean and 10 under '
    'PGD below the published figures of its class, which took seven times the epochs with ten attack steps each.')

# SAT Sec 3 and its release: ResNet-50, PGD-1 with steps of 4 at epsilon 4, 100 epochs (the recipe 'sat', 512 images in
# a step); PGD-200 is the paper's headline. AutoAttack on RobustBench's 5,000 images is ours: the paper is older.
FULL = Scale(
    'full', ('--arch', 'ResNet', '-d', '50'), ('--recipe', 'sat', '--attack-iter', '1', '--batch', '32'),
    images=1281167, epochs=100, steps=1, batch=32, epsilon=4, pgd_steps=200, test_images=50000, part_images=5000,
    part=('--data', DATA, '--subset', 'robustbench'), version='standard', data='ImageNet', ranks=16)

SCALES = {scale.name: scale for scale in (SMALL, FULL)}
