"""The checks for masked gradients, and the sweeps, landscapes and transfers that they rest on, against NumPy."""
import numpy as np
import pytest
import scipy.stats
import tensorflow.compat.v1 as tf
from scipy.special import expit, log_softmax

from adv_model import AdvImageNetModel
from analysis import activations, landscape, masking, report, sweep, transfer
from analysis.noise import RandomNoise
from analysis.subject import Outcome, Subject
from attacks.attacker import Attacked, Attacker
from attacks.pgd import PGDAttacker
from attacks.threat import PIXEL, no_target
from sat.images import Images

SIDE, COUNT = 8, 60
SCALE = 0.1  # of the logits; the honest network's softmax is far from float32's end
BREAKING = np.geomspace(1.3, 50, COUNT)  # epsilon at which each image falls to the best attack
MISTAKEN = (10, 30)  # images that carry the other label
DIRECTION = np.random.default_rng(0).uniform(0.5, 1.5, [SIDE, SIDE, 3]) * np.sign(
    np.random.default_rng(1).standard_normal([SIDE, SIDE, 3]))
PLAN = sweep.Plan(16.0, 4.0, 10, steps=(5, 10, 40), epsilons=(0, 1, 2, 4, 8, 16, 32, 64), queries=300)


def images():
    """Around grey, so that no attack meets the end of the range: image k is ``BREAKING[k]`` from the boundary."""
    random = np.random.default_rng(2)
    noise = random.uniform(-20, 20, [COUNT, SIDE, SIDE, 3])
    label = np.arange(COUNT) % 2
    side = np.where(label, 1, -1) * BREAKING * np.abs(DIRECTION).sum()
    # Along the direction each image is moved to where it belongs.
    noise += ((side - (noise * DIRECTION).sum((1, 2, 3))) / (DIRECTION ** 2).sum())[:, None, None, None] * DIRECTION
    label[list(MISTAKEN)] = 1 - label[list(MISTAKEN)]
    return Images((127.5 + noise).astype(np.float32), label.astype(np.int32), np.arange(COUNT, dtype=np.int32) * 3,
                  ['{}.png'.format(k) for k in range(COUNT)], ['nought', 'one'])


def logits_of(pixels, direction=DIRECTION, scale=SCALE):
    score = scale * ((pixels / 127.5 - 1) * direction).sum(axis=(1, 2, 3))
    return np.stack([-score, score], axis=1)


class Linear(AdvImageNetModel):
    """Two classes on either side of a plane, behind a layer that may hide the slope."""
    image_shape, num_classes = SIDE, 2

    def __init__(self, hide=lambda x: x, scale=SCALE, data_format='NHWC', channels='BGR', direction=DIRECTION):
        self.hide, self.scale, self.data_format, self.channels = hide, scale, data_format, channels
        direction = direction[..., ::-1] if channels == 'RGB' else direction
        self.direction = direction if data_format == 'NHWC' else direction.transpose(2, 0, 1)

    def network(self, image):
        score = tf.reduce_sum(self.hide(image) * tf.constant(self.direction, tf.float32), [1, 2, 3])
        return self.scale * tf.stack([-score, score], axis=1)


@tf.custom_gradient
def rounding(x):
    """Of 32 levels; the way back is rounding's true slope."""
    return tf.round(x * 16) / 16, tf.zeros_like


@tf.custom_gradient
def shattered(x):
    """The identity, with a slope that leads anywhere."""
    return tf.identity(x), lambda dy: dy * tf.sin(1e5 * x)


@pytest.fixture
def subject(graph):
    """function(arguments of Linear) -> a Subject, in batches that do not divide the images."""
    made = []

    def make(name='linear', **kwargs):
        made.append(Subject(name, Linear(**kwargs), 25))
        return made[-1]
    yield make
    for one in made:
        one.__exit__()


def outcome(standing, loss=0.0):
    standing = np.asarray(standing, bool)
    return Outcome(standing.astype(int), standing, np.full(len(standing), loss), np.where(standing, 1.0, -1.0))


# What a network says

@pytest.mark.parametrize('data_format', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('channels', ['BGR', 'RGB'])
def test_a_network_s_say_is_numpys_in_every_layout(subject, data_format, channels):
    some = images()
    scores = logits_of(some.pixels)
    found = subject(data_format=data_format, channels=channels).judge(some)
    np.testing.assert_array_equal(found.prediction, scores.argmax(1))
    np.testing.assert_array_equal(np.flatnonzero(~found.standing), MISTAKEN)
    own = scores[np.arange(COUNT), some.label]
    np.testing.assert_allclose(found.margin, own - scores[np.arange(COUNT), 1 - some.label], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.loss, -log_softmax(scores, 1)[np.arange(COUNT), some.label], rtol=1e-3, atol=1e-4)
    # The attacked images are in pixel levels and in the order of the file, whatever the network takes.
    if data_format == 'NHWC':
        adv = subject(data_format=data_format, channels=channels).judge(
            some, PGDAttacker(20, 8.0, 2.0), keep=True).adv
        away = np.where(some.label, -1, 1)[:, None, None, None] * np.sign(DIRECTION)
        np.testing.assert_allclose(adv - some.pixels, 8 * away, atol=1e-3)


# Sweeps

@pytest.fixture
def honest(subject):
    return sweep.measure(subject(), images(), PLAN)


def test_accuracies_of_a_linear_network_are_those_of_its_closed_form(honest):
    right = np.ones(COUNT, bool)
    right[list(MISTAKEN)] = False
    for epsilon, found in honest.by_epsilon.items():
        np.testing.assert_array_equal(found.standing, right & (BREAKING > epsilon) if epsilon else right)
    for steps in (10, 40):
        np.testing.assert_array_equal(honest.by_steps[steps].standing, right & (BREAKING > PLAN.epsilon))
    # Five steps of 4 do not cross the ball from every start.
    assert (honest.by_steps[5].standing & ~honest.by_steps[10].standing).any()
    expected = [min([e for e in PLAN.epsilons if e >= b], default=np.inf) for b in BREAKING]
    np.testing.assert_array_equal(honest.breaking_epsilon()[right], np.array(expected)[right])
    assert (honest.breaking_epsilon()[list(MISTAKEN)] == 0).all()
    assert not honest.zero_gradient.any()


def test_an_honest_network_passes_every_check(honest):
    checks = masking.check(honest)
    assert [c.text for c in checks if not c.passed] == []
    assert len({c.name for c in checks}) == len(checks) == 7
    assert masking.verdict(checks).startswith('No sign')


@pytest.mark.parametrize('how, flagged', [
    (dict(scale=1e4 * SCALE), {'gradients', 'random noise', 'black box', 'accuracy at a large epsilon'}),
    pytest.param(dict(hide=rounding), {'gradients', 'random noise', 'black box', 'accuracy at a large epsilon'},
                 marks=pytest.mark.slow),
    (dict(hide=shattered), {'black box', 'accuracy at a large epsilon'})])
def test_masked_gradients_are_flagged(subject, how, flagged):
    checks = masking.check(sweep.measure(subject(**how), images(), PLAN))
    assert flagged <= {c.name for c in checks if not c.passed}
    assert masking.verdict(checks).startswith('Signs of masked gradients')


def test_the_black_box_attacker_may_be_any(subject):
    class Oracle(Attacker):
        """Knows the network without asking for its slope."""

        def attack(self, image, label, get_logits, seeds, lengths):
            away = 1 - 2 * tf.cast(label, tf.float32)[:, None, None, None]
            adv = image + 16 * PIXEL * away * tf.constant(np.sign(DIRECTION), tf.float32)
            return Attacked(adv, no_target(label), tf.zeros_like(label, tf.bool))
    found = sweep.measure(subject(scale=1e4 * SCALE), images(), PLAN, black_box=Oracle())
    right = np.isin(np.arange(COUNT), MISTAKEN, invert=True)
    np.testing.assert_array_equal(found.black_box.standing, right & (BREAKING > 16))
    assert 'black box' in {c.name for c in masking.check(found) if not c.passed}


def test_a_network_that_recognises_too_little_is_refused(subject):
    some = images().part(np.arange(15))
    with pytest.raises(ValueError, match='linear recognises 14 of 15 images.*--images'):
        sweep.check_recognised(subject(), some)


def test_figures_of_a_sweep_are_json_and_count_what_stands(honest):
    content = sweep.as_json(honest, masking.check(honest))
    assert [row['num_iter'] for row in content['steps']] == [5, 10, 40]
    # PGD's step is never too short to cross the radius, and grows with it.
    assert [row['step_size'] for row in content['steps']] == [4.0, 4.0, 4.0]
    assert [row.get('step_size') for row in content['epsilons']] == [None] + [e / 4 for e in PLAN.epsilons[1:]]
    assert [row['correct'] for row in content['epsilons']] == [
        int(o.standing.sum()) for o in honest.by_epsilon.values()]
    low, high = content['clean']['accuracy_95']
    interval = scipy.stats.binomtest(COUNT - 2, COUNT).proportion_ci(0.95, method='wilson')
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert content['masked'] is False and content['images'][10]['breaking_epsilon'] == 0


# The checks, on verdicts made up for each

def test_the_comparison_is_the_exact_mcnemar_test():
    first, other = np.ones(100, bool), np.ones(100, bool)
    first[:9], other[7:10] = False, False  # 7 fall to the first alone, 1 to the other alone
    assert masking.stronger(first, other) == pytest.approx(scipy.stats.binom.sf(6, 8, 0.5))
    assert masking.stronger(other, first) == pytest.approx(scipy.stats.binom.sf(0, 8, 0.5))
    assert masking.stronger(first, first) == 1.0


def standing(count, of=100):
    return outcome(np.arange(of) < count)


def made_up(**changed):
    """A sweep of an honest network of 100 images, but for what is ``changed``."""
    some = Images(np.zeros([100, 1, 1, 3]), np.ones(100), np.arange(100), [''] * 100, [])
    parts = dict(images=some, plan=PLAN, clean=outcome(np.ones(100), 0.5), by_steps={5: standing(60), 50: standing(50)},
                 by_epsilon={0: standing(100), 16.0: outcome(np.arange(100) < 55, 1.0), 64.0: standing(0)},
                 noise={0: standing(100), 16.0: standing(97), 64.0: standing(80)}, single_step=standing(70),
                 black_box=standing(65), zero_gradient=np.zeros(100, bool))
    return sweep.Sweep(**dict(parts, **changed))


@pytest.mark.parametrize('changed, flagged', [
    ({}, set()),
    ({'by_steps': {5: standing(50), 50: standing(53)}}, set()),  # 3 of 3: chance
    ({'by_steps': {5: standing(50), 50: standing(60)}}, {'more steps'}),
    ({'by_epsilon': {0: standing(100), 16.0: outcome(np.arange(100) < 55, 1.0), 32.0: standing(80), 64.0: standing(0)},
      'noise': {e: standing(97) for e in (0, 16.0, 32.0, 64.0)}}, {'larger epsilon'}),
    ({'by_epsilon': {0: standing(100), 16.0: outcome(np.arange(100) < 55, 1.0), 64.0: standing(20)}},
     {'accuracy at a large epsilon'}),
    ({'by_epsilon': {0: standing(100), 16.0: outcome(np.arange(100) < 55, 1.0), 64.0: standing(5)}}, set()),
    ({'single_step': standing(40)}, {'single step'}),
    ({'single_step': standing(48)}, set()),
    ({'black_box': standing(40)}, {'black box'}),
    ({'black_box': standing(47)}, set()),
    ({'noise': {0: standing(100), 16.0: standing(40), 64.0: standing(80)}}, {'random noise'}),
    ({'noise': {0: standing(100), 16.0: standing(55), 64.0: standing(0)}}, {'random noise'}),
    ({'zero_gradient': np.arange(100) < 6}, {'gradients'}),
    ({'zero_gradient': np.arange(100) < 5}, set()),
    ({'clean': outcome(np.ones(100), 1.0)}, {'gradients'}),
    # A loss that is 0 in float32 without the attack and under it, of a network that is sure.
    ({'clean': outcome(np.ones(100), 0.0), 'by_epsilon': {0: standing(100), 16.0: standing(55), 64.0: standing(0)}},
     set())])
def test_each_check_flags_its_own_sign_and_no_chance(changed, flagged):
    checks = masking.check(made_up(**changed))
    assert {c.name for c in checks if not c.passed} == flagged
    assert all(check.text.endswith('.') for check in checks)


# Noise

def test_noise_stays_in_the_ball_and_is_the_same_in_any_batch(subject):
    some, attacker = images(), RandomNoise(5, 12.0)
    pixels = some.pixels.copy()
    pixels[:, 0] = 255
    some = some.moved_to(pixels)
    found = subject().judge(some, attacker, keep=True)
    assert np.abs(found.adv - some.pixels).max() <= 12 + 1e-3
    assert found.adv.min() >= -1e-3 and found.adv.max() <= 255 + 1e-3
    changes = np.sign(np.round(found.adv - some.pixels)).reshape(COUNT, -1)
    assert len(np.unique(changes, axis=0)) == COUNT
    backwards = np.arange(COUNT)[::-1]
    again = subject().judge(some.part(backwards), attacker, keep=True)
    np.testing.assert_array_equal(again.adv, found.adv[backwards])
    first = subject(data_format='NCHW').judge(some.part(np.arange(4)), attacker, keep=True) if \
        tf.config.list_physical_devices('GPU') else again
    assert first.adv.shape[1:] == (SIDE, SIDE, 3)


def test_noise_is_the_worst_of_its_draws(subject):
    some, one = images(), subject()
    clean = one.judge(some).margin
    draws = [one.judge(some, RandomNoise(k, 12.0)).margin for k in (1, 10, 50)]
    assert (draws[1] <= draws[0] + 1e-6).all() and draws[2].mean() < draws[1].mean() < draws[0].mean()
    best = clean - SCALE * 2 * 12 * PIXEL * np.abs(DIRECTION).sum()
    assert (draws[2] > best - 1e-3).all() and 0.6 * np.mean(clean - best) > np.mean(clean - draws[2])


# Landscapes, transfer, activations

def test_a_landscape_is_the_loss_at_the_points_of_its_plane(subject):
    some = images().part(np.array([3, 20, 40]))
    found = landscape.measure(subject(), some, PGDAttacker(10, 8.0, 2.0), span=6.0, grid=5, seed=1)
    np.testing.assert_allclose(found.offsets, [-6, -3, 0, 3, 6])
    towards = np.where(some.label, -1, 1)[:, None, None, None] * np.sign(DIRECTION)
    aside = landscape.random_signs(1, some.index.tolist(), [SIDE, SIDE, 3])
    assert set(np.unique(aside)) == {-1, 1} and not np.array_equal(aside[0], aside[1])
    for i, along in enumerate(found.offsets):
        for j, across in enumerate(found.offsets):
            scores = logits_of(some.pixels + along * towards + across * aside)
            expected = -log_softmax(scores, 1)[np.arange(3), some.label]
            np.testing.assert_allclose(found.loss[:, i, j], expected, rtol=2e-3, atol=1e-4)
    alone = landscape.measure(subject(), some.part(np.array([1])), PGDAttacker(10, 8.0, 2.0), 6.0, 5, 1)
    np.testing.assert_allclose(alone.loss[0], found.loss[1], rtol=1e-5)


def test_transfer_shows_every_network_the_images_of_every_other(subject):
    some = images()
    other = DIRECTION * np.where(np.random.default_rng(5).uniform(size=DIRECTION.shape) < 0.25, -1, 1)
    found = transfer.measure([subject('a'), subject('b', direction=other)], some, PGDAttacker(20, 8.0, 2.0))
    for i, source in enumerate((DIRECTION, other)):
        adv = some.pixels + 8 * np.where(some.label, -1, 1)[:, None, None, None] * np.sign(source)
        for j, target in enumerate((DIRECTION, other)):
            expected = logits_of(adv, target).argmax(1) == some.label
            assert found.accuracies()[i, j] == pytest.approx(expected.mean())
    assert found.accuracies()[0, 0] < found.accuracies()[1, 0]
    assert found.surprises() == [] and transfer.in_words(found).startswith('No network')
    masked = transfer.measure([subject('a'), subject('masked', scale=1e4 * SCALE)], some, PGDAttacker(20, 8.0, 2.0))
    assert masked.surprises() == [('a', 'masked')]
    assert 'images made with a break masked' in transfer.in_words(masked)


def test_activations_and_derivatives_are_the_closed_forms(graph):
    x, found = activations.measure(['relu', 'silu', 'parametric_softplus:10', 'elu', 'smoothrelu'])
    s, z, beta = expit(x.astype(float)), x.astype(float), 400.0
    positive = np.maximum(z, 0)
    for name, (value, slope) in {
            'relu': (positive, z > 0), 'silu': (z * s, s * (1 + z * (1 - s))),
            'parametric_softplus:10': (np.logaddexp(0, 10 * z) / 10, expit(10 * z)),
            'elu': (np.where(z > 0, z, np.expm1(z)), np.where(z > 0, 1, np.exp(z))),
            'smoothrelu': (np.where(z > 0, z - np.log1p(beta * positive) / beta, 0), beta * positive / (
                1 + beta * positive))}.items():
        np.testing.assert_allclose(found[name][0], value, atol=1e-5)
        np.testing.assert_allclose(found[name][1], slope, atol=1e-5)


# The hardest images

def test_the_hardest_images_are_recognised_ones_that_fall_first(subject, honest):
    shown = report.hardest_images(subject(), honest, 4)
    # Of the images that fall at 2 and at 4 the nearer ones first; image 10 is not recognised at all.
    assert [one['title'].split('.png')[0] for one in shown] == ['0', '1', '2', '3']
    for one, k in zip(shown, range(4)):
        epsilon = 2 if BREAKING[k] <= 2 else 4
        assert one['adv_title'].endswith('at epsilon {}'.format(epsilon))
        assert np.abs(one['adv'] - one['image']).max() == pytest.approx(epsilon, abs=1e-3)
        assert one['adv_title'].startswith(['one', 'nought'][k % 2])
