#!/usr/bin/env python
"""What AutoAttack costs: the passes of each attack beside those of the published code, and their speed beside PGD's.

    .venv/bin/python benchmarks/ensemble_speed.py --load CKPT --data cifar10 --arch CifarResNet -d 8 \\
        --attack-epsilon 8 --batch 100 --images 1000 --json speed.json

Takes main.py's flags of --eval --attack autoattack and attacks as that does: the same images stand after each attack.
Prints a Markdown table, a row as soon as its attack is done.

A pass is one image's way through the network, forward or backward. A gradient is one of each. Every attack's passes
are counted in its graph, with the first one that tells whether an image is right. The published code's are those of its
loops on the images that stood when each of its rounds began (see ``attack_passes.Rounds``), and one for the label. It
makes a few more for labels alone, which are not counted: one a round of targeted APGD, up to three of FAB, one after
Square. Both then look at each image once more for the verdict.

Speed: before and after every batch of an attack, PGD in L-infinity and a loop of forward passes alone, counted
likewise, run on the same images in the same session. From their times comes how long the attack's passes would take in
such plain loops: a forward pass as long as in the second one, a backward pass what is left of PGD's step. The ratio is
of speeds: below 1 where the attack is the slower one.
"""
import copy
import json
import sys
import time

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext
from tensorpack.utils.utils import get_tqdm

from attack_case import asked, get_parser, open_case, parse
from attack_passes import Passes, Rounds
from attacks.attacker import Attacked, Attacker, refuse_lengths
from attacks.pgd import PGDAttacker
from attacks.threat import as_truth, no_target
from commands.networks import make_evaluation_attacker
from files.atomic import write_text
from machine.versions import library_versions
from measure import new_file
from ranks.end import fail
from seeds import EVALUATION_STREAM, image_seeds
from settings.resolve import resolve

PLAIN_STEPS = 20  # of each plain loop: a second or so where a batch's attack takes many


class ForwardLoop(Attacker):
    """As an attacker: looks at the images ``PLAIN_STEPS`` times and leaves them as they are."""

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        refuse_lengths('the forward loop', lengths)
        def one_pass(number, total):
            # Never the same image twice, or the pass could be moved out of the loop.
            logits = get_logits(image + 1e-6 * tf.cast(number, tf.float32))
            return number + 1, total + tf.reduce_sum(logits)
        _, total = tf.while_loop(lambda number, _: number < PLAIN_STEPS, one_pass, [tf.constant(0), tf.constant(0.0)],
                                 back_prop=False, parallel_iterations=1)
        with tf.control_dependencies([total]):
            target = no_target(as_truth(truth))
            return Attacked(tf.identity(image), target, tf.zeros_like(target, tf.bool))


class Attack:
    """One attacker on a case's network, with its passes counted.

    Args:
        case (Case). attacker (Attacker). slope (str): see ``AdvImageNetModel.attack``.
    """

    def __init__(self, case, attacker, slope=None):
        self._case = case
        self.passes = Passes(case.model.get_logits)
        model = copy.copy(case.model)
        model.get_logits = self.passes.get_logits
        self._index = tf.placeholder(tf.int32, [None])
        with TowerContext('', is_training=False):
            seeds = image_seeds(model.seed, EVALUATION_STREAM, self._index)
            self._adv = model.attack(attacker, case.network.image, case.network.label, seeds, slope).image

    def run(self, rows, label=None):
        """Attack the images of ``rows``, with other labels if given; ``passes`` are of this run.

        Returns:
            adv (np.ndarray), seconds (float).
        """
        case, network = self._case, self._case.network
        self.passes.forward.clear()
        self.passes.backward.clear()
        begin = time.perf_counter()
        adv = network.session.run(self._adv, {network.image: case.image[rows], self._index: case.index[rows],
                                              network.label: case.label[rows] if label is None else label})
        return adv, time.perf_counter() - begin


class PlainLoops:
    """How long a forward and a backward pass take in plain loops."""

    def __init__(self, case, args):
        pgd = PGDAttacker(PLAIN_STEPS, 8.0, 2.0, random_start=False, num_classes=args.num_classes)
        self.attacks = [Attack(case, ForwardLoop()), Attack(case, pgd, args.attack_gradient)]

    def seconds(self, rows):
        """np.ndarray of two: of a forward and of a backward pass of one image in a batch of ``rows``."""
        forward, step = (attack.run(rows)[1] / (len(rows) * PLAIN_STEPS) for attack in self.attacks)
        return np.array([forward, step - forward])


class Cost:
    """What an attack has cost, over batches. Pairs are of forward and backward passes.

    Attributes:
        attack (dict): its parameters. images, standing (int): attacked, and right after it.
        passes, published (list): of all images. passes_of_one, published_of_one (list): of an image that stood to the
            end; the former the most of all batches, None where no image stood.
        seconds, plain_seconds (float): of the attack, and of its passes in plain loops.
    """

    def __init__(self, attacker, num_classes):
        self.attack, self.images, self.standing = attacker.describe(), 0, 0
        self._rounds = Rounds.of(self.attack, num_classes)
        self.passes, self.published = [0, 0], [0, 0]
        self.passes_of_one, self.published_of_one = None, list(self._rounds.of_one())
        self._calls = 0
        self.seconds = self.plain_seconds = 0.0

    def add(self, passes, standing, seconds, plain):
        """A batch: its ``Passes``, how many images are right after it, its time, and ``PlainLoops.seconds``."""
        forward, backward = passes.forward, passes.backward
        self.images += forward[0]
        self.standing += standing
        made = [sum(forward), sum(backward)]
        self.passes = [a + b for a, b in zip(self.passes, made)]
        self.published = [a + b for a, b in zip(self.published, self._rounds.of_batch(forward))]
        if standing:
            self.passes_of_one = [max(a, b) for a, b in zip(self.passes_of_one or [0, 0],
                                                            [len(forward), len(backward)])]
        self._calls += len(forward) + len(backward)
        self.seconds += seconds
        self.plain_seconds += float(np.dot(made, plain))

    @property
    def as_published(self):
        """bool: whether there were no more passes than the published code's, of one image and of all."""
        pairs = zip(self.passes + (self.passes_of_one or [0, 0]), self.published + self.published_of_one)
        return all(here <= there for here, there in pairs)

    @property
    def images_a_pass(self):
        """float: images that go through the network together, on average."""
        return sum(self.passes) / self._calls

    def describe(self):
        """JSON-ready."""
        return dict({name: value for name, value in vars(self).items() if not name.startswith('_')},
                    images_a_pass=self.images_a_pass, as_published=self.as_published)


TITLES = ('attack', 'images', 'right after it', 'passes of an image that stands: forward + backward', 'published',
          'passes of all images', 'published', 'images in a pass', 'passes a second', 'in plain loops', 'ratio')


def row(cost):
    """A line of the table."""
    def pair(passes):
        return '{:,} + {:,}'.format(*passes) if passes else '-'
    total = sum(cost.passes)
    here, plain = total / cost.seconds, total / cost.plain_seconds
    return '| ' + ' | '.join([
        cost.attack['name'], str(cost.images), str(cost.standing), pair(cost.passes_of_one),
        pair(cost.published_of_one), pair(cost.passes), pair(cost.published),
        '{:.1f}'.format(cost.images_a_pass), '{:,.0f}'.format(here), '{:,.0f}'.format(plain),
        '{:.2f}'.format(here / plain)]) + ' |'


def measure(case, attackers, args):
    """Attack the images that stand, with one attack after another; yields the ``Cost`` of each."""
    everything = np.arange(len(case.label))
    predictions = np.concatenate([case.network.predict(case.image[rows])
                                  for rows in case.batches(everything, args.batch)])
    standing = everything[predictions == case.label]
    plain = PlainLoops(case, args)
    for attack in plain.attacks:
        attack.run(everything[:args.batch])
    for attacker in attackers:
        if not len(standing):
            return
        attack, cost = Attack(case, attacker, args.attack_gradient), Cost(attacker, args.num_classes)
        # An image that counts as wrong costs one pass: what the first run of a graph takes is not the attack's time.
        attack.run(everything[:1], (predictions[:1] + 1) % args.num_classes)
        left = []
        with get_tqdm(total=len(standing), desc=attacker.name) as bar:
            for rows in case.batches(standing, args.batch):
                before = plain.seconds(rows)
                adv, seconds = attack.run(rows)
                left.append(rows[case.network.predict(adv) == case.label[rows]])
                cost.add(attack.passes, len(left[-1]), seconds, (before + plain.seconds(rows)) / 2)
                bar.update(len(rows))
        standing = np.concatenate(left)
        yield cost


def run(argv):
    parser = get_parser(__doc__, '--eval --attack autoattack')
    parser.add_argument('--json', type=new_file, metavar='FILE', help='write all figures to FILE too')
    own, args = parse(parser, argv, ['--attack', 'autoattack'])
    ensemble = asked(lambda: make_evaluation_attacker(resolve(args)))
    if not ensemble.one_after_another:
        fail('--attack {}: measures autoattack alone'.format(args.attack), 0)
    case = asked(lambda: open_case(args, own.images))
    print('{}, {}, epsilon {:g}, batches of {}, {} images\n'.format(
        ensemble.name, args.load, ensemble.epsilon, args.batch, len(case.label)))
    print('| {} |\n|{}'.format(' | '.join(TITLES), '---|' * len(TITLES)), flush=True)
    costs = []
    with case.network.session:
        for cost in measure(case, ensemble.parts, args):
            print(row(cost), flush=True)
            costs.append(cost)
            if own.json:
                write_text(own.json, json.dumps({
                    'command': sys.argv, 'date': time.strftime('%Y-%m-%d %H:%M:%S'), 'versions': library_versions(),
                    'args': vars(args), 'images': len(case.label), 'attacks': [c.describe() for c in costs]},
                    indent=1) + '\n')
    if not costs:
        fail("'{}' has none of the {} images right".format(args.load, len(case.label)), 0)
    attacked, seconds, plain = costs[0].images, sum(c.seconds for c in costs), sum(c.plain_seconds for c in costs)
    passes, published = (sum(sum(getattr(c, name)) for c in costs) for name in ('passes', 'published'))
    print('\nAn image right at first: {:,.0f} passes (published: {:,.0f}), {:.2f} s (in plain loops: {:.2f} s, '
          'ratio {:.2f})'.format(passes / attacked, published / attacked, seconds / attacked, plain / attacked,
                                 plain / seconds))
    print('{} passes than the published code'.format('No more' if all(c.as_published for c in costs) else 'MORE'))


if __name__ == '__main__':
    run(sys.argv[1:])
