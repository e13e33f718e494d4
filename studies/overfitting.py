"""When single-step training collapses, and when robustness is lost slowly: which activation, step size and epoch."""
from studies.cells import DATA, PART
from studies.figures import by_epoch
from studies.scales import PGD
from studies.study import Arm, Claim, Column, Study

# Of epsilon: one of the radius (SAT's) and one of twice it, with which Wong, Rice and Kolter 2020 (Figure 3) saw FGSM
# from a random start collapse.
_PARTS = (1, 2)
_STEPS = 10  # of the PGD that watches


def _arms(scale):
    for activation in ('relu', 'silu'):
        for part in _PARTS:
            yield Arm(_name(activation, part),
                      ('--activation-name', activation, '--attack-step-size', '{:g}'.format(part * scale.epsilon),
                       '--prob-start-from-clean', '0', '--eval-every', '1', '--eval-attack-iter', str(_STEPS)),
                      base=None if activation == 'relu' else _name('relu', part))


def _name(activation, part):
    return '{} steps of {} epsilon'.format(activation, part)


def _cell(scale, arm, seed):
    name = '{}-overfitting-{}-{}'.format(scale.name, arm.name.replace(' steps of ', '-').replace(' ', '-'), seed)
    # Watched after each epoch: on the part of the test images that AutoAttack would judge.
    job = scale.training(arm.words, seed, data=PART if scale.name == 'small' else DATA)
    passes = job.passes + scale.epochs * scale.part_images * _STEPS
    return scale.of_jobs(name, [job._replace(passes=passes)])


def _epochs(content):
    return content['jobs']['train']['found']['epochs']


def _robust(epoch):
    """Accuracy of an epoch under the PGD that watches."""
    return epoch['robust']['{}step'.format(_STEPS)]


def _best(content):
    return max(_epochs(content), key=_robust)


def _first(kind):
    """The epoch in which the training said that it overfits so."""
    def read(content):
        return next((epoch['epoch'] for epoch in _epochs(content) if epoch['overfitting'] == kind), None)
    return read


_collapse = _first('catastrophic')
_COLUMNS = {
    'own': Column('training images, own attack', lambda content: _epochs(content)[-1]['trained']),
    'clean': Column('clean', lambda content: _epochs(content)[-1]['clean']),
    PGD: Column('PGD-{} at the end'.format(_STEPS), lambda content: _robust(_epochs(content)[-1])),
    'best': Column('PGD-{}, best epoch'.format(_STEPS), lambda content: _robust(_best(content))),
    'at': Column('best epoch', lambda content: _best(content)['epoch'], percent=False),
    'collapsed': Column('seeds that collapse', lambda content: float(_collapse(content) is not None)),
    'collapse': Column('at epoch', _collapse, percent=False),
    'slow': Column('slow overfitting at epoch', _first('slow'), percent=False)}

STUDY = Study(
    'overfitting', 'Wong, Rice and Kolter 2020; Rice, Wong and Kolter 2020',
    'At which step size and epoch does single-step training collapse, with which activation?',
    lambda scale: list(_arms(scale)), _cell, _COLUMNS,
    [Claim('(not of the paper) with steps of twice epsilon silu ends more robust than ReLU',
           _name('silu', 2), _name('relu', 2), PGD, 1)],
    'Fifteen epochs of a small network: collapses that take wider networks or longer training are not seen.', by_epoch,
    published=('fgsm_resnet32', 'rice2020'))
