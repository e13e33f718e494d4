"""What a command says of itself before it begins: to its user what it works on, to its log every flag."""
import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

import nets
from data.digits import NAME as DIGITS
from evaluation.results import threat_model
from machine import programs
from machine.devices import resolve_data_format
from ranks.cores import threads_for
from ranks.terminal import row, say
from settings import recipes
from smooth_activations import can_compile
from training.about import in_words, update_in_words
from training.page import PAGE


def print_recipe(args):
    """Log every resolved flag, the recipe's own first, and say what has been decided without one."""
    named = recipes.names()
    logger.info('Recipe {}: {}'.format(args.recipe, ', '.join(
        '{}={}'.format(n, getattr(args, n)) for n in named)))
    logger.info('Flags: ' + ', '.join('{}={}'.format(n, v) for n, v in sorted(vars(args).items()) if n not in named))
    logger.info('Under attack the network computes in {}, {}, with {}'.format(
        args.attack_precision or 'float32', resolve_data_format(args.data_format),
        'compiled activations' if can_compile() and not args.xla else "activations of TensorFlow's ops"))
    for note in args.notes:
        say(note)


def say_training(args, ranks, data, validation, attacker, folder, start):
    """Say what is trained on what, with which attack, by whom, and where it is written.

    Args:
        data (TrainingData). validation (ImageSet or RecordSet): None for a training without evaluation.
        attacker (Attacker): of the training. folder (str): log directory. start (Start).
    """
    say(row('network', '{}, {} classes, {size} x {size} pixels; recipe {}'.format(
        _network(args), args.num_classes, args.recipe, size=args.input_size)))
    say(row('data', '{}, {:,} images, {}'.format(_data(args), data.num_images, data.origin)))
    say(row('attack', in_words(attacker, args.attack_precision)))
    if args.update_precision != 'float32':
        say(row('update', update_in_words(args.update_precision)))
    if validation:
        say(row('judged', '{:,} images, clean and under PGD-{}, epsilon {:g}, {}'.format(
            len(validation.files), args.eval_attack_iter, args.eval_attack_epsilon,
            'each epoch' if args.eval_every == 1 else 'every {} epochs'.format(args.eval_every))))
    say(row('machine', '{}, {} images a step'.format(_machine(ranks), args.batch)))
    say(row('length', '{} epoch{} of {:,} steps'.format(args.epochs, 's' * (args.epochs > 1), args.steps_per_epoch)))
    if start.everything:
        say(row('goes on', 'after step {:,}, in epoch {}'.format(start.step, start.epoch)))
    say(row('written to', folder))
    say(row('', '{} in it shows the run in a browser'.format(PAGE)))


def say_evaluation(args, ranks, dataset, attackers):
    """Say what is judged on what, and under which threat models.

    Args:
        dataset (ImageSet or RecordSet). attackers (list of Attacker).
    """
    say(row('network', '{}, {size} x {size} pixels'.format(_network(args), size=args.input_size)))
    say(row('data', '{}, {:,} images{}'.format(
        _data(args), len(dataset.files), ' of --subset {}'.format(args.subset) if args.subset else '')))
    for attacker in attackers:
        say(row('attack', in_words(attacker, args.attack_precision)))
        if attacker.parts:
            say(row('', '{epsilon_of_unit_images:.4g} for images in [0, 1]; verdict: {}'.format(
                attacker.verdict, **threat_model(attacker))))
    say(row('machine', '{}, {} images a batch'.format(_machine(ranks), args.batch)))


def _network(args):
    return ', '.join([nets.network_name(args), args.activation_name] + (['of ' + args.load] if args.load else []))


def _data(args):
    return 'constant data' if getattr(args, 'fake', False) else args.data or DIGITS


def _machine(ranks):
    gpus = tf.config.list_physical_devices('GPU')
    if gpus:
        what = tf.config.experimental.get_device_details(gpus[ranks.gpu]).get('device_name', 'a GPU')
    else:
        threads = threads_for(ranks)
        what = 'the CPU in {} thread{}'.format(threads, 's' * (threads > 1))
    return '1 process, on {}'.format(what) if ranks.size == 1 else '{} ranks, each on {}'.format(ranks.size, what)


def say_idle_gpus(ranks, beside=''):
    """Say how to use all GPUs of the machine, where this is the only process and uses one of several (SAT's release
    judges with all of them in one process). ``beside``: what several ranks need."""
    gpus = len(tf.config.list_physical_devices('GPU'))
    if ranks.size == 1 and gpus > 1:
        say('1 of {0} GPUs is used; for all of them type:\n  mpirun -np {0} -bind-to none {1}{2}'.format(
            gpus, programs.to_type(), beside))
