"""The graphs of the steps that are exported, each from images of a fixed number to what its next run takes."""
import contextlib
import dataclasses
import types
from typing import Dict, NamedTuple

import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from adv_model import TRAINING_STEP
from attacks.attacker import Attacked
from attacks.autoattack.apgd import APGDAttacker
from attacks.autoattack.attacker import Victims
from attacks.autoattack.steps import STEPS as APGD_STEPS
from attacks.threat import no_target
from commands.command_line import parse_args
from commands.networks import make_training_model
from settings.resolve import resolve
from smooth_activations import tensorflow_ops_only


class Step(NamedTuple):
    """A graph of one step.

    inputs, results: {name: tensor}, of which each runs once a step. feeds: {result: the input that takes it in the next
    run}. passes: how often an image goes forward and back in an attack. trains: whether it then does for the weights.
    """
    inputs: Dict[str, tf.Tensor]
    results: Dict[str, tf.Tensor]
    feeds: Dict[str, str]
    passes: int
    trains: bool


def settings_of(flags, batch, precision, data_format, passes):
    """main.py's flags of a network, parsed, with those that are the same for all steps."""
    return parse_args(['--fake', '--batch', str(batch), '--attack', 'pgd', '--attack-iter', str(passes),
                       '--attack-epsilon', '4', '--attack-step-size', '4' if passes == 1 else '1',
                       '--attack-precision', precision, '--update-precision', precision, '--data-format', data_format,
                       *flags])


def training_step(model, args, passes):
    """Attack, forward and backward pass, the update of the weights and of the moving averages."""
    image = tf.placeholder(tf.uint8, [args.batch, *2 * [args.input_size], 3])
    label = tf.placeholder(tf.int32, [args.batch])
    with TowerContext('', is_training=True):
        cost = model.build_graph(image, label)
    optimizer = model.optimizer()
    update = optimizer.apply_gradients(optimizer.compute_gradients(cost))
    number = tf.get_default_graph().get_tensor_by_name(TRAINING_STEP + ':0')
    with tf.control_dependencies([update, *tf.get_collection(tf.GraphKeys.UPDATE_OPS)]):
        results = {'cost': tf.identity(cost), 'next_step': number + 1}
    return Step({'image': image, 'label': label, 'step': number}, results, {'next_step': 'step'}, passes, True)


def pgd_steps(model, args, passes):
    """Steps of PGD from a given point; where they come to is where the next run begins."""
    def attack(inputs, image, label, get_logits):
        start = inputs['start'] = tf.placeholder(tf.float32, image.shape)
        attacker = dataclasses.replace(model.attacker, start=lambda image, ball, seeds: start)
        return attacker.attack(image, label, get_logits).image
    return _attack(model, args, passes, attack)


def apgd_steps(model, args, passes):
    """A run of AutoAttack's APGD on the cross entropy from a given point; its best point is where the next begins."""
    attacker = APGDAttacker('apgd-ce', 'Linf', 4.0, args.num_classes, num_iter=passes - 1)

    def attack(inputs, image, label, get_logits):
        shape = image.shape.as_list()
        unit = (tf.reshape(image, [shape[0], -1]) + 1) / 2
        start = inputs['start'] = tf.placeholder(tf.float32, unit.shape)
        victims = Victims(unit, label, None, None, lambda point: get_logits(tf.reshape(2 * point - 1, shape)),
                          tuple(shape[1:]))
        steps = APGD_STEPS['Linf'](unit, attacker.radius, attacker.num_iter)
        return attacker.run(victims, None, steps, start).best
    return _attack(model, args, passes, attack)


def _attack(model, args, passes, attack):
    """``attack``: (inputs, image, label, get_logits) -> the point that the next run begins at; adds to inputs."""
    side = args.input_size
    image = tf.placeholder(tf.float32, [args.batch, side, side, 3] if model.data_format == 'NHWC' else
                           [args.batch, 3, side, side])
    inputs = {'image': image, 'label': tf.placeholder(tf.int32, [args.batch])}

    def once(image, truth, get_logits, seeds, lengths):
        get_logits(image)  # what a network that stands still makes of its weights is made here, not in the loop
        return Attacked(attack(inputs, image, truth, get_logits), no_target(truth), None)
    with TowerContext('', is_training=False):
        found = model.attack(types.SimpleNamespace(attack=once), image, inputs['label'], None,
                             precision=model.attack_precision).image
    return Step(inputs, {'adv': found}, {'adv': 'start'}, passes, False)


@contextlib.contextmanager
def _loops_as_functions():
    """Loops built inside are ops whose body is a function; others cannot be put into a function of TensorFlow's."""
    before = tf.control_flow_v2_enabled()
    tf.enable_control_flow_v2()
    try:
        yield
    finally:
        if not before:
            tf.disable_control_flow_v2()


# {name: (function, passes of an image in its attack)}
STEPS = {'train': (training_step, 1), 'pgd': (pgd_steps, 4), 'apgd': (apgd_steps, 4)}


def build(name, flags, batch, precision, data_format):
    """The ``Step`` of a name of ``STEPS`` in the current graph, and main.py's flags as parsed."""
    function, passes = STEPS[name]
    args = settings_of(flags, batch, precision, data_format, passes)
    with tensorflow_ops_only(), _loops_as_functions():
        return function(make_training_model(resolve(args), rank=0), args, passes), args
