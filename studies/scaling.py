"""SAT Section 5: does robustness grow with depth, width and resolution, and most with all three?"""
from efficientnet.scaling import PREFIX, SIZES
from settings.recipes import RECIPES
from studies.cells import COUNT, Job
from studies.figures import against_cost
from studies.scales import CLEAN, PGD
from studies.study import JUDGED, Arm, Claim, Column, Study

# Small: an EfficientNet that two cores can train at 32 pixels, and what grows by about EN's factors for twice the
# multiply-adds (Tan and Le 2019, Sec 3.3: alpha 1.2, beta 1.1, gamma 1.15), several times over, as a scale this small
# rounds them to whole blocks and channels.
_WIDTH, _DEPTH, _PIXELS = 0.5, 0.4, 32
_MORE = {'base': (1, 1, 1), 'depth': (1, 2, 1), 'width': (1.5, 1, 1), 'resolution': (1, 1, 1.5),
         'all three': (1.1, 1.3, 1.25)}
_NETWORK = ('--arch', 'EfficientNet', '--activation-name', 'silu')


def _arms(scale):
    if scale.name == 'small':
        for name, (width, depth, pixels) in _MORE.items():
            words = ('--width-coefficient', '{:g}'.format(_WIDTH * width), '--depth-coefficient',
                     '{:g}'.format(_DEPTH * depth), '--input-size', str(round(_PIXELS * pixels)), '--augmentation',
                     'cifar', '--dropout-rate', '0', '--survival-prob', '1')
            yield Arm(name, (*_NETWORK, '--recipe', 'sat', *words), seeds=1, base=None if name == 'base' else 'base')
    else:
        for number in range(8):
            size = PREFIX + 'b{}'.format(number)
            words = ('--model-name', size, '--input-size', str(SIZES[size].resolution))
            yield Arm('B{}'.format(number), (*_NETWORK, *words), base='B0' if number else None)


def _cell(scale, arm, seed):
    cell = scale._replace(arch=arm.words).cell('scaling-' + arm.name.replace(' ', '-'), (), seed)
    return cell._replace(jobs=(*cell.jobs, Job('cost', COUNT, arm.words, 0)))


def _with_its_recipe(scale):
    """EfficientNet's own recipe on ImageNet (SAT's release, third_party of it)."""
    if scale.name == 'small':
        return scale
    return scale._replace(train=('--attack-iter', '1', '--attack-epsilon', '4', '--batch', str(scale.batch)),
                          epochs=RECIPES['sat-efficientnet'].epochs)


_COLUMNS = dict(JUDGED, cost=Column('multiply-adds (M)', lambda content: content['jobs']['cost']['found']['millions'],
                                    percent=False))

STUDY = Study(
    'scaling', 'SAT Section 5', 'Does robustness grow with depth, width and resolution, and most with all three?',
    lambda scale: list(_arms(scale)), _cell, _COLUMNS,
    [Claim('{} raises {}'.format(name, word), name, 'base', column, 1) for name in list(_MORE)[1:]
     for column, word in ((PGD, 'robustness'), (CLEAN, 'clean accuracy'))],
    'Networks far below B0, at 32 pixels, where more resolution is interpolation.', against_cost,
    scaled=_with_its_recipe)
