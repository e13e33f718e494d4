"""A robust checkpoint of another activation or norm, trained on for a tenth of the steps."""
import math

from studies.activations import BASE, arm_of, cell_of
from studies.cells import run_of
from studies.figures import bars
from studies.scales import AUTOATTACK
from studies.study import Arm, Claim, Column, Study

# Ours: the rate, and the warm-up, of training on.
_ON = ('--base-lr', '0.1', '--warmup-epochs', '0.2', '--ignore-checkpoint-flags')
_L1 = 'L1'
# Radius in L1: 12 of images in [0, 1] at 32 pixels and 75 at 224, as the benchmarks of AutoAttack and of "Revisiting
# Adversarial Training for ImageNet"; in pixel levels.
_RADIUS = {'small': 3060, 'full': 19125}
_NORMS = 'norms'


def _in_l1(scale):
    # Two steps of APGD, as "Revisiting Adversarial Training for ImageNet" trains in every norm.
    return ('--norm', 'L1', '--attack', 'apgd', '--attack-iter', '2', '--attack-epsilon', str(_RADIUS[scale.name]))


def _arms(scale):
    relu, silu = ('--activation-name', BASE), ('--activation-name', 'silu')
    l1 = _in_l1(scale)
    return [Arm(BASE, relu, 1), Arm('silu', silu, 1, BASE),
            Arm('relu then relu', (*relu, *_ON), 1, BASE), Arm('relu then silu', (*silu, *_ON), 1, BASE),
            Arm('silu a tenth', silu, 1, BASE), Arm('relu then relu in L1', (*relu, *_ON, *l1), 1, BASE),
            Arm('relu in L1 a tenth', (*relu, *l1), 1, BASE)]


def _judged(scale, cell):
    """Both norms at once, by APGD-CE and APGD-T."""
    job = scale._replace(version='apgd').autoattack(run_of(cell), ('--threat-models', 'Linf:{:g},L1:{}'.format(
        scale.epsilon, _RADIUS[scale.name])), _NORMS)
    # Each threat model has a radius of its own.
    return job._replace(words=_without(job.words, '--attack-epsilon'), passes=2 * job.passes)


def _without(words, flag):
    at = words.index(flag) if flag in words else len(words)
    return (*words[:at], *words[at + 2:])


def _cell(scale, arm, seed):
    name = '{}-transfer-{}-{}'.format(scale.name, arm.name.replace(' ', '-'), seed)
    if arm.name in (BASE, 'silu'):
        network = '{}-{}-{}'.format(scale.name, arm.name, seed)
        return scale.of_jobs(name, [_judged(scale, network)], [network])
    before = '{}-{}-{}'.format(scale.name, BASE, seed) if ' then ' in arm.name else None
    return scale.of_jobs(name, [_a_tenth(scale, arm.words, seed, before), _judged(scale, name)],
                         [before] if before else [])


def _a_tenth(scale, words, seed, before):
    """A training of a tenth of the steps."""
    in_epoch = scale.images // (scale.batch * scale.ranks)
    steps = round(scale.epochs * in_epoch / 10)
    epochs = math.ceil(steps / in_epoch)
    load = ('--load', run_of(before)) if before else ()
    job = scale.training((*words, *load, '--steps-per-epoch', str(round(steps / epochs))), seed, epochs)
    if 'apgd' in words:  # which has steps of its own
        job = job._replace(words=_without(job.words, '--attack-step-size'))
    return job._replace(passes=job.passes * steps / (epochs * in_epoch))


def _column(norm):
    def read(content):
        found = content['jobs'][_NORMS]['found']
        if norm is None:
            return found['clean']['top1_correct'] / found['num_images']
        each = next(each for each in found['threat_models'] if each['threat_model']['norm'] == norm)
        return each['adversarial']['top1_correct'] / found['num_images']
    return read


_COLUMNS = {'clean': Column('clean ({part})', _column(None)),
            AUTOATTACK: Column('APGD in Linf', _column('Linf')), _L1: Column('APGD in L1', _column(_L1))}

STUDY = Study(
    'transfer_learning', 'Revisiting Adversarial Training for ImageNet; SAT\'s question',
    'What does a tenth of the steps make of a robust checkpoint, in another norm or with another activation?',
    _arms, _cell, _COLUMNS,
    [Claim('(not of the paper) SiLU in a ReLU checkpoint, trained on, is more robust than ReLU trained on',
           'relu then silu', 'relu then relu', AUTOATTACK, 1),
     Claim('(fourth document) training on in L1 makes robust in L1', 'relu then relu in L1', BASE, _L1, 1),
     Claim('(not of the paper) ... more than as many steps from random weights', 'relu then relu in L1',
           'relu in L1 a tenth', _L1, 1)],
    'One seed.', bars, others=lambda scale: [cell_of(scale, arm_of(name), 1) for name in (BASE, 'silu')])
