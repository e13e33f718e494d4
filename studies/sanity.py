"""SAT Section 6: are the figures to be believed? Robustness against steps and epsilon, loss landscapes."""
from studies.activations import BASE, arm_of, cell_of
from studies.cells import LANDSCAPE, SWEEP, Job, run_of
from studies.figures import against_steps_and_epsilon
from studies.scales import AUTOATTACK
from studies.study import Arm, Claim, Column, Study, accuracy

_STEPS, _EPSILONS = (1, 5, 10, 20, 50, 100, 200), (0, 1, 2, 4, 8, 16, 32, 64)
_IMAGES = 500
NAMES = (BASE, 'silu')


def sweep_of(scale, arm, seed):
    network = '{}-{}-{}'.format(scale.name, arm.name, seed)
    words = ('--load', run_of(network), '--images', str(_IMAGES), '--steps', ','.join(map(str, _STEPS)), '--epsilons',
             ','.join(map(str, _EPSILONS)), '--attack-iter', '20', '--attack-epsilon', '{:g}'.format(scale.epsilon),
             '--attack-step-size', '1', '--batch', '100', '--data', '{data}')
    steps = sum(_STEPS) + 20 * (len(_EPSILONS) - 1)
    jobs = [Job('sweep', SWEEP, words, _IMAGES * (steps + 300))]
    whole = scale._replace(version='standard').autoattack(run_of(network))
    if scale.version != 'standard':  # else the network's own cell has it
        # FAB-T takes as many passes again, and Square's 5,000 forward passes about as long as 1,700 with gradients.
        jobs.append(whole._replace(passes=2 * whole.passes + 0.4 * 1700 * scale.part_images))
    return scale.of_jobs('{}-sweep-{}-{}'.format(scale.name, arm.name, seed), jobs, [network])


def _networks(scale):
    return [cell_of(scale, arm_of(name), 1) for name in NAMES] + [_landscapes(scale)]


def _landscapes(scale):
    """Both networks' losses around the same images, side by side (SAT Figure 5)."""
    names = {name: '{}-{}-1'.format(scale.name, name) for name in NAMES}
    words = [word for name, cell in names.items() for word in ('--model', '{}=--load {}'.format(name, run_of(cell)))]
    words += ['--images', '60', '--steps', '20', '--epsilons', '0,{:g}'.format(scale.epsilon), '--queries', '2',
              '--hardest', '0', '--landscapes', '3', '--attack-iter', '20', '--attack-epsilon',
              '{:g}'.format(scale.epsilon), '--attack-step-size', '1', '--batch', '40', '--data', '{data}']
    return scale.of_jobs('{}-landscapes'.format(scale.name), [Job('landscapes', LANDSCAPE, tuple(words), 60 * 200)],
                         names.values())


def _row(curve, key, value):
    def read(content):
        rows = content['jobs']['sweep']['found'][curve]
        return next(row['accuracy'] for row in rows if row[key] == value)
    return read


def _flags(content):
    """How many of the checks of gradient masking say that the figures are not to be believed."""
    return sum(not check['passed'] for check in content['jobs']['sweep']['found']['checks'])


_COLUMNS = {'clean': Column('clean', _row('epsilons', 'epsilon', 0)),
            **{'PGD-{}'.format(k): Column('PGD-{}'.format(k), _row('steps', 'num_iter', k)) for k in _STEPS},
            **{'epsilon {}'.format(e): Column('epsilon {}'.format(e), _row('epsilons', 'epsilon', e))
               for e in _EPSILONS[1:]},
            AUTOATTACK: Column('AutoAttack standard ({part})', accuracy(AUTOATTACK)),
            'flags': Column('signs of masking', _flags, percent=False)}

STUDY = Study(
    'sanity', 'SAT Section 6', 'Does robustness fall with more steps by little, and with epsilon to nothing, in both?',
    lambda scale: [Arm(BASE, seeds=1), Arm('silu', seeds=1, base=BASE)], sweep_of, _COLUMNS,
    [Claim('silu withstands 200 steps better than ReLU', 'silu', BASE, 'PGD-200', 1)],
    '{} images and one seed: differences of a few points are noise.'.format(_IMAGES), against_steps_and_epsilon,
    others=_networks)
