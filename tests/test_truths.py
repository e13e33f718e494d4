"""What is true of an image, a distribution over classes or a label; what attackers make of it."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import log_softmax, softmax
from tensorpack.tfutils.tower import TowerContext

from adv_model import AdvImageNetModel
from attacks import threat
from attacks.attacker import Lengths
from attacks.autoattack.apgd import APGDAttacker
from attacks.autoattack.square import SquareAttacker
from attacks.ensemble import Ensemble
from attacks.pgd import FGSMAttacker, MomentumAttacker, NoOpAttacker, PGDAttacker
from attacks.threat import NO_TARGET, PIXEL
from seeds import EVALUATION_STREAM, image_seeds

CLASSES, COUNT, SIDE = 5, 24, 4
RANDOM = np.random.default_rng(1)
WEIGHTS = RANDOM.standard_normal([3 * SIDE ** 2, CLASSES]).astype(np.float32)
IMAGES = RANDOM.uniform(-1, 1, [COUNT, SIDE, SIDE, 3]).astype(np.float32)
LABELS = (IMAGES.reshape(COUNT, -1) @ WEIGHTS).argmax(axis=1).astype(np.int32)
LABELS[::6] = (LABELS[::6] + 1) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]
# Two images in one, each as likely.
MIXED = (ONE_HOT + np.roll(ONE_HOT, 1, axis=0)) / 2


def logits_of(image):
    return tf.matmul(tf.reshape(image, [-1, 3 * SIDE ** 2]), tf.constant(WEIGHTS))


def attacked(sess, attacker, truth, **options):
    return sess.run(attacker.attack(tf.constant(IMAGES), tf.constant(truth), logits_of, **options))


OPTIONS = dict(num_classes=CLASSES, enlarge_small_steps=False)
ATTACKERS = {
    'none': NoOpAttacker(), 'pgd': PGDAttacker(4, 20.0, 8.0, **OPTIONS),
    'fgsm': FGSMAttacker(20.0, norm='L2', **OPTIONS),
    'momentum': MomentumAttacker(4, 20.0, 8.0, early_stop=True, **OPTIONS),
    'random target': PGDAttacker(4, 20.0, 8.0, targeted=True, **OPTIONS),
    'least likely': PGDAttacker(4, 20.0, 8.0, targeted=True, least_likely=True, early_stop=True, **OPTIONS),
    'apgd': APGDAttacker('apgd-ce', 'Linf', 20.0, CLASSES, num_iter=4, restarts=1),
    'ensemble': Ensemble('two', 'Linf', 20.0, [FGSMAttacker(6.0), PGDAttacker(3, 20.0, 8.0, **OPTIONS)])}


@pytest.mark.parametrize('attacker', ATTACKERS.values(), ids=ATTACKERS)
def test_a_label_is_the_distribution_that_gives_it_all(sess, attacker):
    for found, expected in zip(attacked(sess, attacker, ONE_HOT), attacked(sess, attacker, LABELS.astype(np.int64))):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_the_loss_of_a_mixed_image_is_that_of_its_distribution(sess):
    truth = RANDOM.dirichlet(np.ones(CLASSES), COUNT).astype(np.float32)
    scores = (IMAGES.reshape(COUNT, -1) @ WEIGHTS).astype(np.float64)
    loss = sess.run(threat.cross_entropy(logits_of(tf.constant(IMAGES)), threat.as_truth(truth)))
    np.testing.assert_allclose(loss, -(truth * log_softmax(scores, axis=1)).sum(axis=1), rtol=1e-4)
    adv, target, _ = attacked(sess, FGSMAttacker(2.0), truth)
    sign = np.sign((softmax(scores, axis=1) - truth) @ WEIGHTS.T).reshape(IMAGES.shape)
    np.testing.assert_allclose(adv, np.clip(IMAGES + 2 * PIXEL * sign, -1, 1), atol=1e-6)
    assert (target == NO_TARGET).all()


def test_right_is_whichever_class_is_the_most_likely_and_nothing_that_is_not_finite(sess):
    truth = threat.as_truth(np.array([[.5, .5, 0], [.5, .5, 0], [.5, .5, 0], [.2, .3, .5], [.2, .3, .5], [0, 1, 0]]))
    prediction = tf.constant([0, 1, 2, 2, 1, -1])
    wrong, success, label = sess.run([
        threat.is_wrong(prediction, truth),
        threat.attack_succeeded(prediction, truth, tf.constant([NO_TARGET, 1, 2, NO_TARGET, NO_TARGET, NO_TARGET])),
        threat.label_of(truth)])
    assert wrong.tolist() == [False, False, True, False, True, True]
    assert success.tolist() == [False, True, True, False, True, True]
    assert label.tolist() == [0, 0, 0, 2, 2, 1]


@pytest.mark.parametrize('truth', [ONE_HOT.astype(np.int32), LABELS.astype(np.float32)])
def test_what_is_neither_labels_nor_distributions_is_refused(graph, truth):
    with pytest.raises(ValueError, match='rank'):
        PGDAttacker(1, 4.0, 4.0).attack(tf.constant(IMAGES), tf.constant(truth), logits_of)


def test_a_stopped_attack_on_mixed_images_leaves_those_of_which_no_class_is_seen(sess):
    attacker = PGDAttacker(6, 30.0, 6.0, random_start=False, early_stop=True, **OPTIONS)
    adv, *_ = attacked(sess, attacker, MIXED)
    predicted = (IMAGES.reshape(COUNT, -1) @ WEIGHTS).argmax(axis=1)
    seen = MIXED[np.arange(COUNT), predicted] == MIXED.max(axis=1)
    assert 0 < seen.sum() < COUNT
    np.testing.assert_array_equal((adv == IMAGES).all(axis=(1, 2, 3)), ~seen)


def test_a_target_is_no_class_of_a_mixed_image(sess):
    _, target, _ = attacked(sess, PGDAttacker(1, 4.0, 4.0, targeted=True, least_likely=True, **OPTIONS), MIXED)
    scores = np.where(MIXED == MIXED.max(axis=1, keepdims=True), np.inf, IMAGES.reshape(COUNT, -1) @ WEIGHTS)
    np.testing.assert_array_equal(target, scores.argmin(axis=1))


def test_a_training_attack_takes_mixed_labels(sess):
    class Linear(AdvImageNetModel):
        num_classes = CLASSES

        def network(self, image):
            return logits_of(image)
    with TowerContext('', is_training=True):
        found = Linear().attack(PGDAttacker(1, 4.0, 4.0, random_start=False), tf.constant(IMAGES), tf.constant(MIXED),
                                None)
    scores = (IMAGES.reshape(COUNT, -1) @ WEIGHTS).astype(np.float64)
    sign = np.sign((softmax(scores, axis=1) - MIXED) @ WEIGHTS.T).reshape(IMAGES.shape)
    np.testing.assert_allclose(sess.run(found.image), np.clip(IMAGES + 4 * PIXEL * sign, -1, 1), atol=1e-6)


# Lengths, and attackers one after another

@pytest.mark.parametrize('make', [PGDAttacker, MomentumAttacker])
@pytest.mark.parametrize('early_stop', [False, True])
def test_other_lengths_are_those_of_another_attacker(sess, make, early_stop):
    other = make(5, 12.0, 4.0, early_stop=early_stop, **OPTIONS)
    fed = Lengths.placeholders()
    one = make(1, 40.0, 40.0, early_stop=early_stop, **OPTIONS)
    image = one.attack(tf.constant(IMAGES), tf.constant(LABELS), logits_of, lengths=fed).image
    # A length is scaled in float32 if it is fed.
    np.testing.assert_allclose(sess.run(image, fed.feed(other.lengths)), attacked(sess, other, LABELS).image, atol=1e-6)
    assert one.graph_key == other.graph_key != make(5, 12.0, 4.0, early_stop=not early_stop, **OPTIONS).graph_key


def test_attackers_of_fixed_lengths_say_so(graph):
    for attacker in ATTACKERS['apgd'], ATTACKERS['ensemble']:
        assert attacker.lengths is None
        with pytest.raises(ValueError, match='{}: an attack of fixed lengths'.format(attacker.name)):
            attacker.attack(tf.constant(IMAGES), tf.constant(LABELS), logits_of, lengths=Lengths(1, 4.0, 4.0))


def test_only_equal_attacks_share_a_graph():
    def square(epsilon=8.0, **options):
        return SquareAttacker('Linf', epsilon, CLASSES, **options)
    assert square().graph_key == square().graph_key
    assert len({one.graph_key for one in (square(), square(4.0), square(num_queries=7), square(seed=1))}) == 4

    def two(epsilon):
        return Ensemble('two', 'Linf', 8.0, [PGDAttacker(3, epsilon, 8.0), square()])
    assert two(8.0).graph_key == two(8.0).graph_key != two(4.0).graph_key


def test_an_ensemble_attacks_what_stands_after_each_part(sess):
    seeds = image_seeds(0, EVALUATION_STREAM, np.arange(COUNT))
    parts = [FGSMAttacker(4.0), PGDAttacker(3, 8.0, 4.0, **OPTIONS), PGDAttacker(6, 20.0, 6.0, **OPTIONS)]
    found = attacked(sess, Ensemble('three', 'Linf', 20.0, parts), LABELS, seeds=seeds)
    expected, counts = IMAGES.copy(), []
    for part in parts:
        stands = (expected.reshape(COUNT, -1) @ WEIGHTS).argmax(axis=1) == LABELS
        counts.append(stands.sum())
        expected[stands] = attacked(sess, part, LABELS, seeds=seeds).image[stands]
    np.testing.assert_allclose(found.image, expected, atol=1e-6)
    assert len(set(counts)) == 3 and not found.succeeded_before.any() and (found.target == NO_TARGET).all()
