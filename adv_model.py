"""The threat model: attackers, and the tower functions that train and judge a network under attack.

A network is known here by ``get_logits(image) -> [N, classes]`` alone, an attacker by ``attacks.attacker.Attacker``.
Images are float32 in [-1, 1] in the network's layout; epsilon and step size are in pixel levels (0-255) at every
interface and scaled once, by the attacker.
"""
import contextlib

import tensorflow.compat.v1 as tf
from tensorpack import ModelDesc
from tensorpack.tfutils.collection import freeze_collection
from tensorpack.tfutils.summary import add_moving_summary
from tensorpack.tfutils.tower import TowerContext, get_current_tower_context

from attacks.pgd import NoOpAttacker, PGDAttacker as PGDAttacker  # for the released programs' users
from attacks.threat import PIXEL, attack_succeeded, label_of, predicted_label
from layers import Frozen
from machine.graph_mode import use_graphs
from seeds import EVALUATION_STREAM, TRAINING_STREAM, image_seeds
from smooth_activations import backward_slope
from training.optimizers import coupled_decay, make_optimizer
from training.optimizers.decay import with_coupled
from training.step.accumulation import mean_over_parts
from training.step.loss_scale import LossScale, ScaledOptimizer, scale_gradient
from training.step.mixing import as_it_is, smoothed

use_graphs()

# What a network may compute in under attack and in training.
PRECISIONS = ('float32', 'bfloat16', 'float16')
FLOAT16_LOSS_SCALE = 128.0  # FD release; keeps gradients of images above float16's smallest numbers

# Tensors that callbacks and other programs look up.
WRONG_TOP1, WRONG_TOP5, ATTACK_SUCCESS = 'wrong-top1', 'wrong-top5', 'attack_success'
SUCCESS_AT_ANY_STEP = 'attack_success_at_any_step'
PREDICTION, TARGET, ATTACKED = 'prediction', 'target_label', 'attacked_image'
TRAINING_STEP = 'training_step'


def image_preprocess(image, data_format, channels='BGR'):
    """Images of the data path, as a network takes them (FD and SAT releases).

    Args:
        image (tf.Tensor): uint8 or float32 [N,H,W,3], BGR, 0-255; a batch stage may leave values outside of these.
        channels (str): 'BGR' or 'RGB', what is wanted.
    Returns:
        tf.Tensor: float32, 0-255 become [-1, 1] and others what lies beyond, in the layout ``data_format``.
    """
    if channels == 'RGB':
        image = tf.reverse(image, [3])
    image = tf.cast(image, tf.float32) * PIXEL - 1.0
    return image if data_format == 'NHWC' else tf.transpose(image, [0, 3, 1, 2])


def to_pixels(image, data_format, channels):
    """Undo ``image_preprocess``: float32 [N,H,W,3], BGR, 0-255, of images as a network takes them."""
    if data_format == 'NCHW':
        image = tf.transpose(image, [0, 2, 3, 1])
    image = (image + 1.0) / PIXEL
    return tf.reverse(image, [3]) if channels == 'RGB' else image


def smoothed_cross_entropy(logits, truth, label_smoothing):
    """Mean over the batch of the cross entropy with a truth: labels int [N], which are smoothed, or distributions
    [N,classes], which are taken as they are."""
    if truth.dtype.is_integer:
        truth = smoothed(truth, logits.shape[1], label_smoothing)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=truth, logits=logits))


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

    Attributes, which the constructor takes by their names where they are others than the class's:
        image_shape (int): side of the square input. num_classes (int). data_format (str): 'NHWC' or 'NCHW'.
        channels (str): 'BGR' or 'RGB', what ``network`` takes; images come as BGR.
        attacker: the training attacker. label_smoothing, weight_decay (float). weight_decay_variables (str): regular
            expression of the decayed variables' names. optimizer_name (str): one of ``OPTIMIZERS``. update
            (settings.update.Update): what the optimizer is made of beside these; None for one without options.
        classifier (str): regular expression of the whole names of the last layer's variables; None where not known.
        untrained (frozenset): names of the variables that are not trained. A batch norm whose factor and offset are
            among them has its moving averages in training too, and does not update them.
        batch_stage: see ``training.step.mixing``.
        accumulate (int): parts of a batch that a training step takes one after another.
        attack_precision, update_precision (str): of ``PRECISIONS``, what the network computes in under the training
            attack, and in the pass whose gradient the update takes; its variables and their gradients, batch
            statistics, the images, the loss and every other pass stay float32.
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
    update = None
    classifier = None
    untrained = frozenset()
    batch_stage = staticmethod(as_it_is)
    accumulate = 1
    noise_seed = None
    attack_precision = 'float32'
    update_precision = 'float32'
    attack_gradient = None
    update_gradient = None
    seed = 0
    rank = 0

    frozen = None

    def __init__(self, **given):
        for name, value in given.items():
            if not hasattr(AdvImageNetModel, name):
                raise TypeError('a network has no {}'.format(name))
            setattr(self, name, value)

    def get_logits(self, image):
        """Logits [N, num_classes] of float32 images in [-1, 1] in the layout ``data_format`` and order ``channels``.

        May be called any number of times in a graph: all calls share the network's variables.
        """
        with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=self._get_variable):
            dtype = self.frozen.dtype if self.frozen else self.dtype
            if dtype == tf.float32:
                return self.network(image)
            scale = FLOAT16_LOSS_SCALE if self.frozen and dtype == tf.float16 else None
            image = scale_gradient(image, 1 / scale) if scale else image
            logits = tf.cast(self.network(tf.cast(image, dtype)), tf.float32)
            return scale_gradient(logits, scale) if scale else logits

    def _get_variable(self, getter, name, *args, **kwargs):
        return getter(name, *args, **(dict(kwargs, trainable=False) if name in self.untrained else kwargs))

    def classify(self, image):
        """Logits [N, num_classes], at inference, of images uint8 or float32 [N,S,S,3], BGR, 0-255."""
        with TowerContext('', is_training=False):
            return self.get_logits(image_preprocess(image, self.data_format, self.channels))

    def network(self, image):
        """What ``get_logits`` returns; subclasses build their graph here."""
        raise NotImplementedError

    @property
    def dtype(self):
        """tf.DType: what the network computes in where it does not stand still."""
        return tf.as_dtype(self.update_precision if self.trains_now else 'float32')

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

    def attack(self, attacker, image, truth, seeds, slope=None, precision='float32', lengths=None):
        """``attacker.attack`` on this network in inference mode; no gradient flows through the image that it returns.

        ``slope``: activation whose derivative the attacker's gradient takes, or None. ``precision``: one of
        ``PRECISIONS``, what the network computes in meanwhile. ``lengths``: in place of the attacker's own.
        """
        with self._as_seen_by_attacker(slope, precision):
            attacked = attacker.attack(image, truth, self.get_logits, seeds=seeds, lengths=lengths)
        return attacked._replace(image=tf.stop_gradient(attacked.image, name='adv_training_sample'))

    def _training_seeds(self, label):
        """Seeds from (run, global step, rank, place in the batch); `training_step` is fed before each step, because
        the graph's own step counter may move on while the attack still runs."""
        step = tf.placeholder_with_default(tf.constant(0, tf.int64), [], name=TRAINING_STEP)
        batch = tf.cast(tf.shape(label)[0], tf.int64)
        return image_seeds(self.seed, TRAINING_STREAM + 2 * self.rank, step * batch + tf.range(batch))

    def build_graph(self, image, label):
        """The training tower function: batch stage, attack, loss on the adversarial batch, weight decay.

        Args:
            image (tf.Tensor): uint8 [N,S,S,3]. label (tf.Tensor): int32 [N].
        Returns:
            tf.Tensor: scalar cost in training, else None (tensors are found by their names).
        """
        seeds = self._training_seeds(label)
        if not self.trains_now:
            self._judge(image, label, seeds)
            return None
        inputs = [*self.batch_stage(image, label, seeds), seeds]
        if self.accumulate > 1:
            loss, *shown = mean_over_parts(self._judge, inputs, self.accumulate)
        else:
            loss, *shown = self._judge(*inputs)
        loss = tf.identity(loss, name='xentropy-loss')
        shown = [tf.identity(value, name=name) for value, name in zip(
            shown, ('train-error-top1', 'train-error-top5', 'attack_success_rate'))]
        decay = coupled_decay(self.optimizer_name, self.weight_decay, self.weight_decay_variables)
        cost = tf.identity(with_coupled(loss, decay), name='cost')
        add_moving_summary(loss, decay, cost, *shown)
        return cost

    def _judge(self, image, truth, seeds):
        """Attack, and classify what comes out.

        Args:
            image, truth: as the batch stage has left them, or a part of them.
        Returns:
            list of scalars: the loss, the top-1 and top-5 errors and, with an attack, its success rate.
        """
        image = image_preprocess(image, self.data_format, self.channels)
        adv, target, _ = self.attack(self.attacker, image, truth, seeds, self.attack_gradient, self.attack_precision)
        self.noise_seed = seeds[0]
        with backward_slope(self.update_gradient):
            logits = self.get_logits(adv)
        self.noise_seed = None
        metrics = add_metrics(logits, label_of(truth), target)
        shown = [WRONG_TOP1, WRONG_TOP5] + ([ATTACK_SUCCESS] if self.attacker.parts else [])
        return [self._enlarged(smoothed_cross_entropy(logits, truth, self.label_smoothing))] + [
            tf.reduce_mean(metrics[name]) for name in shown]

    def _enlarged(self, loss):
        """``loss``, whose gradients are the larger by the loss scale where the network computes in float16."""
        return LossScale().enlarge(loss) if self.dtype == tf.float16 else loss

    def judge_under(self, attacker, image, label, seeds, slope=None, precision='float32', lengths=None):
        """What the network says of images under attack; see ``attack`` for the arguments.

        Returns:
            tf.Tensor: the attacked images. tf.Tensor: their logits [N, num_classes]. dict: see ``get_inference_func``.
        """
        adv, target, succeeded_before = self.attack(attacker, image, label, seeds, slope, precision, lengths)
        logits = self.get_logits(adv)
        metrics = add_metrics(logits, label, target)
        ever = tf.maximum(metrics[ATTACK_SUCCESS], tf.cast(succeeded_before, tf.float32), name=SUCCESS_AT_ANY_STEP)
        return adv, logits, dict(metrics, **{TARGET: tf.identity(target, name=TARGET), SUCCESS_AT_ANY_STEP: ever})

    def get_inference_func(self, attacker, attack_gradient=None, attack_precision='float32', lengths=None):
        """The tower function that judges the network under ``attacker``.

        ``attack_gradient``, ``attack_precision``: as the attributes of that name, which are of training alone.
        ``lengths``: in place of the attacker's own.

        Returns:
            function (image uint8 or float32 [N,S,S,3] in 0-255, label int32 [N], index int32 [N] or None) -> dict of
            the tensors of ``add_metrics``, ``target_label`` int32 [N], ``attack_success_at_any_step`` float32 [N] of
            0 and 1, of all points from the start to the end of the attack, and ``attacked_image`` float32 [N,S,S,3],
            BGR, 0-255. Random starts and targets come from ``seed`` and ``index``, the image's place in the evaluated
            set; without it, from its place in the batch.
        """
        def tower_func(image, label, index=None):
            if self.trains_now:
                raise ValueError('an evaluation tower must be built with is_training=False')
            image = image_preprocess(image, self.data_format, self.channels)
            index = tf.range(tf.shape(label)[0]) if index is None else index
            seeds = image_seeds(self.seed, EVALUATION_STREAM, index)
            adv, _, found = self.judge_under(attacker, image, label, seeds, attack_gradient, attack_precision, lengths)
            attacked = to_pixels(adv, self.data_format, self.channels)
            return dict(found, **{ATTACKED: tf.identity(attacked, name=ATTACKED)})
        return tower_func

    def optimizer(self):
        """See ``make_optimizer``."""
        optimizer = make_optimizer(self.optimizer_name, self.update, self.weight_decay, self.weight_decay_variables,
                                   self.classifier)
        return ScaledOptimizer(optimizer) if self.update_precision == 'float16' else optimizer
