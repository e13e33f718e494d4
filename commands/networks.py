"""The networks and attackers that settings ask for, and sessions with weights in them."""
import tensorflow.compat.v1 as tf

import nets
from attacks.ensemble import Ensemble
from attacks.gradient import FGSMAttacker, MomentumAttacker
from attacks.pgd import NoOpAttacker, PGDAttacker
from ranks.sessions import session_config
from weights.match import load_into, match_variables


def make_attacker(attack, num_classes, seed):
    """The attacker of a training or of its evaluations (``settings.attack.Attack``): PGD, or none for 0 steps."""
    if attack.num_iter == 0:
        return NoOpAttacker()
    return PGDAttacker(attack.num_iter, attack.epsilon, attack.step_size, targeted=attack.targeted,
                       num_classes=num_classes, prob_start_from_clean=attack.prob_start_from_clean, seed=seed,
                       xla=attack.xla)


def make_evaluation_attacker(settings):
    """What ``--eval`` attacks with: an attacker, an ``Ensemble``, or None for 0 steps.

    Args:
        settings (Settings).

    Raises:
        ValueError: there is no such version of AutoAttack, or not for this norm or number of classes.
    """
    attack, num_classes = settings.evaluation_attack, settings.network.num_classes
    if attack.kind == 'autoattack':
        from attacks.autoattack.ensemble import make_attackers
        return Ensemble('autoattack-{}-{}'.format(attack.version, attack.norm), attack.norm, attack.epsilon,
                        make_attackers(attack.version, attack.norm, attack.epsilon, num_classes))
    if attack.num_iter == 0:
        return None
    options = dict(norm=attack.norm, targeted=attack.targeted, least_likely=attack.target == 'least-likely',
                   num_classes=num_classes, seed=settings.run.seed, xla=attack.xla, early_stop=attack.early_stop)
    if attack.kind == 'fgsm':
        return FGSMAttacker(attack.epsilon, **options)
    attacker = {'pgd': PGDAttacker, 'momentum': MomentumAttacker}[attack.kind]
    return attacker(attack.num_iter, attack.epsilon, attack.step_size, **options)


def make_training_model(settings, rank):
    """The network of a training's settings, with its attacker and losses."""
    attack, update = settings.training_attack, settings.update
    return nets.build(
        settings, rank=rank, attacker=make_attacker(attack, settings.network.num_classes, settings.run.seed),
        attack_gradient=attack.gradient, attack_precision=attack.precision, update_gradient=update.update_gradient,
        label_smoothing=update.label_smoothing, weight_decay=update.weight_decay, optimizer_name=update.optimizer,
        accumulate=update.accumulate)


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
