"""A step in parts, against the mean of what the parts give when each is run by itself."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import expit, log_softmax, softmax
from tensorpack.tfutils.tower import TowerContext

import layers
import resnet_model
from adv_model import AdvImageNetModel
from attacks.pgd import NoOpAttacker, PGDAttacker
from networks import make_network
from smooth_activations import activate
from training.optimizers.decay import Decay, with_decay
from training.step.accumulation import mean_over_parts
from training.step.mixing import smoothed

CLASSES = 10


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


# Any function of a batch

X, T = normal(12, 5), np.random.RandomState(1).randint(0, 2, 12).astype(np.float64)
W, V = normal(5, seed=2), normal(3, seed=3)


def logistic(x, t):
    """[loss, number of positive scores in the part], with an update of `seen` to the part's mean of t."""
    with tf.variable_scope('', reuse=tf.AUTO_REUSE):
        w, _ = (tf.get_variable(name, [n]) for name, n in (('w', 5), ('unused', 3)))
        seen = tf.get_variable('seen', [], initializer=tf.zeros_initializer(), trainable=False)
    scores = tf.reduce_sum(x * w, axis=1)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, seen.assign(0.5 * seen + tf.reduce_mean(t)))
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=t, logits=scores))
    return [loss, tf.reduce_sum(tf.cast(scores > 0, tf.float32))]


def build_logistic(parts):
    inputs = [tf.constant(value, tf.float32) for value in (X, T)]
    return mean_over_parts(logistic, inputs, parts)


def load(sess, **values):
    sess.run(tf.global_variables_initializer())
    for variable in tf.global_variables():
        if variable.op.name in values:
            variable.load(values[variable.op.name], sess)


@pytest.mark.parametrize('parts', [1, 2, 3, 12])
def test_means_and_gradient_are_those_of_all_parts(sess, parts):
    loss, positive = build_logistic(parts)
    w, unused = tf.trainable_variables()
    cost = 3 * loss + 0.5 * tf.reduce_sum(tf.square(w))
    gradients = tf.gradients(cost, [w, unused])
    load(sess, w=W, unused=V)
    got_loss, got_positive, (dw, dunused) = sess.run([loss, positive, gradients])
    scores = X @ W
    np.testing.assert_allclose(got_loss, np.mean(np.logaddexp(0, scores) - T * scores), rtol=1e-5)
    np.testing.assert_allclose(got_positive, np.sum(scores > 0) / parts, rtol=1e-6)
    np.testing.assert_allclose(dw, 3 * X.T @ (expit(scores) - T) / 12 + W, rtol=1e-5)
    np.testing.assert_array_equal(dunused, 0)


@pytest.mark.parametrize('parts', [1, 2, 3])
def test_every_parts_updates_run_once_and_in_order(sess, parts):
    loss, _ = build_logistic(parts)
    load(sess, w=W, seen=7.0)
    sess.run(loss)
    want = 7.0
    for part in np.split(T, parts):
        want = 0.5 * want + part.mean()
    seen, = (v for v in tf.global_variables() if v.op.name == 'seen')
    assert sess.run(seen) == pytest.approx(want, rel=1e-6)


def test_no_update_is_left_for_others_to_run_and_earlier_ones_stay(graph):
    earlier = tf.no_op()
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, earlier)
    loss, _ = build_logistic(3)
    tf.gradients(loss, tf.trainable_variables())
    assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == [earlier]


# A training step

IMAGES = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3)).astype(np.uint8)
LABEL = np.array([3, 0, 9, 4, 4, 1], np.int32)


class WithoutBatchNorm(AdvImageNetModel):
    image_shape = 8
    num_classes = CLASSES

    def network(self, image):
        x = tf.reshape(image, [-1, 192])
        x = activate(tf.matmul(x, tf.get_variable('hidden/W', [192, 20])), 'silu')
        return tf.matmul(x, tf.get_variable('linear/W', [20, CLASSES]))


class WithBatchNorm(WithoutBatchNorm):

    def network(self, image):
        style = resnet_model.Style('NHWC', self.trains_now, 'silu', frozen=self.frozen)
        return super().network(layers.batch_norm(image, 'bn', style))


LAYOUT = ['--input-size', '8', '--data-format', 'NHWC']
RESNET = ['--arch', 'CifarResNet', '-d', '8', '--activation-name', 'smoothrelu', *LAYOUT]
EFFICIENTNET = ['--survival-prob', '0.5', '--num-classes', str(CLASSES), *LAYOUT]
MODELS = {'batch norm': lambda _: WithBatchNorm(),
          'ResNet, recomputed': lambda _: make_network(*RESNET, '--recompute'),
          'EfficientNet': lambda few_blocks: make_network(*few_blocks, *EFFICIENTNET),
          'EfficientNet, recomputed': lambda few_blocks: make_network(*few_blocks, *EFFICIENTNET, '--recompute')}


def value_of(variable, seed):
    value = normal(*variable.shape.as_list(), seed=seed)
    if variable.op.name.endswith(('gamma', 'smoothrelu_beta')):
        return 1 + 0.1 * value
    return value / np.sqrt(np.prod(value.shape[:-1])) if value.ndim > 1 else 0.1 * value


class Step:
    """The training graph of a model, with weights that a rule makes; ``accumulate`` and such are attributes."""

    def __init__(self, model, **attributes):
        for name, value in attributes.items():
            setattr(model, name, value)
        side = model.image_shape
        with tf.Graph().as_default():
            self.image, self.label = tf.placeholder(tf.uint8, [None, side, side, 3]), tf.placeholder(tf.int32, [None])
            with TowerContext('', is_training=True):
                cost = model.build_graph(self.image, self.label)
            self.variables = {v.op.name: v for v in tf.trainable_variables()}
            names = ['xentropy-loss', 'l2_regularize_loss', 'train-error-top1', 'train-error-top5']
            names += ['attack_success_rate'] if model.attacker.parts else []
            self.fetches = {name: name + ':0' for name in names}
            self.fetches.update(cost=cost, gradients=tf.gradients(cost, list(self.variables.values())))
            self.updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
            self.averages = [v for v in tf.global_variables() if v.op.name not in self.variables]
            self.sess = tf.Session()
            self.sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            variables = list(self.variables.values())
            self.sess.run([v.initializer for v in variables], {
                v.initializer.inputs[1]: value_of(v, number) for number, v in enumerate(variables)})

    def run(self, step, part=slice(None)):
        """Fetch all, and run the batch norm's updates with it as the trainer does."""
        feed = {self.image: IMAGES[part], self.label: LABEL[part], 'training_step:0': step}
        return self.sess.run([self.fetches, self.updates], feed)[0]


ATTACKERS = {'none': NoOpAttacker(), 'PGD': PGDAttacker(2, 8.0, 4.0)}


@pytest.mark.parametrize('model, attacker, parts', [
    ('batch norm', 'none', 2), ('batch norm', 'none', 3), ('batch norm', 'PGD', 2), ('batch norm', 'PGD', 3),
    *(pytest.param(model, 'PGD', 3, marks=pytest.mark.slow)
      for model in ('ResNet, recomputed', 'EfficientNet', 'EfficientNet, recomputed'))])
def test_a_step_in_parts_is_the_mean_of_steps_on_the_parts_one_after_another(few_blocks, model, attacker, parts):
    """The parts' own steps are numbered so that their images have the seeds of their places in the whole batch.

    All parts are attacked through the moving averages from before the step, which then take in one part after another.
    """
    attributes = dict(attacker=ATTACKERS[attacker], seed=3, rank=1, weight_decay=0.01)
    whole = Step(MODELS[model](few_blocks), accumulate=parts, **attributes)
    got = whole.run(5)
    single = Step(MODELS[model](few_blocks), **attributes)
    images = len(IMAGES) // parts
    before = averages = single.sess.run(single.averages)
    runs = []
    for k in range(parts):
        for variable, value in zip(single.averages, before):
            variable.load(value, single.sess)
        runs.append(single.run(5 * parts + k, slice(k * images, (k + 1) * images)))
        # 0.9 is batch norm's momentum.
        averages = [0.9 * a + after - 0.9 * b for a, b, after in zip(averages, before,
                                                                     single.sess.run(single.averages))]
    assert len({float(run['xentropy-loss']) for run in runs}) == parts
    for name in set(got) - {'gradients'}:
        np.testing.assert_allclose(got[name], np.mean([run[name] for run in runs]), rtol=1e-5, err_msg=name)
    for name, gradient, *of_parts in zip(whole.variables, got['gradients'], *(run['gradients'] for run in runs)):
        want = np.mean(of_parts, axis=0)
        np.testing.assert_allclose(gradient, want, rtol=0, atol=1e-4 * max(1e-2, np.abs(want).max()), err_msg=name)
    for mine, theirs in zip(whole.sess.run(whole.averages), averages):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('parts', [2, 3, 6])
def test_without_batch_norm_a_step_in_parts_is_the_step_on_the_whole_batch(parts):
    """Hence the random starts, too, are those of the whole batch."""
    attributes = dict(attacker=PGDAttacker(1, 8.0, 4.0, prob_start_from_clean=0.5), weight_decay=0.01)
    whole = Step(WithoutBatchNorm(), **attributes).run(5)
    got = Step(WithoutBatchNorm(), accumulate=parts, **attributes).run(5)
    later = Step(WithoutBatchNorm(), accumulate=parts, **attributes).run(6)
    assert abs(later['cost'] - whole['cost']) > 1e-3
    assert set(got) == set(whole)
    for name in set(got) - {'gradients'}:
        np.testing.assert_allclose(got[name], whole[name], rtol=1e-5, err_msg=name)
    for gradient, want in zip(got['gradients'], whole['gradients']):
        np.testing.assert_allclose(gradient, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_in_one_part_nothing_changes(graph):
    """One part is the whole graph without a loop, its updates left to the trainer."""
    model = WithBatchNorm()
    assert model.accumulate == 1
    with TowerContext('', is_training=True):
        model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2
    assert not [op for op in graph.get_operations() if op.type == 'Enter']


def test_weight_decay_is_added_once_whatever_the_number_of_parts():
    step = Step(WithBatchNorm(), accumulate=3, weight_decay=0.01)
    got = step.run(0)
    weights = step.sess.run([v for name, v in step.variables.items() if name.endswith('/W')])
    assert len(weights) == 2
    decay = 0.01 * sum(0.5 * np.square(w.astype(np.float64)).sum() for w in weights)
    assert got['l2_regularize_loss'] == pytest.approx(decay, rel=1e-5)
    assert got['cost'] == pytest.approx(got['xentropy-loss'] + decay, rel=1e-6)


class Linear(WithoutBatchNorm):
    def network(self, image):
        return tf.matmul(tf.reshape(image, [-1, 192]), tf.get_variable('linear/W', [192, CLASSES]))


class Watched(NoOpAttacker):
    """Remembers what it was told."""

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        self.truth = truth
        return super().attack(image, truth, get_logits, seeds, lengths)


def gradient_of_the_cost(model, sess):
    """The weights that a ``Linear`` has now, and the gradient tensor of its training cost by them, of which the
    optimizer makes the weight decay's part."""
    with TowerContext('', is_training=True):
        cost = model.build_graph(tf.constant(IMAGES), tf.constant(LABEL))
    weights, = tf.trainable_variables()
    gradient, = tf.gradients(cost, [weights])
    gradient = with_decay(gradient, weights, Decay(model.weight_decay, model.weight_decay_variables).of(weights))
    value = 0.1 * normal(192, CLASSES)
    weights.load(value, sess)
    return value, gradient


@pytest.mark.parametrize('parts', [1, 2])
def test_a_batch_stage_mixes_the_whole_batch_and_the_loss_is_of_its_distributions(sess, parts):
    def mixed_with_the_reversed_batch(image, label, seeds):
        mixed = 0.7 * tf.cast(image, tf.float32) + 0.3 * tf.cast(image[::-1], tf.float32)
        truth = smoothed(label, CLASSES, 0.1)
        return mixed, 0.7 * truth + 0.3 * truth[::-1]
    model = Linear()
    model.batch_stage, model.accumulate, model.weight_decay = mixed_with_the_reversed_batch, parts, 0.0
    model.attacker = Watched()
    value, gradient = gradient_of_the_cost(model, sess)
    mixed = 0.7 * IMAGES.astype(np.float64) + 0.3 * IMAGES[::-1]
    truth = (0.7 * np.eye(CLASSES)[LABEL] + 0.3 * np.eye(CLASSES)[LABEL[::-1]]) * 0.9 + 0.1 / CLASSES
    x = (mixed * 2 / 255 - 1).reshape(6, -1)
    scores = x @ value
    np.testing.assert_allclose(sess.run('xentropy-loss:0'), -(truth * log_softmax(scores, axis=1)).sum(1).mean(),
                               rtol=1e-5)
    np.testing.assert_allclose(sess.run(gradient), x.T @ (softmax(scores, axis=1) - truth) / 6, rtol=0, atol=1e-5)
    assert model.attacker.truth.dtype == tf.float32 and model.attacker.truth.shape[1] == CLASSES
    if parts == 1:
        np.testing.assert_allclose(sess.run(model.attacker.truth), truth, rtol=1e-6)
    wrong = np.mean(scores.argmax(1) != LABEL)  # 0.7 of each image is its own
    assert sess.run('train-error-top1:0') == pytest.approx(wrong)


def test_a_network_that_is_not_trained_sees_the_batch_as_it_is(sess):
    model = Linear()
    model.batch_stage = None
    with TowerContext('', is_training=False):
        assert model.build_graph(tf.constant(IMAGES), tf.constant(LABEL)) is None


def test_parts_without_an_attack_or_batch_norm_are_numpys_softmax_regression(sess):
    model = Linear()
    model.accumulate, model.label_smoothing, model.weight_decay = 3, 0.1, 0.01
    value, gradient = gradient_of_the_cost(model, sess)
    x = (IMAGES.astype(np.float64) * 2 / 255 - 1).reshape(6, -1)
    error = softmax(x @ value, axis=1) - (0.9 * np.eye(CLASSES)[LABEL] + 0.1 / CLASSES)
    np.testing.assert_allclose(sess.run(gradient), x.T @ error / 6 + 0.01 * value, rtol=0, atol=1e-5)
