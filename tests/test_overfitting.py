"""Whether a training overfits its attack: told by synthetic series of accuracies, of which it is known."""
import numpy as np
import pytest

from evaluation.verdicts import CLEAN
from settings.run import BACK, STOP
from training import trackers
from training.epochs import Epoch, Judged
from training.overfitting import CATASTROPHIC, SLOW, Figures, _least_fall, figures_of, judge, reaction

IMAGES = 10000


def series(robust, training=None, clean=None, images=IMAGES, by_itself=0.1, back={}):
    """Evaluations after each epoch; by default training accuracy rises and clean images are right as often."""
    training = training or [0.3 + 0.01 * number for number in range(len(robust))]
    clean = clean or [0.7] * len(robust)
    return [Figures(number + 1, images, c, r, r, t, by_itself, back.get(number + 1))
            for number, (r, t, c) in enumerate(zip(robust, training, clean))]


def found(history):
    """Kind and whether it begins, after each evaluation."""
    return [finding and (finding.kind, finding.begins) for finding in judge(history)]


def last(history):
    return judge(history)[-1]


# The published examples of Newcombe 1998, "Interval estimation for the difference between independent proportions",
# Table II, method 10: lower ends.
@pytest.mark.parametrize('before, now, low', [
    ((56, 70), (48, 80), 0.0524), ((9, 10), (3, 10), 0.1705), ((6, 7), (2, 7), 0.0582), ((5, 56), (0, 29), -0.0381),
    ((10, 10), (0, 20), 0.6791)])
def test_the_interval_of_a_difference_is_the_published_one(before, now, low):
    assert _least_fall(before[0] / before[1], before[1], now[0] / now[1], now[1]) == pytest.approx(low, abs=5e-5)


def test_the_interval_of_half_of_one_less_the_other_covers_what_it_says():
    random = np.random.default_rng(0)
    for p, q, n in ((0.4, 0.15, 300), (0.6, 0.02, 200), (0.9, 0.4, 1000)):
        falls = [_least_fall(b / n, n, a / n, n, 0.5) for b, a in zip(random.binomial(n, p, 2000),
                                                                     random.binomial(n, q, 2000))]
        assert np.mean(np.array(falls) > p / 2 - q) == pytest.approx(0.025, abs=0.012)


# Catastrophic

COLLAPSE = [0.2, 0.28, 0.31, 0.33, 0.03]


def test_a_collapse_under_pgd_while_the_training_attack_is_withstood_is_catastrophic():
    history = series(COLLAPSE, [0.3, 0.4, 0.45, 0.5, 0.78])
    assert found(history) == [None] * 4 + [(CATASTROPHIC, True)]
    finding = last(history)
    assert (finding.best.epoch, finding.now.epoch) == (4, 5)
    assert finding.in_words('PGD-10', 'PGD-1', False) == (
        'epoch 5: catastrophic overfitting: 3.0% under PGD-10, where epoch 4 had 33.0%, while 78.0% of the training '
        'images withstand PGD-1 (50.0% then)')


@pytest.mark.parametrize('history', [
    series(COLLAPSE, [0.3, 0.4, 0.45, 0.5, 0.2]),  # the training fails altogether
    series(COLLAPSE, clean=[0.7, 0.7, 0.7, 0.7, 0.05]),  # so do the clean images
    series([0.2, 0.28, 0.31, 0.33, 0.2]),  # it is no collapse
    series([0.1, 0.09, 0.01]),  # it gave all images one class, before it learnt
    series([0.6, 0.2], by_itself=0.6), series([0.004, 0.001], by_itself=0.001),
    series([0.6, 0.0], images=5), series([0.3]), []])
def test_what_is_no_catastrophic_overfitting(history):
    assert not any(judge(history))


def test_how_many_images_it_takes_depends_on_the_fall():
    assert last(series([0.6, 0.0], images=20)).kind == CATASTROPHIC
    assert last(series([0.6, 0.2], images=60)) is None
    assert last(series([0.6, 0.2], images=300)).kind == CATASTROPHIC


def test_it_is_said_once_and_again_when_it_comes_again():
    history = series([0.3, 0.0, 0.0, 0.29, 0.0], [0.4] * 5)
    assert found(history) == [None, (CATASTROPHIC, True), (CATASTROPHIC, False), None, (CATASTROPHIC, True)]


def test_a_gap_between_evaluations_changes_nothing():
    history = [each._replace(epoch=7 * each.epoch) for each in series(COLLAPSE)]
    assert last(history).kind == CATASTROPHIC and last(history).best.epoch == 28


def test_a_collapse_is_of_the_weights_and_not_of_their_averages():
    *before, end = series(COLLAPSE)
    assert last([*before, end._replace(chosen_by=0.34)]).kind == CATASTROPHIC


# Slow

# Rice, Wong and Kolter 2020, Fig. 1, roughly: the best epoch follows a fall of the rate.
FALL = [0.4, 0.405, 0.4, 0.41, 0.405, 0.52, 0.517, 0.51, 0.5, 0.49, 0.48, 0.472, 0.46, 0.45, 0.44]


def test_a_fall_below_the_best_in_two_evaluations_while_the_training_gains_is_slow_and_said_once():
    assert found(series(FALL)) == [None] * 12 + [(SLOW, True)] + [(SLOW, False)] * 2
    finding = judge(series(FALL))[12]
    assert finding.in_words('PGD-10', 'PGD-2', True) == (
        'epoch 13: slow overfitting: 46.0% under PGD-10 with the averaged weights, in the second evaluation below the '
        '52.0% of epoch 6, while 42.0% of the training images withstand PGD-2 (35.0% then)')


def test_it_is_not_slow_where_the_training_loses_too():
    assert last(series(FALL, [0.4] * 6 + [0.39] * 9)) is None


def test_one_evaluation_is_not_enough_and_a_new_best_one_ends_it():
    assert last(series(FALL[:7] + [0.44])) is None
    assert last(series(FALL + [0.53])) is None


def test_few_images_do_not_show_what_many_do():
    assert not any(judge(series(FALL, images=200)))
    assert last(series(FALL, images=2000)).kind == SLOW


def test_it_is_told_by_the_averages_of_the_weights_where_they_choose_the_best():
    history = [each._replace(chosen_by=0.4 + 0.01 * each.epoch) for each in series(FALL)]
    assert last(history) is None


def noisy(random, true, images, jump):
    """What evaluations find of true accuracies, which go up and down by ``jump`` beside."""
    moved = np.clip(np.array(true) + random.normal(0, jump, len(true)), 0.01, 0.99)
    return (random.binomial(images, moved) / images).tolist()


@pytest.mark.parametrize('images, jump', [(300, 0.0), (10000, 0.015), (10000, 0.03)])
def test_most_trainings_that_gain_and_waver_are_left_alone(images, jump):
    """Of 40 with 60 evaluations each; a plateau is where the best of many is one of luck. By the number of images
    alone all would be found."""
    random, wrong = np.random.default_rng(1), 0
    for _ in range(40):
        true = 0.4 - 0.3 * np.exp(-np.arange(60) / 8)
        history = series(noisy(random, true, images, jump), images=images)
        wrong += any(found(history))
    assert wrong <= 6


def test_a_fall_as_the_published_one_is_found_through_the_noise():
    """From 53% to 46%, after a hundred evaluations that rise to 45% and waver (Rice, Wong and Kolter 2020, Fig. 1)."""
    random, right = np.random.default_rng(2), 0
    before, after = 0.45 - 0.3 * np.exp(-np.arange(100) / 15), 0.46 + 0.07 * np.exp(-np.arange(100) / 30)
    for _ in range(10):
        accuracy = noisy(random, before, IMAGES, 0.012) + noisy(random, after, IMAGES, 0.003)
        kinds = found(series(accuracy, [0.3 + 0.003 * number for number in range(200)]))
        right += (SLOW, True) in kinds[100:130]
    assert right >= 9


# What becomes of it

def test_after_going_back_it_begins_anew():
    history = series([0.3, 0.0, 0.0], [0.4] * 3, back={2: 1})
    assert found(history) == [None, (CATASTROPHIC, True), (CATASTROPHIC, True)]
    history = series(FALL[:13] + [0.45, 0.45], back={13: 6})
    assert found(history)[12:] == [(SLOW, True), None, (SLOW, True)]


def test_what_a_run_does():
    finding = last(series(COLLAPSE))
    assert reaction(None, STOP, 4, {None}) is None and reaction(finding, None, 4, {None}) is None
    assert reaction(finding, STOP, 4, {None}) == STOP
    assert reaction(finding, BACK, 4, {None}) == BACK == reaction(finding, BACK, 4, {2, None})
    assert reaction(finding, BACK, 4, {4}) == STOP == reaction(finding, BACK, None, {None})
    done = finding._replace(now=finding.now._replace(went_back_to=4))
    assert reaction(done, STOP, 4, {4}) is None  # a resumed run has done it


def test_figures_are_those_of_the_epochs_that_were_judged_by_the_attack_that_decides():
    def judged(attack, error, averaged=False, images=100):
        return Judged(attack, averaged, images, 0, error, 0.0, None)

    def epoch(number, *evaluations, error=0.4, **more):
        return Epoch(number, number, 0.1, 1.0, error, None, True, None, evaluations, 1.0, 1.0, **more)
    whole = judged(CLEAN, 0.1), judged('10step', 0.5), judged('2step', 0.4), judged('10step', 0.25, True)
    epochs = [epoch(1, judged(CLEAN, 0.1), judged('5step', 0.5)), epoch(2, *whole, largest_class=0.2), epoch(3),
              epoch(4, *whole, error=None), epoch(5, judged(CLEAN, 0.1), judged('10step', 0.5, images=None)),
              epoch(6, *whole[:3], went_back_to=2)]
    assert figures_of(epochs, '10step', False) == [
        Figures(2, 100, 0.9, 0.5, 0.5, 0.6, 0.2, None), Figures(6, 100, 0.9, 0.5, 0.5, 0.6, 0.0, 2)]
    assert figures_of(epochs, '10step', True) == [Figures(2, 100, 0.9, 0.5, 0.75, 0.6, 0.2, None)]


def test_services_are_told_of_the_epoch_in_which_it_begins():
    epoch = Epoch(3, 9, 0.1, 1.0, 0.5, None, True, None, (), 1.0, None)
    told = trackers.figures(epoch._replace(overfitting=SLOW, went_back_to=2), 2)
    assert told == {**trackers.figures(epoch, 2), 'overfitting/slow': 1, 'overfitting/went_back_to_epoch': 2}
