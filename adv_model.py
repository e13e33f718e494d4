"""The threat model: attackers, and the tower functions that train and judge a network under attack.

A network is known here by ``get_logits(image) -> [N, classes]`` alone, an attacker by
``attack(image, label, get_logits) -> (adversarial image, target label)``. Images are float32 in [-1, 1] in the
network's layout; epsilon and step size are in pixel levels (0-255) at every interface and scaled here, once.
"""
import contextlib

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack import ModelDesc
from tensorpack.models import regularize_cost
from tensorpack.tfutils.collection import freeze_collection
from tensorpack.tfutils.summary import add_moving_summary
from tensorpack.tfutils.tower import TowerContext, get_current_tower_context
from tensorpack.utils import logger

from attacks.balls import BALLS
from attacks.early_stop import until_success
from layers import Frozen
from smooth_activations import backward_slope, tensorflow_ops_only
from training.step.accumulation import mean_over_parts

# Graph mode, before any graph is made. Resource variables stay on: with reference variables and tensorpack's ungated
# gradients a weight's update can overtake the gradient that still has to flow through that weight.
tf.disable_v2_behavior()
tf.enable_resource_variables()
# float32 is float32 on GPUs since Ampere too, where TensorFlow's default is TF32; training may ask for it.
tf.config.experimental.enable_tensor_float_32_execution(False)

PIXEL = 2.0 / 255  # one pixel level in the [-1, 1] units that a network sees
NO_TARGET = -1  # target label of an image that no targeted attack was made on

# SAT and FD releases.
MOMENTUM = 0.9
INITIAL_LEARNING_RATE = 0.1
# SAT's EfficientNet release.
RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1e-3
OPTIMIZERS = ('momentum', 'rmsprop')

# What a network may compute in under attack.
PRECISIONS = ('float32', 'bfloat16', 'float16')
FLOAT16_LOSS_SCALE = 128.0  # FD release; keeps gradients of images above float16's smallest numbers

# Tensors that callbacks and other programs look up.
WRONG_TOP1, WRONG_TOP5, ATTACK_SUCCESS = 'wrong-top1', 'wrong-top5', 'attack_success'
SUCCESS_AT_ANY_STEP = 'attack_success_at_any_step'
PREDICTION, TARGET = 'prediction', 'target_label'
TRAINING_STEP = 'training_step'

# What a verdict on an attacked image is of: where the attack ended, or every point on its way, the start among them.
LAST_STEP, ANY_STEP = 'last step', 'success at any step'

# Streams of random numbers that one run draws from, so that none repeats another.
TRAINING_STREAM, EVALUATION_STREAM = 0, 1
# Within an attack on one image.
_START, _FROM_CLEAN, _TARGET, _START_LENGTH = 0, 1, 2, 3


def image_seeds(seed, stream, position):
    """Seeds for the random choices of an attack, one pair an image.

    Args:
        seed (int): of the run. stream (int): see ``*_STREAM``; training adds 2 for every rank.
        position (tf.Tensor): int [N], different for every image of a stream.
    Returns:
        tf.Tensor: int64 [N, 2].
    """
    position = tf.cast(position, tf.int64)
    first = tf.fill(tf.shape(position), tf.constant((seed << 24) + stream, tf.int64))
    return tf.stack([first, position], axis=1)


def _draw_each(seeds, purpose, draw):
    """``draw(seed [2])`` for every image of ``seeds`` [N, 2]; ``purpose`` keeps one image's draws apart."""
    # Room for every purpose between two neighbouring positions.
    seeds = seeds * tf.constant([1, 4], tf.int64) + tf.constant([0, purpose], tf.int64)
    return tf.map_fn(draw, seeds, fn_output_signature=tf.float32, back_prop=False)


class NoOpAttacker:
    """The attacker of clean training and clean evaluation: it changes nothing."""
    num_iter = 0
    name = 'none'

    def describe(self):
        """As ``PGDAttacker.describe``: an attack of no length."""
        return {'name': self.name, 'norm': 'Linf', 'epsilon': 0.0, 'step_size': 0.0, 'num_iter': self.num_iter,
                'targeted': False}

    def attack(self, image, label, get_logits, seeds=None):
        """Return ``image`` as it is, and NO_TARGET [N] as there is no target."""
        return image, tf.fill(tf.shape(label), NO_TARGET)


class PGDAttacker:
    """Projected gradient descent in a ball around the image (Madry et al. 2017; FD Sec 6, SAT Sec 3).

    Untargeted, it raises the cross entropy of the true label (SAT); targeted, it lowers that of a wrong one: of a label
    drawn uniformly (FD Sec 6.1), or of the one that the network finds least likely on the clean image (Kurakin et al.
    2017).

    Args:
        num_iter (int): steps, at least 1.
        epsilon (float): radius in pixel levels, 0-255. step_size (float): of one step, in pixel levels.
        targeted (bool): see above.
        random_start (bool): start from a point drawn uniformly from the ball, cut to valid pixels, else from the
            clean image.
        prob_start_from_clean (float): probability, for each image, of starting from the clean image all the same.
        num_classes (int): number of labels that a target is drawn from.
        enlarge_small_steps (bool): raise step_size to epsilon / num_iter where it is smaller, as the releases do, so
            that the attack can cross the ball; said in the log. Off: step_size is taken as it is.
        seed (int): for the draws of images that come without ``seeds``.
        norm (str): one of ``BALLS``, in which lengths are measured.
        least_likely (bool): of a targeted attack, see above.
        xla (bool): let XLA compile a step as a whole, as the FD release's --use-fp16xla does.
        early_stop (bool): leave each image where the attack first succeeds on it, and take no more steps there.
    Raises:
        ValueError: a number out of range; names it.
    """

    def __init__(self, num_iter, epsilon, step_size, targeted=False, random_start=True, prob_start_from_clean=0.0,
                 num_classes=1000, enlarge_small_steps=True, seed=0, norm='Linf', least_likely=False, xla=False,
                 early_stop=False):
        for name, value, valid, wanted in (
                ('norm', norm, norm in BALLS, 'one of {}'.format(', '.join(BALLS))),
                ('num_iter', num_iter, num_iter == int(num_iter) and num_iter >= 1, 'a whole number above 0'),
                ('epsilon', epsilon, 0 < epsilon <= 255 or (norm != 'Linf' and 0 < epsilon < float('inf')),
                 'a radius in (0, 255] pixel levels' if norm == 'Linf' else 'a positive number of pixel levels'),
                ('step_size', step_size, step_size > 0, 'a positive number of pixel levels'),
                ('prob_start_from_clean', prob_start_from_clean, 0 <= prob_start_from_clean <= 1, 'a probability'),
                ('num_classes', num_classes, num_classes >= 2, 'at least 2')):
            if not valid:
                raise ValueError('{}: {} must be {}, not {}'.format(type(self).__name__, name, wanted, value))
        self.num_iter = int(num_iter)
        self.epsilon = float(epsilon)
        self.step_size = float(step_size)
        self.norm = norm
        if enlarge_small_steps and self.step_size < self.epsilon / self.num_iter:
            self.step_size = self.epsilon / self.num_iter
            logger.warning('{}: step size raised from {:g} to epsilon / steps = {:.4g} pixel levels'.format(
                self.name, step_size, self.step_size))
        self.targeted = targeted
        self.least_likely = least_likely
        self.random_start = random_start
        self.prob_start_from_clean = prob_start_from_clean
        self.num_classes = num_classes
        self.seed = seed
        self.xla = xla
        self.early_stop = early_stop

    @property
    def name(self):
        return self._in_norm('PGD-{}'.format(self.num_iter))

    def _in_norm(self, name):
        return name if self.norm == 'Linf' else '{}-{}'.format(name, self.norm)

    @property
    def verdict(self):
        """What the image that the attack returns stands for."""
        return ANY_STEP if self.early_stop else LAST_STEP

    def describe(self):
        """The attack's parameters, JSON-ready; lengths in pixel levels, 0-255."""
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'step_size': self.step_size,
                'num_iter': self.num_iter, 'targeted': self.targeted,
                'target': ('least-likely' if self.least_likely else 'random') if self.targeted else 'none',
                'random_start': self.random_start, 'prob_start_from_clean': self.prob_start_from_clean,
                'early_stop': self.early_stop}

    def attack(self, image, label, get_logits, seeds=None):
        """Attack a batch.

        Args:
            image (tf.Tensor): float32 [N,H,W,3] or [N,3,H,W] in [-1, 1].
            label (tf.Tensor): int [N], the true labels.
            get_logits: image -> logits [N, classes], differentiable.
            seeds (tf.Tensor): int64 [N, 2] from ``image_seeds``; without them every image has the seed of its place
                in the batch, the same in each run of the graph.
        Returns:
            adv (tf.Tensor): like ``image``, within epsilon of it and in [-1, 1].
            target (tf.Tensor): int32 [N], NO_TARGET for an untargeted attack.
        """
        return self.follow(image, label, get_logits, seeds)[:2]

    def follow(self, image, label, get_logits, seeds=None):
        """Attack a batch and watch it.

        Args: see ``attack``.
        Returns:
            adv, target: see ``attack``.
            left_success (tf.Tensor): bool [N], whether the attack had succeeded at a point that it then left.
        """
        with tf.name_scope('pgd'):
            if seeds is None:
                seeds = image_seeds(self.seed, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
            label = tf.cast(label, tf.int32)
            target = self._target(image, label, get_logits, seeds)
            step = self.step_size * PIXEL

            def one_step(ball, label, target, adv, *memory):
                """Whether the attack has succeeded at ``adv``, and the next point and memory."""
                logits = get_logits(adv)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    logits=logits, labels=target if self.targeted else label)
                gradient, = tf.gradients(tf.reduce_sum(-losses if self.targeted else losses), adv)
                gradient, *memory = self._remember(gradient, *memory)
                moved = ball.project(adv + step * ball.steepest(gradient, adv))
                return attack_succeeded(predicted_label(logits), label, target), [moved] + memory

            ball = self._ball(image)
            start = self._start(image, ball, seeds)
            state, left_success = [start] + self._memory(start), tf.zeros_like(label, tf.bool)
            if self.early_stop:
                adv, *_ = until_success(lambda image, *rest: one_step(self._ball(image), *rest),
                                        [image, label, target], state, self.num_iter)
            else:
                def one_step_of_all(left_success, *state):
                    succeeded, *state = self._compiled(
                        lambda *state: tf.nest.flatten(one_step(ball, label, target, *state)), state)
                    return [left_success | succeeded] + state

                left_success, adv, *_ = tf.while_loop(
                    lambda *_: True, one_step_of_all, [left_success] + state, maximum_iterations=self.num_iter,
                    back_prop=False, parallel_iterations=1, return_same_structure=True, name='attack_loop')
            adv.set_shape(image.shape)
            return adv, target, left_success

    def _ball(self, image):
        return BALLS[self.norm](image, self.epsilon * PIXEL)

    def _compiled(self, function, inputs):
        """``function(*inputs)``, a list of tensors, by XLA if that is asked for."""
        if not self.xla:
            return function(*inputs)
        with tensorflow_ops_only():
            return tf.xla.experimental.compile(function, list(inputs))

    def _memory(self, start):
        """What steps hand on beside the image, at first: a list of tensors."""
        return []

    def _remember(self, gradient):
        """The gradient that a step takes, and the memory after it, from the loss's gradient and the memory before."""
        return [gradient]

    def _target(self, image, label, get_logits, seeds):
        if not self.targeted:
            return tf.fill(tf.shape(label), NO_TARGET)
        if not self.least_likely:
            return self._draw_target(label, seeds)
        # The least likely of the wrong ones.
        logits = get_logits(image)
        logits = tf.where_v2(tf.one_hot(label, tf.shape(logits)[1], True, False), np.inf, logits)
        return tf.stop_gradient(tf.argmin(logits, axis=1, output_type=tf.int32))

    def _draw_target(self, label, seeds):
        """A uniformly random wrong label, int32 [N] (FD Sec 6.1)."""
        u = _draw_each(seeds, _TARGET, lambda s: tf.random.stateless_uniform([], s))
        offset = 1 + tf.minimum(tf.cast(u * (self.num_classes - 1), tf.int32), self.num_classes - 2)
        return tf.floormod(label + offset, self.num_classes)

    def _start(self, image, ball, seeds):
        if not self.random_start:
            return tf.identity(image)
        shape = tf.shape(image)[1:]

        def draw(of_shape):
            noise = _draw_each(seeds, _START, lambda s: of_shape(shape, s))
            noise.set_shape(image.shape)
            return noise
        # Inside the valid range from the first gradient on (the releases clip only after it).
        start = ball.start(draw, lambda: _draw_each(seeds, _START_LENGTH, lambda s: tf.random.stateless_uniform([], s)))
        if self.prob_start_from_clean > 0:
            u = _draw_each(seeds, _FROM_CLEAN, lambda s: tf.random.stateless_uniform([], s))
            from_clean = tf.reshape(u < self.prob_start_from_clean, [-1, 1, 1, 1])
            start = tf.where_v2(from_clean, image, start)
        return start


def image_preprocess(image, data_format, channels='BGR'):
    """Images of the data path, as a network takes them (FD and SAT releases).

    Args:
        image (tf.Tensor): uint8 or float32 [N,H,W,3], BGR, 0-255. channels (str): 'BGR' or 'RGB', what is wanted.
    Returns:
        tf.Tensor: float32, 0-255 become [-1, 1], in the layout ``data_format``.
    """
    if channels == 'RGB':
        image = tf.reverse(image, [3])
    image = tf.cast(image, tf.float32) * PIXEL - 1.0
    return image if data_format == 'NHWC' else tf.transpose(image, [0, 3, 1, 2])


def _scale_gradient(x, factor):
    """``x``, whose gradient is that of the result times ``factor``."""
    if factor == 1:
        return x
    return tf.custom_gradient(lambda x: (tf.identity(x), lambda dy: dy * factor))(x)


def smoothed_cross_entropy(logits, label, label_smoothing):
    """Mean over the batch of the cross entropy with targets onehot * (1 - s) + s / classes (1H Sec 5.1, s = 0.1)."""
    target = tf.one_hot(label, logits.shape[1], on_value=1.0, off_value=0.0)
    target = target * (1 - label_smoothing) + label_smoothing / int(logits.shape[1])
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=target, logits=logits))


def predicted_label(logits):
    """The most likely label, int32 [N]; -1 where the logits are not finite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where_v2(finite, tf.argmax(logits, axis=1, output_type=tf.int32), -1)


def attack_succeeded(prediction, label, target):
    """bool [N]: a targeted attack succeeds where the target is predicted, an untargeted one where the label is not."""
    return tf.where_v2(tf.equal(target, NO_TARGET), tf.not_equal(prediction, label), tf.equal(prediction, target))


def add_metrics(logits, label, target):
    """Name the tensors by which a batch is judged.

    Returns:
        dict: ``prediction`` int32 [N] (-1 where the logits are not finite), ``wrong-top1``, ``wrong-top5`` and
        ``attack_success`` (see ``attack_succeeded``) float32 [N] of 0 and 1.
    """
    label = tf.cast(label, tf.int32)
    prediction = predicted_label(logits)
    top5 = tf.math.in_top_k(predictions=logits, targets=label, k=min(5, int(logits.shape[1])))
    return {PREDICTION: tf.identity(prediction, name=PREDICTION),
            WRONG_TOP1: tf.cast(tf.not_equal(prediction, label), tf.float32, name=WRONG_TOP1),
            WRONG_TOP5: tf.cast(~(top5 & (prediction >= 0)), tf.float32, name=WRONG_TOP5),
            ATTACK_SUCCESS: tf.cast(attack_succeeded(prediction, label, target), tf.float32, name=ATTACK_SUCCESS)}


class AdvImageNetModel(ModelDesc):
    """A classifier trained on adversarial images; subclasses give ``network``.

    Attributes, all set before a graph is built:
        image_shape (int): side of the square input. num_classes (int). data_format (str): 'NHWC' or 'NCHW'.
        channels (str): 'BGR' or 'RGB', what ``network`` takes; images come as BGR.
        attacker: the training attacker. label_smoothing, weight_decay (float). weight_decay_variables (str): regular
            expression of the decayed variables' names. optimizer_name (str): one of ``OPTIMIZERS``.
        accumulate (int): parts of a batch that a training step takes one after another.
        attack_precision (str): one of ``PRECISIONS``, what the network computes in under the training attack; its
            variables, the images, the loss and every other pass stay float32.
        frozen (Frozen): the network's parameters while the passes of an attack are built, else None.
        noise_seed (tf.Tensor): int64 [2], for dropout and the like; there while a training pass is built.
        attack_gradient, update_gradient (str): activation whose derivative the attacker's gradient and the update's
            take in every activation of the network (SAT Sec 3); None is the activation's own.
        seed (int), rank (int): where the training attacker's random numbers come from, with the global step.
    """
    image_shape = 224
    num_classes = 1000
    data_format = 'NHWC'
    channels = 'BGR'
    attacker = NoOpAttacker()
    label_smoothing = 0.1  # FD and SAT releases, as 1H Sec 5.1
    weight_decay = 1e-4  # likewise
    weight_decay_variables = '.*/W'  # likewise
    optimizer_name = 'momentum'
    accumulate = 1
    noise_seed = None
    attack_precision = 'float32'
    attack_gradient = None
    update_gradient = None
    seed = 0
    rank = 0

    frozen = None

    def get_logits(self, image):
        """Logits [N, num_classes] of float32 images in [-1, 1] in the layout ``data_format`` and order ``channels``.

        May be called any number of times in a graph: all calls share the network's variables.
        """
        with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
            if self.frozen is None or self.frozen.dtype == tf.float32:
                return self.network(image)
            scale = FLOAT16_LOSS_SCALE if self.frozen.dtype == tf.float16 else 1.0
            logits = self.network(tf.cast(_scale_gradient(image, 1 / scale), self.frozen.dtype))
            return _scale_gradient(tf.cast(logits, tf.float32), scale)

    def classify(self, image):
        """Logits [N, num_classes], at inference, of images uint8 or float32 [N,S,S,3], BGR, 0-255."""
        with TowerContext('', is_training=False):
            return self.get_logits(image_preprocess(image, self.data_format, self.channels))

    def network(self, image):
        """What ``get_logits`` returns; subclasses build their graph here."""
        raise NotImplementedError

    @property
    def trains_now(self):
        """bool: whether the graph being built is of a training pass (batch statistics, dropout) and not frozen."""
        context = get_current_tower_context()
        return context is not None and context.is_training and self.frozen is None

    def inputs(self):
        side = self.image_shape
        return [tf.TensorSpec((None, side, side, 3), tf.uint8, 'input'), tf.TensorSpec((None,), tf.int32, 'label')]

    @contextlib.contextmanager
    def _as_seen_by_attacker(self, slope, precision):
        """Inference mode, moving averages neither updated nor collected, the attacker's choice of ``slope``."""
        before, self.frozen = self.frozen, Frozen(tf.as_dtype(precision))
        try:
            with freeze_collection([tf.GraphKeys.UPDATE_OPS]), backward_slope(slope):
                yield
        finally:
            self.frozen = before

    def attack(self, attacker, image, label, seeds, slope=None, precision='float32'):
        """``attacker.attack`` on this network in inference mode; no gradient flows through what it returns.

        ``slope``: activation whose derivative the attacker's gradient takes, or None. ``precision``: one of
        ``PRECISIONS``, what the network computes in meanwhile.
        """
        return self.watch_attack(attacker, image, label, seeds, slope, precision)[:2]

    def watch_attack(self, attacker, image, label, seeds, slope=None, precision='float32'):
        """As ``attack``, and bool [N] whether it had succeeded at a point that it then left."""
        with self._as_seen_by_attacker(slope, precision):
            if isinstance(attacker, PGDAttacker):
                adv, target, left_success = attacker.follow(image, label, self.get_logits, seeds=seeds)
            else:  # others stay where they have succeeded
                adv, target = attacker.attack(image, label, self.get_logits, seeds=seeds)
                left_success = tf.zeros_like(label, tf.bool)
        return tf.stop_gradient(adv, name='adv_training_sample'), target, left_success

    def _training_seeds(self, label):
        """Seeds from (run, global step, rank, place in the batch); `training_step` is fed before each step, because
        the graph's own step counter may move on while the attack still runs."""
        step = tf.placeholder_with_default(tf.constant(0, tf.int64), [], name=TRAINING_STEP)
        batch = tf.cast(tf.shape(label)[0], tf.int64)
        return image_seeds(self.seed, TRAINING_STREAM + 2 * self.rank, step * batch + tf.range(batch))

    def build_graph(self, image, label):
        """The training tower function: attack, loss on the adversarial batch, weight decay.

        Args:
            image (tf.Tensor): uint8 [N,S,S,3]. label (tf.Tensor): int32 [N].
        Returns:
            tf.Tensor: scalar cost in training, else None (tensors are found by their names).
        """
        inputs = [image, label, self._training_seeds(label)]
        if not self.trains_now:
            self._judge(*inputs)
            return None
        if self.accumulate > 1:
            loss, *shown = mean_over_parts(self._judge, inputs, self.accumulate)
        else:
            loss, *shown = self._judge(*inputs)
        loss = tf.identity(loss, name='xentropy-loss')
        shown = [tf.identity(value, name=name) for value, name in zip(
            shown, ('train-error-top1', 'train-error-top5', 'attack_success_rate'))]
        decay = regularize_cost(self.weight_decay_variables, lambda weights: self.weight_decay * tf.nn.l2_loss(weights),
                                name='l2_regularize_loss')
        cost = tf.add(loss, decay, name='cost')
        add_moving_summary(loss, decay, cost, *shown)
        return cost

    def _judge(self, image, label, seeds):
        """Attack, and classify what comes out.

        Returns:
            list of scalars: the loss, the top-1 and top-5 errors and, with an attack, its success rate.
        """
        image = image_preprocess(image, self.data_format, self.channels)
        adv, target = self.attack(self.attacker, image, label, seeds, self.attack_gradient, self.attack_precision)
        self.noise_seed = seeds[0]
        with backward_slope(self.update_gradient):
            logits = self.get_logits(adv)
        self.noise_seed = None
        metrics = add_metrics(logits, label, target)
        shown = [WRONG_TOP1, WRONG_TOP5] + ([ATTACK_SUCCESS] if self.attacker.num_iter > 0 else [])
        return [smoothed_cross_entropy(logits, label, self.label_smoothing)] + [
            tf.reduce_mean(metrics[name]) for name in shown]

    def get_inference_func(self, attacker, attack_gradient=None, attack_precision='float32'):
        """The tower function that judges the network under ``attacker``.

        ``attack_gradient``, ``attack_precision``: as the attributes of that name, which are of training alone.

        Returns:
            function (image uint8 or float32 [N,S,S,3] in 0-255, label int32 [N], index int32 [N] or None) -> dict of
            the tensors of ``add_metrics``, ``target_label`` int32 [N] and ``attack_success_at_any_step`` float32 [N] of
            0 and 1, of all points from the start to the end of the attack. Random starts and targets come from
            ``seed`` and ``index``, the image's place in the evaluated set; without it, from its place in the batch.
        """
        def tower_func(image, label, index=None):
            if self.trains_now:
                raise ValueError('an evaluation tower must be built with is_training=False')
            image = image_preprocess(image, self.data_format, self.channels)
            index = tf.range(tf.shape(label)[0]) if index is None else index
            seeds = image_seeds(self.seed, EVALUATION_STREAM, index)
            adv, target, left_success = self.watch_attack(attacker, image, label, seeds, attack_gradient,
                                                          attack_precision)
            metrics = add_metrics(self.get_logits(adv), label, target)
            ever = tf.maximum(metrics[ATTACK_SUCCESS], tf.cast(left_success, tf.float32), name=SUCCESS_AT_ANY_STEP)
            return dict(metrics, **{TARGET: tf.identity(target, name=TARGET), SUCCESS_AT_ANY_STEP: ever})
        return tower_func

    def optimizer(self):
        """The optimizer on the variable `learning_rate`, which the schedule sets.

        'momentum' is Nesterov's with 0.9 (1H Sec 5.1); 'rmsprop' the EN release's.
        """
        learning_rate = tf.get_variable('learning_rate', initializer=INITIAL_LEARNING_RATE, trainable=False)
        tf.summary.scalar('learning_rate-summary', learning_rate)
        if self.optimizer_name == 'rmsprop':
            return tf.train.RMSPropOptimizer(learning_rate, RMSPROP_DECAY, MOMENTUM, RMSPROP_EPSILON)
        return tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True)
