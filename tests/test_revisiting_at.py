"""The recipe revisiting-at: its values, AdamW, and whole trainings, against the published program's numbers."""
import math
import os
import signal

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
import tiny_cnn
from adv_model import AdvImageNetModel
from attacks.apgd import APGD
from ranks.launched import Ranks
from ranks.terminal import keep_log
from seeds import BATCH_STAGE, LAYER_SHIFT, image_seeds, layer_seed, stage_seeds
from settings import recipes
from settings.attack import Attack
from settings.resolve import resolve
from small_runs import BATCH, MAIN, STEPS, differing, mpirun, read_json, variables
from test_main import refusal
from training import schedules
from training.callbacks import FeedTrainingStep
from training.inputs import local_input
from training.optimizers import OPTIMIZERS, make_optimizer
from training.optimizers.decay import DecoupledDecay
from training.resume import Start
from training.run import run_training
from training.step.mixing import smoothed, with_reversed
from training.stopping import StopSignal
from weights.find import saved_steps
from weights.identity import AVERAGE, is_of_training
from weights.match import LoadWeights

RAT = recipes.RECIPES['revisiting-at']


@pytest.fixture(scope='module')
def facts(load_json):
    return load_json('rat/training.json')


# The learning rate

@pytest.mark.parametrize('key, epochs, warmup', [
    ('lr1e-3_epochs300_peak20', 300, 20), ('lr1e-3_epochs50_peak10', 50, 10), ('lr1e-3_epochs50_peak20', 50, 20)])
def test_the_rate_at_the_start_of_an_epoch_is_the_published_program_s(facts, key, epochs, warmup):
    recipe = RAT.but(epochs=epochs, warmup_epochs=warmup)
    for epoch, expected in facts['lr_schedule'][key].items():
        for steps, batch in ((1, 8), (100, 640), (1252, 4096)):
            rate = schedules.learning_rate(int(epoch) * steps, steps, batch, recipe, 0.5)
            assert rate == pytest.approx(expected, rel=1e-9), epoch


@pytest.mark.parametrize('epoch', [0, 19, 20, 150, 299])
def test_within_an_epoch_the_rate_goes_along_a_straight_line(facts, epoch):
    first, last = (schedules.learning_rate((epoch + more) * 8, 8, 640, RAT, 0.0) for more in (0, 1))
    for step in range(9):
        rate = schedules.learning_rate(epoch * 8 + step, 8, 640, RAT, 0.0)
        assert rate == pytest.approx(first + (last - first) * step / 8, rel=1e-9)


def test_a_warm_up_that_ends_within_an_epoch_meets_the_cosine_there():
    own = RAT.but(epochs=6, warmup_epochs=1.5, base_lr=1.0, lr_cosine_to=0.0)
    rates = [schedules.learning_rate(step, 10, 64, own, 0.0) for step in range(61)]
    assert max(rates) == rates[15] == 1.0 and rates[60] == 0
    assert rates[14] < 1 and all(before > after for before, after in zip(rates[15:], rates[16:]))
    assert rates[40] == pytest.approx(0.5 * (1 + math.cos(math.pi * 2.5 / 4.5)))


def test_a_run_that_ends_in_its_warm_up_has_rates_too():
    own = RAT.but(epochs=2)
    rates = [schedules.learning_rate(step, 10, 64, own, 0.0) for step in range(21)]
    assert rates == sorted(rates) and all(map(math.isfinite, rates))


# AdamW

def numpy_adamw(value, gradients, rates, decay):
    """PyTorch's formula, in float64."""
    m = v = np.zeros_like(value)
    for t, (gradient, rate) in enumerate(zip(gradients, rates), 1):
        value = value * (1 - rate * decay)
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient ** 2
        value = value - rate / (1 - 0.9 ** t) * m / (np.sqrt(v / (1 - 0.95 ** t)) + 1e-8)
    return value


@pytest.mark.parametrize('size', [1.0, 1e-8, 1e-10])  # where the number added to the root weighs as much, and all
def test_adamw_is_numpy_s(sess, size):
    names, random = ('block/weight', 'block/bias'), np.random.default_rng(0)
    start = random.standard_normal([2, 7])
    gradients, rates = size * random.standard_normal([5, 2, 7]), 0.01 * random.random(5)
    weights = [tf.get_variable(name, initializer=tf.constant(value, tf.float32)) for name, value in zip(names, start)]
    optimizer = make_optimizer('adamw', None, 0.05, 'weight$')
    given = tf.placeholder(tf.float32, [2, 7])
    step = optimizer.apply_gradients(zip(tf.unstack(given), weights))
    rate, = (v for v in tf.global_variables() if v.op.name == 'learning_rate')
    sess.run(tf.global_variables_initializer())
    for number, gradient in enumerate(gradients):
        rate.load(rates[number], sess)
        sess.run(step, {given: gradient})
    for decay, value, first, of_all in zip((0.05, 0.0), sess.run(weights), start, gradients.swapaxes(0, 1)):
        np.testing.assert_allclose(value, numpy_adamw(first, of_all, rates, decay), rtol=2e-6)
    assert isinstance(optimizer, DecoupledDecay) and OPTIMIZERS['adamw'].decoupled
    kept = {v.op.name for v in tf.global_variables()} - {*names, 'learning_rate'}
    assert kept == {'beta1_power', 'beta2_power', *(name + slot for name in names for slot in ('/AdamW', '/AdamW_1'))}
    assert all(map(is_of_training, kept))


# Six steps of the published program, by the whole training path

class TinyModel(AdvImageNetModel):
    image_shape, num_classes, channels = 16, 10, 'RGB'
    weight_decay_variables = r'(?<!bias)$'

    def network(self, image):
        x = ((image + 1) / 2 - 0.5) * 0.5
        for name, stride in (('conv1', 1), ('conv2', 2), ('conv3', 2)):
            shape = dict(tiny_cnn.LAYERS)[name]
            kernel = tf.get_variable(name + '/weight', [shape[2], shape[3], shape[1], shape[0]])
            x = tf.nn.conv2d(x, kernel, stride, [[0, 0], [1, 1], [1, 1], [0, 0]])
            x = tf.tanh(x + tf.get_variable(name + '/bias', shape[:1]))
        x = tf.reduce_mean(x, axis=[1, 2])
        return tf.matmul(x, tf.get_variable('fc/weight', [32, 10])) + tf.get_variable('fc/bias', [10])


def in_our_layout(name, value):
    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
    return name.replace('.', '/'), value


class Batches:
    """Batch k: images 16 k to 16 k + 15, modulo 64; in place of a training stream."""

    def __init__(self):
        images, self.label = tiny_cnn.images()
        self.image = np.round(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]

    def batch(self, number):
        rows = slice(16 * (number % 4), 16 * (number % 4) + 16)
        return self.image[rows], self.label[rows]


class Enough(Exception):
    """Six steps are done."""


@pytest.fixture
def six_steps(graph, tmp_path, monkeypatch):
    """(rates, losses, values of all variables by name) of the fixture's steps."""
    rates, losses, values = [], [], {}
    before_run = FeedTrainingStep._before_run

    def watch(self, context):
        if self.global_step == 6:
            values.update(context.session.run({v.op.name: v for v in tf.global_variables()}))
            raise Enough()
        rates.append(float(values_of(context.session, 'learning_rate')))
        asked = before_run(self, context)
        return asked._replace(fetches=['xentropy-loss:0'])

    def values_of(session, name):
        return session.run(next(v for v in tf.global_variables() if v.op.name == name))
    monkeypatch.setattr(FeedTrainingStep, '_before_run', watch)
    monkeypatch.setattr(FeedTrainingStep, '_after_run', lambda _, context, run: losses.append(float(run.results[0])))

    def mixed_labels(image, label, seeds):
        return image, with_reversed(smoothed(label, 10, 0.1), 0.7)
    args = main.parse_args([
        '--fake', '--recipe', 'revisiting-at', '--attack-epsilon', '8', '--epochs', '5', '--warmup-epochs', '1',
        '--base-lr', '0.01', '--steps-per-epoch', '4', '--batch', '16', '--logdir', str(tmp_path / 'run')])
    settings = resolve(args)
    model = TinyModel(attacker=APGD(2, 8.0), batch_stage=mixed_labels, optimizer_name='adamw', update=settings.update,
                      weight_decay=settings.update.weight_decay)
    keep_log(str(tmp_path / 'run'))
    first = dict(in_our_layout(*pair) for pair in tiny_cnn.parameters().items())
    with StopSignal(()) as signals, pytest.raises(Enough):
        run_training(model, settings, Ranks(), local_input(Batches(), 0), None, lambda k: None, list('0123456789'),
                     str(tmp_path / 'run'), Start(1, 0, None, False), LoadWeights('tiny', first), signals,
                     dict(vars(args), ranks=1))
    return rates, losses, values


def test_six_steps_are_the_published_program_s(six_steps, fixture_path, facts):
    expected = np.load(fixture_path('rat/train_steps.npz'))
    rates, losses, values = six_steps
    assert facts['train_steps']['steps'] == 6
    np.testing.assert_allclose(rates, expected['lr'], rtol=1e-6)
    np.testing.assert_allclose(losses, expected['loss'], rtol=2e-5)
    parts = tiny_cnn.parameters()
    moved = {'ours': [], 'theirs': []}
    for name, first in parts.items():
        first, final, average = (in_our_layout(name, value)[1] for value in (
            first, expected['final/' + name], expected['ema/' + name]))
        kept = slice(None, None, 4 if name in ('conv2.weight', 'conv3.weight') else 1)  # output channels of the fixture
        ours, ours_average = (values[name.replace('.', '/') + suffix][..., kept] for suffix in ('', AVERAGE))
        # A step of AdamW goes by a gradient's sign where its size hardly counts, and rounding may decide that.
        assert ours.shape == final.shape and np.mean(np.abs(ours - final) > 1e-5) < 0.005, name
        np.testing.assert_allclose(ours_average, average, atol=1e-6)
        moved['ours'].append((ours_average - first[..., kept]).ravel())
        moved['theirs'].append((average - first[..., kept]).ravel())
    # Each by some 1e-5, of which the last digits of weights leave little; all together by as much.
    ours, theirs = (np.concatenate(each).astype(np.float64) for each in moved.values())
    assert ours @ theirs / (theirs @ theirs) == pytest.approx(1, abs=0.02) and np.abs(theirs).max() > 5e-6


# The recipe by its flags

def parsed(*argv):
    return main.parse_args(['--recipe', 'revisiting-at', *argv])


def test_the_recipe_has_the_values_of_the_published_command():
    settings = resolve(parsed())
    assert settings.training_attack == Attack(kind='apgd', num_iter=2, epsilon=4.0, step_size=8.0, targeted=False)
    assert settings.evaluation_attack == Attack(num_iter=10, epsilon=4.0, step_size=1.0, targeted=False)
    update, schedule, run = settings.update, settings.schedule, settings.run
    assert (update.label_smoothing, update.mixup, update.cutmix, update.random_erasing) == (0.1, 0.8, 1.0, 0.25)
    assert (update.optimizer, update.weight_decay) == ('adamw', 0.05)
    assert (schedule.epochs, schedule.base_lr, schedule.warmup_epochs) == (300, 1e-3, 20)
    assert (run.moving_average_decay, run.moving_average_ramp, settings.data.batch) == (0.9999, False, 80)


def test_other_epochs_have_the_published_program_s_own_warm_up():
    assert [parsed(*argv).warmup_epochs for argv in (
        ['--epochs', '300'], ['--epochs', '50'], ['--epochs', '50', '--warmup-epochs', '20'])] == [20, 10, 20]
    assert main.parse_args(['--epochs', '50']).warmup_epochs == 5


def test_a_run_that_ends_in_its_warm_up_says_so():
    said = '--warmup-epochs 10: the rate does not come to --base-lr within 5 epochs'
    assert said in parsed('--epochs', '5').notes
    for argv in (['--epochs', '11'], ['--epochs', '5', '--warmup-epochs', '2']):
        assert not [note for note in parsed(*argv).notes if 'warmup' in note]
    assert main.parse_args(['--epochs', '2']).notes == ()


def test_other_recipes_are_what_they_were():
    settings = resolve(main.parse_args([]))
    assert settings.training_attack.kind == 'pgd' and settings.data.batch == 32
    assert (settings.update.mixup, settings.update.cutmix, settings.update.random_erasing) == (0, 0, 0)
    assert settings.run.moving_average_ramp


@pytest.mark.parametrize('argv, kind, lengths, watched', [
    (['--attack-epsilon', '8'], 'apgd', (2, 8.0, 16.0), (8.0, 1.0)),
    (['--norm', 'L2', '--attack-epsilon', '510'], 'apgd', (2, 510.0, 1020.0), (510.0, 127.5)),
    (['--norm', 'L1', '--attack-epsilon', '19125', '--attack-iter', '3'], 'apgd', (3, 19125.0, 19125.0),
     (19125.0, 4781.25)),
    (['--attack', 'pgd'], 'pgd', (2, 4.0, 1.0), (4.0, 1.0)), (['--attack', 'fgsm'], 'fgsm', (1, 4.0, 4.0), (4.0, 1.0)),
    (['--attack', 'pgd', '--attack-iter', '1', '--attack-step-size', '5'], 'pgd', (1, 4.0, 5.0), (4.0, 1.0)),
    (['--attack-iter', '0'], 'apgd', (0, 4.0, 1.0), (4.0, 1.0))])
def test_attacks_of_a_training(argv, kind, lengths, watched):
    settings = resolve(parsed(*argv))
    training, judging = settings.training_attack, settings.evaluation_attack
    assert (training.kind, training.num_iter, training.epsilon, training.step_size) == (kind, *lengths)
    assert (judging.kind, judging.norm, judging.epsilon, judging.step_size) == ('pgd', training.norm, *watched)


@pytest.mark.parametrize('argv, said', [
    (['--attack', 'autoattack'], '--attack autoattack: judges, image by image, and trains nothing; choose from pgd'),
    (['--attack-step-size', '2'], '--attack apgd has no --attack-step-size'),
    (['--targeted'], '--attack apgd has no --targeted'),
    (['--prob-start-from-clean', '0.2'], '--attack apgd has no --prob-start-from-clean'),
    (['--norm', 'L2'], '--norm L2 needs --attack-epsilon'),
    (['--attack', 'momentum', '--attack-iter', '0'], '--attack momentum without steps'),
    (['--random-erasing', '1.5'], '--random-erasing'), (['--mixup', '-1'], '--mixup'),
    (['--eval', '--mixup', '1'], '--mixup is for training')])
def test_what_the_recipe_s_attack_and_options_cannot_be(capsys, argv, said):
    assert said in refusal(capsys, main.parse_args, ['--recipe', 'revisiting-at', *argv])


# Whole runs

SMALL = ['--recipe', 'revisiting-at', '--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '2',
         '--batch', str(BATCH), '--warmup-epochs', '1']


@pytest.fixture(scope='module')
def train(data):
    """function(log directory, flags): train with the recipe, two epochs unless told otherwise."""
    def start(folder, *flags):
        with tf.Graph().as_default():
            images = [] if '--fake' in flags else ['--data', data, '--eval-attack-iter', '2']
            main.main(SMALL + images + ['--logdir', str(folder), '--epochs', '2', *flags])
    return start


@pytest.fixture(scope='module')
def finished(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished') / 'run'
    train(folder, '--moving-average-decay', '0.25')
    return folder


def test_a_run_keeps_moments_and_averages_and_is_watched_by_pgd(finished):
    values = variables(finished, 2 * STEPS)
    assert {'conv0/W/AdamW', 'conv0/W/AdamW_1', 'beta1_power', 'beta2_power', 'conv0/W' + AVERAGE} <= values.keys()
    assert values['beta1_power'] == pytest.approx(0.9 ** (1 + 2 * STEPS), rel=1e-5)
    run = read_json(finished / 'run.json')
    assert (run['attack'], run['mixup'], run['cutmix'], run['random_erasing']) == ('apgd', 0.8, 1.0, 0.25)
    for entry in read_json(finished / 'stats.json'):
        assert {'eval-2step-top1-error', 'eval-ema-2step-top1-error', 'attack_success_rate'} < entry.keys()
        assert entry['l2_regularize_loss'] == 0


def test_averages_have_no_ramp(train, tmp_path):
    train(tmp_path / 'run', '--fake', '--steps-per-epoch', '1', '--epochs', '3', '--moving-average-decay', '0.75')
    first, second, third = (variables(tmp_path / 'run', step) for step in (1, 2, 3))
    for before, after in ((first, second), (second, third)):
        average = 0.75 * before['conv0/W' + AVERAGE] + 0.25 * after['conv0/W']
        np.testing.assert_allclose(after['conv0/W' + AVERAGE], average, rtol=1e-5, atol=1e-7)


class Crash(Exception):
    """What ends a run in the middle of an epoch."""


def crash():
    raise Crash()


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize('end, how, flags', [
    (terminate, SystemExit, ['--moving-average-decay', '0.25']),
    (crash, Crash, ['--moving-average-decay', '0.25']),
    (crash, Crash, ['--accumulate', '2', '--norm', 'L1', '--attack-epsilon', '500'])])
def test_a_run_that_ended_in_an_epoch_is_after_resuming_as_if_uninterrupted(train, finished, tmp_path, monkeypatch, end,
                                                                            how, flags):
    if 'L1' in flags:
        finished = tmp_path / 'whole'
        train(finished, *flags)
    before_run = FeedTrainingStep._before_run

    def ending(self, context):
        if self.global_step == STEPS + 1:
            end()
        return before_run(self, context)
    with monkeypatch.context() as patch, pytest.raises(how):
        patch.setattr(FeedTrainingStep, '_before_run', ending)
        train(tmp_path / 'run', *flags)
    assert saved_steps(str(tmp_path / 'run')) == [STEPS] + [STEPS + 2] * (end is terminate)
    train(tmp_path / 'run', '--resume', *flags)
    whole, resumed = (variables(folder, 2 * STEPS) for folder in (finished, tmp_path / 'run'))
    assert differing(whole, resumed) == []
    assert 'conv0/W' in differing(variables(finished, STEPS), whole)


@pytest.mark.slow
def test_two_ranks_end_after_resuming_as_if_uninterrupted(tmp_path):
    fake = [MAIN, *SMALL, '--fake', '--steps-per-epoch', '2', '--moving-average-decay', '0.25', '--logdir']
    for more in (['runs/whole', '--epochs', '2'], ['runs/two', '--epochs', '1'], ['runs/two', '--epochs', '2',
                                                                                  '--resume']):
        ended = mpirun(2, *fake, *more, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    whole, resumed = (variables(tmp_path / 'runs' / name, 4) for name in ('whole', 'two'))
    assert differing(whole, resumed) == []


@pytest.mark.parametrize('flags, said', [
    (['--cutmix', '0'], 'cutmix 1.0, now it is 0.0'), (['--attack', 'pgd'], 'attack apgd, now it is pgd'),
    (['--norm', 'L2', '--attack-epsilon', '4'], 'norm Linf, now it is L2'),
    (['--moving-average-ramp'], 'moving_average_ramp False, now it is True')])
def test_a_run_goes_on_with_its_own_flags_alone(capsys, train, finished, flags, said):
    typed = ['--resume', '--moving-average-decay', '0.25', *flags]
    assert said in refusal(capsys, lambda argv: train(finished, *argv), typed)


@pytest.mark.slow
def test_clean_weights_are_trained_on_under_attack_in_another_norm(train, tmp_path):
    clean, short = tmp_path / 'clean', ['--fake', '--steps-per-epoch', '1', '--epochs', '1']
    train(clean, *short, '--attack-iter', '0')
    assert 'attack_success_rate' not in read_json(clean / 'stats.json')[0]
    train(tmp_path / 'run', *short, '--load', str(clean), '--norm', 'L2', '--attack-epsilon', '100', '--base-lr', '0',
          '--lr-cosine-to', '0')
    loaded, tuned = variables(clean, 1), variables(tmp_path / 'run', 1)
    kept = [name for name in loaded if name + '/AdamW' in loaded]
    assert kept and not [name for name in kept if loaded[name].tobytes() != tuned[name].tobytes()]
    assert read_json(tmp_path / 'run' / 'run.json')['eval_attack_step_size'] == 2.5 * 100 / 10


@pytest.mark.slow
def test_basic_augmentation_has_hard_labels_and_no_noise(train, tmp_path):
    train(tmp_path / 'run', '--mixup', '0', '--cutmix', '0', '--random-erasing', '0', '--label-smoothing', '0',
          '--epochs', '1')
    assert read_json(tmp_path / 'run' / 'stats.json')[0]['xentropy-loss'] > 0


PATCHES = ['--input-size', '16', '--num-classes', '2', '--patch-size', '4', '--batch', str(BATCH), '--fake',
           '--steps-per-epoch', '2', '--epochs', '1', '--warmup-epochs', '0', '--logdir']


@pytest.mark.slow
@pytest.mark.parametrize('network, kept, lost', [
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst', '--blocks', '1,1', '--widths', '8,16'],
     ['stages/0/blocks/0/conv_dw/bias', 'head/fc/bias'],
     ['head/norm/weight', 'head/fc/weight']),
    (['--arch', 'ViT', '--model-name', 'vit-s', '--blocks', '1', '--widths', '16', '--heads', '2'],
     ['norm/weight', 'head/bias', 'blocks/0/norm1/weight'], ['pos_embed', 'head/weight'])],
    ids=['ConvNeXt', 'ViT'])
def test_networks_of_patches_train_by_default_with_the_recipe_and_its_decay(tmp_path, network, kept, lost):
    for name, decay in (('without', '0'), ('with', '1')):
        with tf.Graph().as_default():
            main.main([*network, *PATCHES, str(tmp_path / name), '--weight-decay', decay, '--base-lr', '1e-3'])
    without, with_decay = (variables(tmp_path / name, 2) for name in ('without', 'with'))
    assert read_json(tmp_path / 'with' / 'run.json')['recipe'] == 'revisiting-at'
    for name in kept + lost:
        # 0.002 of a weight's size in two steps, if it decays; what the others' decay changes in its steps is less.
        change = np.abs(without[name]).mean() - np.abs(with_decay[name]).mean()
        assert (change > 0.001 * np.abs(without[name]).mean()) == (name in lost), name


# Seeds

def test_seeds_of_a_batch_stage_are_nobody_else_s(sess):
    seeds = image_seeds(5, 2 * 1000, np.arange(9))
    stage = sess.run([stage_seeds(seeds, purpose)[:, 0] for purpose in range(4)])
    layers = sess.run([layer_seed(seeds[0], layer)[0] for layer in (0, 127)])
    assert {int(first) for each in stage for first in each} == {(5 << 24) + 2000 + BATCH_STAGE}
    assert max(layers) < (5 << 24) + BATCH_STAGE and 2000 + BATCH_STAGE < 1 << 24 and 2000 < 1 << LAYER_SHIFT
    pairs = np.concatenate(sess.run([stage_seeds(seeds, purpose) for purpose in range(4)]))
    assert len(np.unique(pairs, axis=0)) == len(pairs)
