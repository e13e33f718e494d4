"""What a GPU computes, it has kernels for: the graphs of main.py's commands, built as on a machine with a GPU.

`make test-gpu-graph` has the CUDA build of TensorFlow that this needs; a GPU it does not need, and nothing is run.
"""
import itertools
import types

import pytest
import tensorflow.compat.v1 as tf

import adv_model
import main
import nets
import smooth_activations
from adv_model import PRECISIONS
from analysis.noise import RandomNoise
from analysis.subject import Subject
from analysis.sweep import Plan
from attacks.autoattack import ensemble
from attacks.balls import BALLS, LinfBall
from attacks.parts import TARGETS
from attacks.registry import KINDS
from commands import training_data
from commands.training_data import TrainingData
from gpu_graphs import Machine
from gpu_kernels import fault, nodes_of
from image_folders import make_noise_folder
from native import smooth_ops
from ranks.launched import Ranks
from settings import attacking, sections
from settings.flags import typed
from settings.recipes import RECIPES
from settings.resolve import resolve
from training.inputs import ServedBatches, served_input

pytestmark = [pytest.mark.gpu_graph, pytest.mark.skipif(
    not tf.test.is_built_with_cuda(), reason='this TensorFlow knows no kernels of GPUs; type make test-gpu-graph')]

# --- the command lines whose graphs are looked at ---
SMALL = ('--arch', 'CifarResNet', '-d', '8')
SMALL_EFFICIENTNET = ('--arch', 'EfficientNet', '--width-coefficient', '0.25', '--depth-coefficient', '0.1')
OF_PATCHES = [('--arch', 'ConvNeXt', '--model-name', 'convnext-b-cvst', '--blocks', '1,1', '--widths', '32,64',
               '--patch-size', '2'),
              ('--arch', 'ViT', '--model-name', 'vit-m-cvst', '--blocks', '1', '--widths', '48', '--heads', '3',
               '--patch-size', '8')]
COMPUTED = [('--attack-precision', precision, *xla) for precision in PRECISIONS for xla in ((), ('--xla',))]


def trainings():
    """Flags of training; each graph has the evaluation's clean and attacked passes too."""
    for name in nets.ARCHITECTURES:
        yield from (('--arch', name, *computed) for computed in COMPUTED)
        yield '--arch', name, '--recompute'
        yield from (('--arch', name, '--update-precision', precision) for precision in PRECISIONS[1:])
    for precision in PRECISIONS:
        for way in ((), ('--accumulate', '2', '--recompute'), ('--sync-batch-norm',), ('--optimizer', 'adamw'),
                    ('--classifier-rate', '10'), ('--freeze', 'norm|bn'), ('--activation-name', 'smoothrelu')):
            yield (*SMALL, '--update-precision', precision, *way)
        for name in smooth_activations.NAMES:
            yield (*SMALL, '--attack-precision', precision, '--activation-name', name)
        for network, name in [*itertools.product(['relu'], smooth_activations.SLOPE_NAMES), ('smoothrelu', 'silu')]:
            yield (*SMALL, '--attack-precision', precision, '--activation-name', network,
                   '--attack-gradient', name, '--update-gradient', name)
    for network in SMALL, SMALL_EFFICIENTNET:
        for way in (['--accumulate', '2'], ['--accumulate', '2', '--recompute', '--use-fp16xla'], ['--sync-batch-norm'],
                    ['--targeted'], ['--untargeted', '--prob-start-from-clean', '0'], ['--attack-iter', '0'],
                    ['--label-smoothing', '0'], ['--weight-decay', '0'], ['--moving-average-decay', '0.999'],
                    ['--more-eval-attack-iter', '20,50'], ['--tf32'], ['--num-classes', '10'],
                    *(['--' + name.replace('_', '-'), choice] for name in ('optimizer', 'recipe', 'data_format')
                      for choice in choices(name))):
            yield (*network, *way)
    for way in (['--mixup', '1'], ['--cutmix', '1'], ['--random-erasing', '0.5'], ['--accumulate', '2'],
                *(['--attack', kind] for kind in KINDS if not KINDS[kind].no_training),
                *(['--norm', norm, '--attack-epsilon', '8', *computed] for norm in BALLS for computed in COMPUTED)):
        for recipe in ('sat', 'revisiting-at'):
            yield (*SMALL, '--recipe', recipe, *way)
    yield from ((*SMALL, '--padding', padding) for padding in choices('padding'))
    yield from ((*SMALL_EFFICIENTNET, '--input-scaling', scaling) for scaling in choices('input_scaling'))
    for network in OF_PATCHES:
        for way in (['--data-format', 'NHWC'], ['--accumulate', '2', '--recompute'], ['--input-scaling', 'imagenet']):
            yield (*network, *way)
        yield from ((*network, '--recipe', 'sat', *computed) for computed in COMPUTED)
        yield from ((*network, '--update-precision', precision, '--recompute') for precision in PRECISIONS[1:])
    yield from ((*SMALL, '--classifier-rate', '10', '--optimizer', name) for name in choices('optimizer'))
    for way in ((), ('--recompute',), ('--sync-batch-norm',)):
        yield from ((*network, '--freeze', 'norm|bn', *way) for network in (SMALL, SMALL_EFFICIENTNET))
        yield (*SMALL, '--freeze-until', 'group0', *way)
    yield (*SMALL_EFFICIENTNET, '--survival-prob', '1', '--dropout-rate', '0')
    yield '--arch', 'ResNet', '--group', '32', '--res2-bottleneck', '4'


def evaluations():
    """Flags of --eval: each network of every depth and size once, each attack in every way."""
    for name, architecture in nets.ARCHITECTURES.items():
        yield from (('--arch', name, '-d', str(depth)) for depth in architecture.depths)
        yield from (('--arch', name, '--model-name', size) for size in architecture.sizes)
    for attack, norm, target, early_stop, computed in itertools.product(
            KINDS, BALLS, TARGETS, ((), ('--early-stop',)), COMPUTED):
        flags = (*SMALL, '--attack', attack, '--norm', norm, '--attack-target', target, *early_stop, *computed)
        yield (*flags, '--attack-epsilon', '8')
    for version, norm in itertools.product((*ensemble.VERSIONS, ','.join(ensemble.ATTACKS)), BALLS):
        flags = (*SMALL, '--attack', 'autoattack', '--autoattack-version', version, '--norm', norm)
        yield (*flags, '--attack-epsilon', '8')
    yield (*SMALL, '--attack-iter', '0')


# What the flags leave as it is, and numbers that the same ops take.
NO_OTHER_OPS = set('''
    load new_classifier eval eval_directory batch ignore_checkpoint_flags logdir resume resume_if_any starting_epoch
    epochs steps_per_epoch keep_checkpoints base_lr lr_scaling warmup_epochs warmup_from lr_drop_epochs lr_decay_epochs
    lr_cosine_to moving_average_ramp eval_every stop_when_overfitting augment_name
    randaug_num_layers randaug_magnitude serve_timeout data_timeout data augmentation results_dir resume_eval
    allow_unreadable prediction_file prediction_format show track subset threat_models verbose
    seed input_size batch_norm_momentum batch_norm_epsilon attack_step_size eval_attack_iter eval_attack_epsilon
    eval_attack_step_size'''.split())
ELSEWHERE = {'fake', 'gradient_compression', 'serve_address', 'no_zmq_ops'}  # in tests of their own below
# ----------------------------------------------------


PARSER = main.get_parser()


def choices(name):
    """Those of a flag of main.py."""
    return next(list(action.choices) for action in PARSER._actions if action.dest == name)


def allowed(mode, flags):
    """Whether main.py takes flags of attacks together."""
    try:
        attacking.check_kind(PARSER.parse_args(['--eval'] * (mode == 'eval') + list(flags)), KINDS,
                             RECIPES['sat'])
    except ValueError:
        return False
    return True


COMMANDS = [('train', flags) for flags in trainings()] + [
    ('eval', flags) for flags in evaluations() if allowed('eval', flags)]
COMMANDS += [('eval-directory', SMALL)]


def spell(command):
    return ' '.join([command[0], *command[1]])


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return str(make_noise_folder(tmp_path_factory.mktemp('images'), {'train': 4, 'val': 4}, 'ab'))


@pytest.fixture(scope='module', autouse=True)
def kernels_of_xla():
    """TensorFlow knows XLA's kernels when it has compiled a program."""
    with tf.Graph().as_default(), tf.Session() as session:
        session.run(tf.xla.experimental.compile(lambda x: [x + 1], [tf.constant(1.0)]))


@pytest.fixture
def machine(monkeypatch, tmp_path, images):
    return Machine(monkeypatch, tmp_path, images)


@pytest.fixture
def faults(record_property):
    """function(gpu_graphs.Graph) -> what is wrong with its ops, in words; they are counted for the end of the run."""
    def find(built):
        nodes = list(nodes_of(built.graph, built.attack_ops))
        record_property('looked at', {
            'graphs': 1, 'ops': len(nodes), 'ops of attacks': sum(n.in_attack for n in nodes),
            'ops that XLA compiles': sum(n.compiled for n in nodes)})
        return list(filter(None, map(fault, nodes)))
    return find


@pytest.mark.parametrize('command', COMMANDS, ids=spell)
def test_a_gpu_has_a_kernel_for_each_op(machine, faults, command):
    mode, flags = command
    built = machine.build(mode, *flags)
    layouts = {op.get_attr('data_format').decode() for op in built.graph.get_operations() if op.type == 'Conv2D'}
    assert layouts == {flags[flags.index('--data-format') + 1] if '--data-format' in flags else 'NCHW'}
    assert not faults(built)


@pytest.fixture
def two_ranks(monkeypatch):
    """The first of two ranks: this process, which never waits for the other."""
    import horovod.tensorflow as hvd
    hvd.init()
    monkeypatch.setattr(hvd, 'size', lambda: 2)
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
    return Ranks(0, 2, 0, 2)


OF_RANKS = [('train', ('--fake', *network, *way, '--gradient-compression', compression))
            for network in (SMALL, SMALL_EFFICIENTNET) for compression in choices('gradient_compression')
            for way in ([], ['--sync-batch-norm'], ['--sync-batch-norm', '--accumulate', '2', '--recompute'])]
OF_RANKS += [('eval', SMALL)]


@pytest.mark.parametrize('command', OF_RANKS, ids=spell)
def test_a_gpu_has_a_kernel_for_each_op_of_several_ranks(machine, faults, two_ranks, command):
    mode, flags = command
    built = machine.build(mode, *flags, ranks=two_ranks)
    types_there = {op.type for op in built.graph.get_operations()}
    assert ('HorovodAllreduce' if mode == 'train' else 'HorovodAllgather') in types_there
    assert not faults(built)


@pytest.mark.parametrize('receive, op', [([], 'ZMQPull'), (['--no-zmq-ops'], 'QueueDequeueV2')])
def test_a_gpu_has_a_kernel_for_each_op_behind_a_data_server(machine, faults, monkeypatch, receive, op):
    lease = types.SimpleNamespace(address='ipc://nowhere', job=types.SimpleNamespace(key='key'),
                                  description={'batch': 32, 'input_size': 32})
    batches = ServedBatches(lease, timeout=60, num_classes=2)
    monkeypatch.setattr(training_data, '_served_data', lambda args, *_: TrainingData(
        32, ['a', 'b'], 0, lambda step: served_input(batches, not args.no_zmq_ops)))
    built = machine.build('train', *SMALL, '--serve-address', 'ipc://nowhere', *receive)
    assert {op, 'Unstage'} <= {op.type for op in built.graph.get_operations()}
    assert not faults(built)


ANALYSES = Plan(epsilon=4, step_size=1, num_iter=10)


@pytest.mark.parametrize('attacker', [
    pytest.param(attacker, id=name) for name, attacker in (
        ('pgd', ANALYSES.pgd()), ('single step', ANALYSES.single_step), ('black box', ANALYSES.black_box(1000)),
        ('noise', RandomNoise(10, 4)))])
def test_a_gpu_has_a_kernel_for_each_op_of_the_analyses(machine, faults, attacker):
    args = main.parse_args(machine.flags('eval', *SMALL))
    subject = Subject('network', nets.build(resolve(args)), 4, make_session=lambda: None)
    subject.under(attacker)
    assert not faults(machine.of(subject.graph))


def test_every_flag_that_may_change_a_graph_is_in_some_command():
    parser = main.get_parser()
    seen = {}
    for mode, flags in COMMANDS:
        for name, value in typed(parser, list(flags)).items():
            seen.setdefault(name, set()).add(value)
    assert {option.dest for option in sections.options()} - set(seen) == NO_OTHER_OPS | ELSEWHERE
    for action in parser._actions:
        if action.choices and action.dest not in NO_OTHER_OPS | ELSEWHERE:
            assert seen[action.dest] == set(action.choices), action.dest


# ----- the check itself: what is planted is found -----

def planted(machine, faults, mode='eval', *flags):
    """The faults of a graph that had none."""
    return faults(machine.build(mode, *SMALL, *flags))


def in_a_step(monkeypatch, change):
    """Do something to the gradient of every step of an attack."""
    steepest = LinfBall.steepest
    monkeypatch.setattr(LinfBall, 'steepest', lambda ball, gradient, adv: steepest(ball, change(gradient), adv))


def test_one_of_our_cpu_ops_is_found(machine, faults, monkeypatch):
    monkeypatch.setattr(smooth_activations, 'can_compile', lambda: True)
    found = planted(machine, faults)
    assert any(text.startswith("SmoothActivationGrad 'evaluation/pgd/attack_loop/") and
               text.endswith('(T: float32) in an attack in a loop: no kernel for GPU') for text in found), found
    found = planted(machine, faults, 'train')
    assert any(text.startswith('SmoothActivationGrad ') and text.endswith(' (T: float32): no kernel for GPU')
               for text in found)


def test_one_of_our_cpu_ops_is_found_in_what_xla_compiles(machine, faults, monkeypatch):
    in_a_step(monkeypatch, lambda g: smooth_ops.load_op_library().smooth_activation(x=g, function='silu', alpha=1.0))
    found, = planted(machine, faults, 'eval', '--xla')
    assert found == ("SmoothActivation 'evaluation/pgd/attack_loop/SmoothActivation' (T: float32) in an attack in a "
                     'loop: no kernel for XLA_GPU_JIT')


def wide_loss(logits, label):
    """The cross entropy in float64, of which TensorFlow has a kernel for CPUs alone; of float32 it has one for GPUs."""
    return tf.cast(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=tf.cast(logits, tf.float64), labels=label),
                   tf.float32)


def test_a_float64_op_without_a_kernel_is_found_in_an_attack(machine, faults, monkeypatch):
    of_attack = tf.nn.sparse_softmax_cross_entropy_with_logits
    monkeypatch.setattr(tf.nn, 'sparse_softmax_cross_entropy_with_logits', lambda logits, labels: tf.cast(
        of_attack(logits=tf.cast(logits, tf.float64), labels=labels), tf.float32))
    found = planted(machine, faults)
    name = "'evaluation/pgd/attack_loop/SparseSoftmaxCrossEntropyWithLogits/SparseSoftmaxCrossEntropyWithLogits'"
    assert ('SparseSoftmaxCrossEntropyWithLogits {} (T: float64, Tlabels: int32) in an attack in a loop: '
            'no kernel for GPU'.format(name)) in found


@pytest.mark.parametrize('accumulated', [[], ['--accumulate', '2']])
def test_a_float64_op_without_a_kernel_is_found_in_a_training_step(machine, faults, monkeypatch, accumulated):
    monkeypatch.setattr(adv_model, 'smoothed_cross_entropy', lambda logits, label, _: tf.reduce_mean(
        wide_loss(logits, label)))
    found = planted(machine, faults, 'train', *accumulated)
    assert len(found) == 1 + bool(accumulated)
    assert all(text.startswith("SparseSoftmaxCrossEntropyWithLogits '") and
               '(T: float64, Tlabels: int32)' in text and text.endswith('no kernel for GPU') for text in found)
    assert any('in a loop' in text for text in found) == bool(accumulated)


def test_float64_with_a_kernel_is_found_in_an_attack(machine, faults, monkeypatch):
    in_a_step(monkeypatch, lambda g: tf.cast(2 * tf.cast(g, tf.float64), tf.float32))
    assert ("Mul 'evaluation/pgd/attack_loop/mul' (T: float64) in an attack in a loop: float64, of which GPUs compute "
            'little') in planted(machine, faults)


def test_images_that_go_by_way_of_the_host_are_found(machine, faults, monkeypatch):
    in_a_step(monkeypatch, lambda g: tf.cast(2 * tf.cast(g, tf.int32), tf.float32))
    assert ("Mul 'evaluation/pgd/attack_loop/mul' (T: int32) in an attack in a loop: (?, 3, 32, 32), (?, 3, 32, 32) is "
            "in the host's memory") in planted(machine, faults)


def test_an_op_placed_on_the_host_is_found(machine, faults, monkeypatch):
    def on_the_host(g):
        with tf.device('/cpu:0'):
            return 2 * g
    in_a_step(monkeypatch, on_the_host)
    assert any("'evaluation/pgd/attack_loop/mul' (T: float32) in an attack in a loop: placed on /device:CPU:0" in text
               for text in planted(machine, faults))


def test_what_is_exempt_is_so_outside_of_loops_alone(machine, faults, monkeypatch):
    def watched(g):
        tf.summary.scalar('gradient', tf.reduce_sum(g))
        return g
    in_a_step(monkeypatch, watched)
    assert [text.split()[0] for text in planted(machine, faults)] == ['Const', 'ScalarSummary']


def test_ops_in_functions_are_found(machine, faults, monkeypatch):
    from tensorflow.python.framework import function

    @function.Defun(tf.float32, func_name='inner')
    def inner(x):
        return tf.cast(tf.cast(x, tf.float64) * 2, tf.float32)

    def call(g):
        y = inner(g)
        y.set_shape(g.shape)
        return y
    in_a_step(monkeypatch, call)
    assert any(text.startswith("Mul 'inner/mul' (T: float64)") for text in planted(machine, faults))
