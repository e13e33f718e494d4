"""The networks and attackers that settings ask for, and sessions with weights in them."""
import dataclasses

import tensorflow.compat.v1 as tf

import nets
from attacks.pgd import NoOpAttacker
from attacks.registry import KINDS
from ranks.sessions import session_config
from training.step.mixing import make_stage
from weights.match import load_into, match_variables


def make_attacker(attack, num_classes, seed):
    """The attacker of an attack (``settings.attack.Attack``): of its kind, or none at all for 0 steps.

    Raises:
        ValueError: there is no such version of AutoAttack, or not for this norm or number of classes.
    """
    return NoOpAttacker() if attack.num_iter == 0 else KINDS[attack.kind].make(attack, num_classes, seed)


def make_evaluation_attackers(settings):
    """What ``--eval`` attacks with, one attacker for each threat model; see ``make_attacker``.

    Args:
        settings (Settings).
    """
    attack = settings.evaluation_attack
    attacks = [dataclasses.replace(attack, **model._asdict()) for model in settings.evaluation.threat_models]
    return [make_attacker(each, settings.network.num_classes, settings.run.seed) for each in attacks or [attack]]


def make_evaluation_attacker(settings):
    """That of a program that judges under one threat model.

    Raises:
        ValueError: as ``make_attacker``; several are asked for.
    """
    if settings.evaluation.threat_models:
        raise ValueError('--threat-models: there is one threat model here; type --norm and --attack-epsilon')
    attacker, = make_evaluation_attackers(settings)
    return attacker


def make_training_model(settings, rank, untrained=frozenset()):
    """The network of a training's settings, with its attacker and losses.

    Args:
        untrained (frozenset): see ``training.freezing``.
    """
    attack, update = settings.training_attack, settings.update
    return nets.build(
        settings, rank=rank, attacker=make_attacker(attack, settings.network.num_classes, settings.run.seed),
        attack_gradient=attack.gradient, attack_precision=attack.precision, update_gradient=update.update_gradient,
        update_precision=update.precision or 'float32', label_smoothing=update.label_smoothing,
        weight_decay=update.weight_decay, optimizer_name=update.optimizer, update=update, accumulate=update.accumulate,
        untrained=untrained, classifier=nets.ARCHITECTURES[settings.network.arch].classifier,
        batch_stage=make_stage(update, settings.network.num_classes))


def matched(args, values):
    """The current graph's variables with a checkpoint's weights, or their averages; see ``match_variables``.

    Raises:
        ValueError: the checkpoint does not fit the network.
    """
    return match_variables(tf.global_variables(), values, args.load, averages=args.moving_average_decay > 0)


def open_session(ranks, pairs):
    """A session on the current graph with ``pairs`` of (variable, array) in it; see ``matched``."""
    session = tf.Session(config=session_config(ranks))
    load_into(session, pairs)
    return session
