"""A checkpoint trained on other classes: which weights are loaded, which begin anew, which stay, and at which rate the
last layer learns."""
import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import layers
import main
import nets
import weights.flags
from image_folders import make_noise_folder
from settings import recipes
from settings.resolve import resolve
from small_runs import BATCH, LEAN, MAIN, STEPS, differing, mpirun, read_json, variables
from test_card import write_headers
from test_identity import SHAPES, SINGH_SHAPES
from test_main import refusal
from test_training import Crash, crash_before
from training.freezing import names_to_freeze
from training.optimizers import OPTIMIZERS, is_of_optimizer, make_optimizer
from weights.find import open_checkpoint, read_checkpoint
from weights.flags import judged_by_averages
from weights.identity import AVERAGE, is_of_training
from weights.match import LoadWeights, Tuning

NEW = 'wxyz'  # classes
HEAD = {'linear/W', 'linear/b'}
ATTACKED = ['--batch', str(BATCH), '--attack-iter', '1', '--eval-attack-iter', '1']
FROZEN = re.compile('conv0/|group0/')
TUNED = ['--new-classifier', '--recipe', 'fine-tune', *ATTACKED, '--freeze-until', 'group0', '--classifier-rate', '3',
         '--moving-average-decay', '0.9', '--no-moving-average-ramp', '--epochs', '2']


def run(*flags):
    with tf.Graph().as_default():
        main.main([str(flag) for flag in flags])


def parsed(*flags):
    return main.parse_args([str(flag) for flag in flags])


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Images of the new classes."""
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'train': 11, 'val': 4}, NEW)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Log directory of a run with averages, on three other classes."""
    folder = tmp_path_factory.mktemp('runs') / 'base'
    run('--arch', 'CifarResNet', '-d', '8', '--input-size', '8', *LEAN, '--batch', BATCH, '--logdir', folder,
        '--num-classes', '3', '--epochs', '1', '--moving-average-decay', '0.5', '--base-lr', '1', '--activation-name',
        'mish')
    return folder


@pytest.fixture(scope='module')
def tuned(base, data, tmp_path_factory):
    """Log directory of a fine-tuning of it."""
    folder = tmp_path_factory.mktemp('runs') / 'tuned'
    run('--load', base, *TUNED, '--data', data, '--logdir', folder)
    return folder


def network_of(values):
    return {name: value for name, value in values.items() if not is_of_training(name)}


# What is loaded

def test_the_network_is_the_checkpoints_and_the_classes_are_those_of_the_data(base, data, tuned):
    args = parsed('--load', base, '--new-classifier', '--data', data)
    assert (args.arch, args.depth, args.input_size, args.activation_name) == ('CifarResNet', 8, 8, 'mish')
    assert args.num_classes == 4
    said = read_json(tuned / 'model-{}.network.json'.format(2 * STEPS))
    assert said['classes'] == list(NEW) and said['flags']['num_classes'] == 4
    assert (said['flags']['activation_name'], said['flags']['recipe']) == ('mish', 'fine-tune')


@pytest.fixture(scope='module')
def untouched(base, tmp_path_factory):
    """Variables behind three steps at a rate of 0, from the checkpoint and from none."""
    folder = tmp_path_factory.mktemp('runs')
    still = [*LEAN, '--base-lr', '0', '--epochs', '1', '--batch', BATCH, '--num-classes', '4',
             '--moving-average-decay', '0.5']
    run('--load', base, '--new-classifier', *still, '--logdir', folder / 'loaded')
    run('--arch', 'CifarResNet', '-d', '8', '--input-size', '8', *still, '--logdir', folder / 'scratch')
    log = (folder / 'loaded' / 'log.log').read_text()
    return [variables(folder / name, STEPS) for name in ('loaded', 'scratch')], log


def test_all_but_the_last_layer_are_the_checkpoints_averages_bit_for_bit(base, untouched):
    stored, (loaded, _) = read_checkpoint(str(base)), untouched[0]
    names = [name for name in network_of(stored) if name + '/Momentum' in stored and name not in HEAD]
    assert len(names) == 3 * 7
    for name in names:
        assert loaded[name].tobytes() == stored[name + AVERAGE].tobytes() != stored[name].tobytes(), name
        assert loaded[name + AVERAGE].tobytes() == loaded[name].tobytes()


def test_the_last_layer_is_that_of_a_run_without_a_checkpoint_bit_for_bit(untouched):
    loaded, scratch = untouched[0]
    for name in HEAD:
        assert loaded[name].tobytes() == scratch[name].tobytes() == loaded[name + AVERAGE].tobytes()
    assert loaded['linear/W'].shape == (64, 4) and loaded['linear/W'].std() > 0
    assert loaded['conv0/W'].tobytes() != scratch['conv0/W'].tobytes()


def test_a_line_says_which_weights_were_taken_and_what_is_new(untouched):
    line, = (line for line in untouched[1].splitlines() if 'new for these classes' in line)
    assert re.search("weights +moving averages of '.*base'; new for these classes: linear/W, linear/b$", line)


@pytest.mark.parametrize('words, averages', [
    ([], None), (['--moving-average-decay=0.5'], True), (['--moving-average-decay', '0'], False)])
def test_a_checkpoint_or_its_release_says_by_what_it_is_judged(sess, monkeypatch, words, averages):
    monkeypatch.setattr(weights.flags, 'checkpoint_words', lambda load: ['--arch=ViT', *words, '--num-classes', '3'])
    assert judged_by_averages('X') is averages
    for name in ('W', 'W' + AVERAGE):
        tf.get_variable(name, initializer=0.0)
    init = LoadWeights('X', {'W': np.float32(3), 'W' + AVERAGE: np.float32(4)}, tuning=Tuning(averages=averages))
    init._setup_graph()
    init._run_init(sess)
    assert {float(sess.run(v)) for v in tf.global_variables()} == {3 if averages is False else 4}


@pytest.mark.parametrize('stored, found', [
    ({'body/W': 3}, 3), ({'body/W': 3, 'body/W' + AVERAGE: 4}, 4), ({'body/W' + AVERAGE: 4}, 4),
    ({'body/W': 3, 'other/W': 2, 'other/W' + AVERAGE: 2}, 3)])
@pytest.mark.parametrize('fresh', ['other/W|head/W', None])
def test_weights_are_taken_where_there_are_not_averages_of_all(sess, stored, found, fresh):
    """``other`` is an earlier last layer, of another shape."""
    names = ['body/W', *(['head/W'] if fresh else ['other/W'] if 'other/W' in stored else [])]
    for name in names:
        for suffix in ('', AVERAGE, '/RMSProp'):
            tf.get_variable(name + suffix, initializer=7.0)
    sess.run(tf.global_variables_initializer())
    init = LoadWeights('X.npz', {k: np.float32(v) for k, v in stored.items()}, tuning=Tuning(fresh))
    init._setup_graph()
    init._run_init(sess)
    values = {v.op.name: float(sess.run(v)) for v in tf.global_variables()}
    assert values['body/W'] == values['body/W' + AVERAGE] == found and values['body/W/RMSProp'] == 7
    assert not fresh or set(values[name] for name in values if name.startswith('head')) == {7}


def test_a_file_of_pytorchs_begins_a_network_of_other_classes(torch_path, tmp_path):
    path = torch_path('full_model.pth')  # with averages
    run('--load', path, '--new-classifier', '--recipe', 'fine-tune', *LEAN, '--base-lr', '0', '--epochs', '1',
        '--batch', '2', '--num-classes', '3', '--input-size', '64', '--steps-per-epoch', '1', '--logdir',
        tmp_path / 'run')
    stored, found = open_checkpoint(path), variables(tmp_path / 'run', 1)
    names = [name for name in network_of(found) if not name.startswith('head/fc/')]
    assert len(names) > 20
    for name in names:
        assert found[name].tobytes() == np.float32(stored[name + AVERAGE]).tobytes(), name
    assert found['head/fc/weight'].shape[1:] == (3,)
    assert read_json(tmp_path / 'run' / 'model-1.network.json')['flags']['activation_name'] == 'gelu_erf'


@pytest.mark.parametrize('row', [row for row in SHAPES if not row.startswith('efficientnet-bL')] + list(SINGH_SHAPES))
def test_the_classifier_of_each_family_is_what_has_the_number_of_classes(row):
    shapes = SHAPES.get(row) or SINGH_SHAPES[row]
    arch = next(arch for arch, entry in nets.ARCHITECTURES.items() if _tells(entry, shapes))
    assert {name for name, shape in shapes.items() if 1000 in shape} == {
        name for name in shapes if re.fullmatch(nets.ARCHITECTURES[arch].classifier, name)}


def _tells(entry, shapes):
    try:
        return entry.identity.tell(shapes) is not None
    except (KeyError, ValueError):
        return False


def test_a_cifar_networks_is_linear(base):
    names = network_of(variables(base, STEPS))
    assert {name for name in names if re.fullmatch(nets.ARCHITECTURES['CifarResNet'].classifier, name)} == HEAD


# What is not trained

def test_frozen_variables_stay_to_the_last_bit_and_others_move(base, tuned):
    stored, first, last = read_checkpoint(str(base)), *(variables(tuned, n * STEPS) for n in (1, 2))
    kept = [name for name in network_of(last) if FROZEN.match(name)]
    assert len(kept) == 3 * 5  # of which two of each batch norm are its statistics
    for name in kept:
        assert stored[name + AVERAGE].tobytes() == first[name].tobytes() == last[name].tobytes(), name
        assert last[name + AVERAGE].tobytes() == last[name].tobytes(), name
    moved = set(network_of(last)) - set(kept)
    assert moved <= set(differing(first, last)) and 'group1/block0/conv1/bn/mean/EMA' in moved


def test_frozen_variables_have_no_slots(tuned):
    slots = {name.rpartition('/')[0] for name in variables(tuned, STEPS) if is_of_optimizer(name)}
    assert HEAD < slots and 'group1/block0/conv1/bn/gamma' in slots
    assert not [name for name in slots if FROZEN.match(name)]


def test_frozen_variables_do_not_decay(tuned):
    last = variables(tuned, 2 * STEPS)
    squares = [0.5 * np.square(value.astype(float)).sum() for name, value in last.items()
               if name.endswith('/W') and not FROZEN.match(name)]
    assert read_json(tuned / 'stats.json')[-1]['l2_regularize_loss'] == pytest.approx(5e-4 * sum(squares), rel=0.02)


@pytest.mark.parametrize('trained, kept', [(('gamma', 'beta'), False), (('beta',), False), ((), True)])
@pytest.mark.parametrize('ranks', [None, tf.identity])
def test_a_frozen_batch_norm_has_its_statistics_in_training(sess, trained, kept, ranks):
    """As NumPy has it; and whether it updates them."""
    x = np.random.RandomState(0).normal(3, 2, [4, 5, 5, 2]).astype(np.float32)
    style = layers.Style(data_format='NHWC', training=True, activation='relu', sum_over_ranks=ranks)

    def getter(getter, name, *args, **kwargs):
        kwargs['trainable'] = kwargs['trainable'] and name.rpartition('/')[2] in trained
        return getter(name, *args, **kwargs)
    with tf.variable_scope('', custom_getter=getter):
        y = layers.batch_norm(tf.constant(x), 'bn', style)
    for v, value in zip(tf.global_variables(), ([1.5, 2], [3, 4], [5, 6], [7, 8])):
        v.load(np.float32(value), sess)
    mean, variance = ((np.float64([5, 6]), np.float64([7, 8])) if kept else
                      (x.mean((0, 1, 2), np.float64), x.astype(float).var((0, 1, 2))))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * [1.5, 2] + [3, 4]
    np.testing.assert_allclose(sess.run(y), expected, rtol=1e-4, atol=1e-4)
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == (0 if kept else 2)


@pytest.mark.slow
def test_other_ways_to_compute_a_step_leave_them_alone_too(base, tmp_path):
    """A step on constant data; the same one, as no batch norm sees a part of the batch."""
    flags = ['--load', base, '--recipe', 'fine-tune', *LEAN, '--steps-per-epoch', '1', '--epochs', '1',
             '--batch', BATCH, '--freeze', 'conv0|bn', '--base-lr', '1', '--attack-iter', '1']
    found = []
    for number, more in enumerate(((), ('--recompute', '--accumulate', '2', '--sync-batch-norm'))):
        run(*flags, *more, '--logdir', tmp_path / str(number))
        found.append(variables(tmp_path / str(number), 1))
    stored = read_checkpoint(str(base))
    for name, value in network_of(found[0]).items():
        if re.search('conv0|bn', name):
            assert value.tobytes() == found[1][name].tobytes() == stored[name + AVERAGE].tobytes(), name
        else:
            assert np.abs(value - stored[name + AVERAGE]).max() > 1e-4, name
            np.testing.assert_allclose(found[1][name], value, rtol=1e-3, atol=1e-5, err_msg=name)


# The last layer's rate

def numpy_steps(name, start, gradients, rate, decay):
    """The optimizers' formulas, in float64; decay is of the gradient (momentum, rmsprop) or of the weight (adamw)."""
    w, m, s = np.float64(start), 0.0, {'rmsprop': 1.0}.get(name, 0.0)
    for step, g in enumerate(gradients, 1):
        if name != 'adamw':
            g = g + decay * w
        if name == 'momentum':
            m = 0.9 * m + g
            w = w - rate * (g + 0.9 * m)
        elif name == 'rmsprop':
            s = 0.9 * s + 0.1 * g * g
            m = 0.9 * m + rate * g / np.sqrt(s + 1e-3)
            w = w - m
        else:
            m, s = 0.9 * m + 0.1 * g, 0.95 * s + 0.05 * g * g
            w = w - rate * decay * w - rate * m / (1 - 0.9 ** step) / (np.sqrt(s / (1 - 0.95 ** step)) + 1e-8)
    return w


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_the_last_layer_has_its_rate_with_every_optimizer(sess, name):
    start, gradients = np.float32([1, -2, 3]), np.random.RandomState(0).normal(0, 1, [4, 2, 3]).astype(np.float32)
    of_step = tf.placeholder(tf.float32, [2, 3])
    body, head = (tf.get_variable(each, initializer=start) for each in ('conv0/W', 'linear/W'))
    optimizer = make_optimizer(name, SimpleNamespace(classifier_rate=3.0), 0.25, '/W$', 'linear/(W|b)')
    step = optimizer.apply_gradients([(of_step[0], body), (of_step[1], head)])
    sess.run(tf.global_variables_initializer())
    for each in gradients:
        sess.run(step, {of_step: each})
    rate = 0.1  # INITIAL_LEARNING_RATE
    for v, number, factor in ((body, 0, 1), (head, 1, 3)):
        np.testing.assert_allclose(sess.run(v), numpy_steps(name, start, gradients[:, number], factor * rate, 0.25),
                                   rtol=1e-5, atol=1e-6, err_msg=v.op.name)
    others = [v.op.name for v in tf.global_variables() if v not in (body, head)]
    assert all(is_of_training(other) for other in others), others


def test_it_reaches_a_run(tuned):
    assert read_json(tuned / 'run.json')['classifier_rate'] == 3
    args = parsed('--classifier-rate', '3', '--arch', 'EfficientNet', '--fake')
    assert resolve(args).update.classifier_rate == 3


# A run that goes on

@pytest.mark.slow
def test_a_run_that_crashed_goes_on_by_its_own_command_as_if_uninterrupted(base, tuned, data, tmp_path, monkeypatch):
    command = ['--load', base, *TUNED, '--data', data, '--logdir', tmp_path / 'run', '--resume-if-any']
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(patch, STEPS + 2)
        run(*command)
    run(*command)
    assert differing(variables(tuned, 2 * STEPS), variables(tmp_path / 'run', 2 * STEPS)) == []


@pytest.mark.parametrize('changed, said', [
    (('--freeze-until', 'group1'), 'freeze_until group0, now it is group1'),
    (('--freeze', 'bn'), 'freeze None, now it is bn'),
    (('--classifier-rate', '2'), 'classifier_rate 3.0, now it is 2.0')])
def test_a_run_goes_on_with_its_own_flags_alone(capsys, base, tuned, data, changed, said):
    command = ['--load', base, *TUNED, '--data', data, '--logdir', tuned, '--resume-if-any', *changed]
    assert said in refusal(capsys, lambda flags: run(*flags), command)


# What is refused

NAMES = ['conv0/W', 'conv0/bn/gamma', 'group0/block0/conv1/W', 'group0_denoise/conv/W', 'group1/block0/conv1/W',
         'linear/W', 'linear/b']


@pytest.mark.parametrize('flags, count', [
    (dict(freeze='bn'), 1), (dict(freeze='^group0/'), 1), (dict(until='conv0'), 2), (dict(until='group0'), 3),
    (dict(until='group0/block0/'), 3), (dict(until='group0_denoise'), 4), (dict(until='group1'), 5),
    (dict(until='conv0', freeze='linear/b'), 3)])
def test_a_layer_and_all_before_it_or_what_an_expression_finds(flags, count):
    assert len(names_to_freeze(NAMES, **flags)) == count
    if 'freeze' not in flags:
        assert names_to_freeze(NAMES, **flags) == set(NAMES[:count])
        # EfficientNet's have a scope before all.
        inside = ['b0/' + name for name in NAMES]
        assert names_to_freeze(inside, until=flags['until']) == names_to_freeze(inside, until='b0/' + flags['until'])


@pytest.mark.parametrize('flags, said', [
    (dict(freeze='gruop0'), r"--freeze 'gruop0': in the name of no variable that is trained; near: group0"),
    (dict(freeze='mean/EMA'), r"--freeze 'mean/EMA': in the name of no variable"),
    (dict(until='group3'), r"--freeze-until 'group3': the network has no such layer; near: group.*group"),
    (dict(until='grou'), r'no such layer; near: group'), (dict(until='42'), r'no such layer; near: conv0, group0'),
    (dict(freeze='.'), r"--freeze '.': all 7 variables of the network, from conv0/W to linear/b, and none would be"),
    (dict(until='linear'), r"--freeze-until 'linear': all 7 variables"),
    (dict(until='group1', freeze='lin'), r"--freeze 'lin' and --freeze-until 'group1': all 7 variables")])
def test_what_freezes_nothing_or_everything_is_refused_with_what_is_near(flags, said):
    with pytest.raises(ValueError, match=said):
        names_to_freeze(NAMES, **flags)


@pytest.mark.parametrize('flags, said', [
    (['--freeze-until', 'gruop1'], "--freeze-until 'gruop1': the network has no such layer; near: group1"),
    (['--freeze', '('], "--freeze: '(' is no regular expression: missing )"),
    (['--freeze', 'linear'], "--freeze 'linear' and --new-classifier: the last layer, linear/W, linear/b, would"),
    (['--starting-epoch', '2'], '--starting-epoch 2: with --new-classifier the steps begin anew'),
    (['-d', '20'], '--depth 20: '), (['--classifier-rate', '0'], '0 is not above 0')])
def test_a_mistake_is_a_line_before_anything_is_written(capsys, base, data, tmp_path, flags, said):
    command = ['--load', base, '--new-classifier', *ATTACKED, '--data', data, '--logdir', tmp_path / 'x']
    assert said in refusal(capsys, lambda flags: run(*flags), [*command, *flags])
    assert not (tmp_path / 'x').exists()


def test_without_a_checkpoint_there_is_nothing_to_begin_from(capsys):
    line = refusal(capsys, main.parse_args, ['--new-classifier', '--fake'])
    assert '--new-classifier needs --load CHECKPOINT' in line


@pytest.mark.parametrize('flag', [['--new-classifier', '--load', 'X'], ['--classifier-rate', '2']])
def test_a_network_whose_last_layer_is_not_known_is_refused(capsys, monkeypatch, flag):
    other = dataclasses.replace(nets.ARCHITECTURES['CifarResNet'], classifier=None)
    monkeypatch.setitem(nets.ARCHITECTURES, 'Other', other)
    assert '{}: it is not known which variables'.format(flag[0]) in refusal(
        capsys, main.parse_args, ['--arch', 'Other', '--fake', *flag])


@pytest.mark.parametrize('flags, said', [
    ([], 'are not among the 3 known classes'), (['--num-classes', '4'], '--num-classes 4: '),
    (['--num-classes', '4', '--ignore-checkpoint-flags'], 'give --arch CifarResNet -d 8 --num-classes 3')])
def test_other_classes_without_the_flag_are_refused_by_its_name(capsys, base, data, tmp_path, flags, said):
    line = refusal(capsys, lambda flags: run(*flags), ['--load', base, *ATTACKED, '--data', data,
                                                       '--logdir', tmp_path / 'x', *flags])
    assert said in line and '--new-classifier' in line


# The recipe

@pytest.mark.parametrize('arch', nets.ARCHITECTURES)
def test_the_recipe_leaves_every_network_as_its_own_has_it(arch):
    own, tuned = parsed('--arch', arch, '--fake'), parsed('--arch', arch, '--fake', '--recipe', 'fine-tune')
    for name in ('activation_name', 'padding', 'batch_norm_momentum', 'batch_norm_epsilon', 'input_scaling',
                 'augmentation', 'input_size'):
        assert getattr(own, name) == getattr(tuned, name), name
    assert (tuned.optimizer, tuned.base_lr, tuned.batch) == ('momentum', 0.01, 64)


def test_the_recipe_leaves_a_published_network_as_its_release_has_it(tmp_path):
    path = write_headers(tmp_path / 'R152.npz', SHAPES['fair_ResNet-152'])
    args = parsed('--load', path, '--new-classifier', '--recipe', 'fine-tune', '--fake', '--num-classes', '5')
    assert (args.depth, args.activation_name, args.padding, args.targeted) == (152, 'relu', 'same', False)
    assert args.weight_decay == recipes.RECIPES['fine-tune'].weight_decay and args.num_classes == 5


# Several ranks

@pytest.mark.slow
def test_ranks_train_the_same_and_leave_the_same(base, tmp_path):
    ended = mpirun(2, MAIN, '--load', base, '--new-classifier', '--recipe', 'fine-tune', '--fake', '--epochs',
                   '1', '--steps-per-epoch', '3', '--num-classes', '4', '--freeze-until', 'group0', '--classifier-rate',
                   '3', '--batch', '4', '--attack-iter', '1', '--accumulate', '2', '--sync-batch-norm',
                   '--moving-average-decay', '0.9', '--logdir', tmp_path / 'run', cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    stored, found = read_checkpoint(str(base)), variables(tmp_path / 'run', 3)
    for name, value in network_of(found).items():
        if FROZEN.match(name):
            assert value.tobytes() == found[name + AVERAGE].tobytes() == stored[name + AVERAGE].tobytes(), name
        elif name not in HEAD:
            assert value.tobytes() != stored[name + AVERAGE].tobytes(), name
    assert found['linear/W'].shape == (64, 4)
    command = ['--load', base, '--new-classifier', '--freeze-until', 'gruop0', '--fake', '--logdir', 'other']
    ended = mpirun(2, MAIN, *command, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.count('near: group0') == 1 and not (tmp_path / 'other').exists()
