"""A network in a graph and a session of its own: NumPy arrays in and out, in batches."""
import contextlib
import threading

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import nets
from adv_model import ATTACK_SUCCESS, TARGET, add_metrics, image_preprocess, to_pixels
from attacks.attacker import Lengths
from attacks.autoattack.losses import margin
from attacks.threat import no_target
from commands.networks import matched, open_session
from ranks.launched import Ranks
from seeds import EVALUATION_STREAM, image_seeds
from settings.resolve import resolve
from weights.find import open_checkpoint

# tensorpack's context of the tower that is being built is the whole process's.
one_graph_at_a_time = threading.RLock()

LOGITS, LOSS, MARGIN, ADVERSARIAL = 'logits', 'loss', 'margin', 'adversarial'


def parts_of(args):
    """What an ``InSession`` is made of, for resolved flags of ``main.py --eval``: model, batch and make_session, which
    raises ValueError where the checkpoint does not fit the network."""
    values = open_checkpoint(args.load)
    return nets.build(resolve(args)), args.batch, lambda: open_session(Ranks(), matched(args, values))


class InSession:
    """A network that any number of arrays can be shown, also by several threads, and other networks beside it.

    Args:
        model (AdvImageNetModel). batch (int): images in one pass.
        make_session: () -> tf.Session on the current graph, with the weights in it.
    Attributes:
        graph (tf.Graph). session (tf.Session).
        pixels: placeholder, float32 [N,S,S,3], BGR, 0-255. label, index: placeholders, int32 [N]; index is an image's
            place in its set, from which an attack's random numbers come. seed: likewise, int64 scalar; the model's own
            where it is not fed.
        image: ``pixels`` as the network takes them.
        clean (dict): of these the tensors LOGITS [N, classes], PREDICTION int32 [N] (-1 where the logits are not
            finite), and of the label LOSS, its cross entropy, and MARGIN, its logit less the largest other one; and
            what ``AdvImageNetModel.judge_under`` names of no attack, with ADVERSARIAL, the images themselves.
    """

    def __init__(self, model, batch, make_session=tf.Session):
        self.model, self.batch = model, batch
        side = model.image_shape
        self._built = {}
        self.graph = tf.Graph()
        with self.building():
            self.pixels = tf.placeholder(tf.float32, [None, side, side, 3])
            self.label = tf.placeholder(tf.int32, [None])
            self.index = tf.placeholder(tf.int32, [None])
            self.seed = tf.placeholder_with_default(tf.constant(model.seed, tf.int64), [])
            self._lengths = Lengths.placeholders()
            self.image = image_preprocess(self.pixels, model.data_format, model.channels)
            logits = model.get_logits(self.image)
            target = no_target(self.label)
            self.clean = {**self.say_of(logits, add_metrics(logits, self.label, target)), TARGET: target,
                          ADVERSARIAL: self.pixels}
            self.session = make_session()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Free what the session holds; it answers no more."""
        self.session.close()

    @contextlib.contextmanager
    def building(self):
        """Where this graph is the current one, for more of it; other threads' graphs wait."""
        with one_graph_at_a_time, self.graph.as_default(), TowerContext('', is_training=False):
            yield

    def say_of(self, logits, metrics):
        """dict of what ``clean`` has, of logits and what ``add_metrics`` made of them."""
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=self.label)
        return {**metrics, LOGITS: logits, LOSS: loss, MARGIN: margin(logits, self.label)}

    def under(self, attacker, slope=None, precision='float32'):
        """The tensors of an attack on ``pixels``, and what to feed for its lengths; one graph serves all of these.

        Args:
            attacker (Attacker). slope, precision (str): see ``AdvImageNetModel.attack``.
        Returns:
            dict: what ``clean`` has, of the attacked images; ADVERSARIAL is these as ``pixels``. dict: to feed.
        """
        tensors = self._once((attacker.graph_key, slope, precision), lambda: self._build(attacker, slope, precision))
        return tensors, self._lengths.feed(attacker.lengths)

    def attack(self, attacker, names, arrays, seed, slope=None, precision='float32'):
        """Arrays of ``under``; those of attacks one after another are of the last that an image was attacked by, each
        of which attacks what stands after those before, as in an evaluation.

        Args:
            attacker, slope, precision: see ``under``. names (list of str): which, ATTACK_SUCCESS among them.
            arrays, returns: see ``run``. seed (int).
        """
        if not attacker.one_after_another:
            tensors, feed = self.under(attacker, slope, precision)
            return self.run({name: tensors[name] for name in names}, arrays, {**feed, self.seed: seed})
        found = self.run({name: self.clean[name] for name in names}, arrays)
        for part in attacker.parts:
            standing = np.flatnonzero(found[ATTACK_SUCCESS] == 0)
            left = {place: array[standing] for place, array in arrays.items()}
            attacked = self.attack(part, names, left, seed, slope, precision)
            for name in names:
                found[name][standing] = attacked[name]
        return found

    def gradient(self):
        """float32 [N,S,S,3]: that of LOSS, of each image its own, with respect to ``pixels``."""
        return self._once('gradient', lambda: tf.gradients(self.clean[LOSS], self.pixels)[0])

    def pulled_back(self):
        """A placeholder, float32 [N, classes], and the gradient of the sum of logits times it, as ``gradient``."""
        def build():
            weights = tf.placeholder(tf.float32, [None, self.model.num_classes])
            return weights, tf.gradients(self.clean[LOGITS], self.pixels, weights)[0]
        return self._once('pulled back', build)

    def _once(self, key, build):
        """What ``build`` has added to the graph, the first time that it is asked for."""
        if key not in self._built:
            with self.building():
                if key not in self._built:  # another thread may have been quicker
                    self._built[key] = build()
        return self._built[key]

    def _build(self, attacker, slope, precision):
        seeds = image_seeds(self.seed, EVALUATION_STREAM, self.index)
        adv, logits, metrics = self.model.judge_under(attacker, self.image, self.label, seeds, slope, precision,
                                                      attacker.lengths and self._lengths)
        return dict(self.say_of(logits, metrics),
                    **{ADVERSARIAL: to_pixels(adv, self.model.data_format, self.model.channels)})

    def run(self, fetches, arrays, feed=()):
        """``fetches``, a dict of tensors over images, as arrays.

        Args:
            arrays (dict): placeholder to array; all of one length, which may be 0. feed (dict): of scalars, beside.
        Raises:
            MemoryError: the machine has too little memory for ``batch`` images.
        """
        count = len(next(iter(arrays.values())))
        if not count:
            return {name: np.zeros([0, *tensor.shape[1:].as_list()], tensor.dtype.as_numpy_dtype)
                    for name, tensor in fetches.items()}
        parts = []
        for begin in range(0, count, self.batch):
            batch = {place: array[begin:begin + self.batch] for place, array in arrays.items()}
            try:
                parts.append(self.session.run(fetches, {**dict(feed), **batch}))
            except tf.errors.ResourceExhaustedError:
                raise MemoryError('{} images in one pass are too many for this machine; load the network with '
                                  'batch={} or less'.format(self.batch, max(1, self.batch // 2))) from None
        return {name: np.concatenate([part[name] for part in parts]) for name in fetches}
