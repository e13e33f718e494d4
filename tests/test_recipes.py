"""Learning rate and choice of evaluations, against tables written out by hand from the papers and releases."""
import math

import pytest

from settings import recipes
from training import schedules
from training.optimizers import OPTIMIZERS

FD, SAT, EFFICIENTNET = (recipes.RECIPES[name] for name in ('feature-denoising', 'sat', 'sat-efficientnet'))


def learning_rate(step, steps_per_epoch, total_batch, recipe):
    return schedules.learning_rate(step, steps_per_epoch, total_batch, recipe,
                                   OPTIMIZERS[recipe.optimizer].warmup_start)


def rate(epochs_done, total_batch, recipe, steps_per_epoch=100):
    """Learning rate of the step that starts when ``epochs_done`` epochs are complete."""
    return learning_rate(round(epochs_done * steps_per_epoch), steps_per_epoch, total_batch, recipe)


@pytest.mark.parametrize('epochs_done, expected', [
    (0, 0.1), (0.01, 0.103), (1, 0.4), (2.5, 0.85), (4.99, 1.597), (5, 1.6), (34.99, 1.6), (35, 0.16), (69.99, 0.16),
    (70, 0.016), (94.99, 0.016), (95, 0.0016), (109.99, 0.0016)])
def test_feature_denoising_on_128_gpus_warms_up_to_1_6_and_drops_after_35_70_95(epochs_done, expected):
    assert rate(epochs_done, 4096, FD) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('epochs_done, expected', [
    (0, 0.1), (1, 0.12), (4, 0.18), (5, 0.2), (29.99, 0.2), (30, 0.02), (59.99, 0.02), (60, 0.002), (89.99, 0.002),
    (90, 0.0002), (99.99, 0.0002)])
def test_sat_on_16_gpus_warms_up_to_0_2_and_drops_after_30_60_90(epochs_done, expected):
    assert rate(epochs_done, 512, SAT) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('total_batch, expected', [(1, 0.1 / 256), (64, 0.025), (128, 0.05), (256, 0.1)])
def test_small_batches_start_at_their_own_rate_without_warm_up(total_batch, expected):
    assert [rate(e, total_batch, SAT) for e in (0, 1, 5, 29.99)] == pytest.approx([expected] * 4, rel=1e-12)


def test_a_batch_between_multiples_of_256_has_the_rate_between():
    assert rate(10, 384, SAT) == pytest.approx(0.15, rel=1e-12)


def test_a_drop_comes_with_the_first_step_of_the_next_epoch_whatever_the_number_of_steps():
    for steps in (1, 3, 313, 5004):
        before, after = (learning_rate(30 * steps + k, steps, 256, SAT) for k in (-1, 0))
        assert (before, after) == pytest.approx((0.1, 0.01), rel=1e-12)


def test_warm_up_ends_with_its_last_epoch_s_last_step():
    rates = [learning_rate(step, 4, 512, SAT) for step in range(22)]
    assert rates == pytest.approx([0.1 + 0.1 * min(step, 20) / 20 for step in range(22)], rel=1e-12)


def test_base_rate_warm_up_and_drops_can_be_set():
    for step, warmup_epochs, expected in ((5, 1, 0.25), (5, 0, 0.4), (20, 1, 0.004)):
        own = SAT.but(base_lr=0.4, warmup_epochs=warmup_epochs, lr_drop_epochs=(1, 2))
        assert learning_rate(step, 10, 256, own) == pytest.approx(expected)


def test_the_rate_of_a_schedule_is_that_of_its_values_alone():
    own = SAT.but(optimizer='unheard of')
    for start, expected in ((0.05, [0.05, 0.125, 0.2]), (0.3, [0.2] * 3)):
        assert [schedules.learning_rate(step, 10, 512, own, start) for step in (0, 25, 50)] == pytest.approx(expected)


def test_a_schedule_of_another_shape_is_a_factor_more(monkeypatch):
    def half_after_the_first_epoch(step, steps_per_epoch, schedule):
        return 0.5 if step >= steps_per_epoch else 1.0
    monkeypatch.setattr(schedules, 'FACTORS', schedules.FACTORS + [half_after_the_first_epoch])
    own = SAT.but(warmup_epochs=0, lr_drop_epochs=(2,))
    assert [learning_rate(step, 10, 256, own) for step in (9, 10, 20)] == pytest.approx([0.1, 0.05, 0.005])


def test_drops_and_decay_can_be_had_together():
    own = SAT.but(warmup_epochs=0, lr_drop_epochs=(3,), lr_decay_epochs=2)
    assert [learning_rate(step, 10, 256, own) for step in (19, 20, 30, 40)] == pytest.approx(
        [0.1, 0.097, 0.0097, 0.009409])


def test_efficientnets_rate_is_that_of_the_original_program(load_json):
    original = load_json('efficientnet_lr.json')
    for step, expected in original['points']:
        # The original computes in float32.
        assert learning_rate(step, original['steps_per_epoch'], original['train_batch_size'],
                             EFFICIENTNET) == pytest.approx(expected, rel=5e-6)


def test_efficientnets_warm_up_starts_from_zero_whatever_the_batch():
    for batch in (32, 256, 4096):
        assert [rate(e, batch, EFFICIENTNET) for e in (0, 1, 2.5)] == pytest.approx(
            [0.016 * batch / 256 * part for part in (0, 0.2, 0.5)])


def test_the_rate_is_never_zero_after_the_first_step():
    for name, recipe in recipes.RECIPES.items():
        rates = [rate(e + 0.01, 32, recipe) for e in range(recipe.epochs)]
        assert min(rates) > 0 and all(map(math.isfinite, rates)), name


@pytest.mark.parametrize('epoch', [1, 10, 20, 50, 98, 99, 100])
def test_sat_judges_with_ten_steps_after_every_epoch(epoch):
    assert recipes.evaluation_steps(SAT.judged_also, 10, epoch, 100) == [10]


ALL_STEPS = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


@pytest.mark.parametrize('epoch, expected', [
    (1, [10]), (9, [10]), (10, [10, 100]), (19, [10]), (20, [10, 50, 100]), (30, [10, 100]), (40, [10, 50, 100]),
    (100, [10, 50, 100]), (105, [10]), (106, [10, 100]), (107, [10, 100]), (108, [10, 100]), (109, ALL_STEPS),
    (110, ALL_STEPS)])
def test_feature_denoising_judges_with_more_steps_on_round_epochs_and_at_the_end(epoch, expected):
    assert recipes.evaluation_steps(FD.judged_also, 10, epoch, 110) == expected


@pytest.mark.parametrize('epochs, expected', [
    (3, {1: [10, 100], 2: ALL_STEPS, 3: ALL_STEPS}),
    (12, {1: [10], 7: [10], 8: [10, 100], 9: [10, 100], 10: [10, 100], 11: ALL_STEPS, 12: ALL_STEPS}),
    (200, {104: [10], 106: [10], 195: [10], 196: [10, 100], 198: [10, 100], 199: ALL_STEPS, 200: ALL_STEPS})])
def test_the_last_feature_denoising_evaluations_begin_with_the_last_epochs_however_many_there_are(epochs, expected):
    assert {e: recipes.evaluation_steps(FD.judged_also, 10, e, epochs) for e in expected} == expected


def test_a_recipe_keeps_what_judges_it_in_another_one_made_of_it_and_that_is_no_option():
    other = FD.but(epochs=3)
    assert (other.judged_steps, other.judged_also, other.epochs) == (30, FD.judged_also, 3)
    assert not {'judged_steps', 'judged_also'} & {*other, *recipes.names()}
    assert recipes.evaluation_steps([recipes.Also((7, 3), every=2)], 5, 4, 9) == [3, 5, 7]


@pytest.mark.parametrize('recipe, steps', [('sat', 10), ('feature-denoising', 30), ('sat-efficientnet', 10)])
def test_an_evaluation_has_its_release_s_number_of_steps(recipe, steps):
    assert recipes.RECIPES[recipe].judged_steps == steps
