"""The models of "Revisiting Adversarial Training for ImageNet" (Singh, Croce and Hein 2023).

Names, training lengths, figures and shared folders are those of the release's page, file ids those of RobustBench. The
folders also hold the clean models from which training began, and logs of AutoAttack in L-infinity, L2 and L1.
"""
from typing import Tuple

from zoo.entry import DRIVE, Figures, File, Model, Release, Under

_REVISITING = Release(
    'Revisiting Adversarial Training for ImageNet: AutoAttack (standard), epsilon 4; 5000 images, accuracy in %',
    (Under('AutoAttack', 'autoattack-standard-Linf', 'Linf', 4),), 'https://github.com/nmndeep/revisiting-at',
    'At another size it is the same file. Figures in L2 and L1 are in logs beside the weights, and in the paper.')
_REVISITING_8 = _REVISITING._replace(
    title='Revisiting Adversarial Training for ImageNet: fine-tuned at epsilon 8; no figures are published',
    attacks=(), note='')
_SHARES = 'https://nc.mlcloud.uni-tuebingen.de/index.php/s/'
# A file of a shared folder. The one name that stands here is that of a public script that downloads it.
_SHARED_FILE = 'https://nc.mlcloud.uni-tuebingen.de/public.php/dav/files/{}/{}'
_WITHOUT_STEM = 'XLLnoCnJxp74Zqn'  # one folder for the released models without a convolutional stem


def _revisiting(name: str, epochs: int, *figures: Tuple[int, float, float], pages: str, drive: str = '', file: str = '',
                normalised: bool = False) -> Model:
    """A model of "Revisiting ...".

    pages: of its shared folders. drive: id of RobustBench's copy of its weights. file: its name in the first folder,
    where RobustBench has none. normalised: RobustBench sets ImageNet's mean and deviation before it.
    """
    model_name = name.lower()
    family = 'ViT' if model_name.startswith('vit') else 'ConvNeXt'
    shares = pages.split()
    address = DRIVE + drive if drive else _SHARED_FILE.format(shares[0], file)
    return Model(
        name, _REVISITING, tuple(Figures(size, clean, (attacked,)) for size, clean, attacked in figures),
        (File(name + '.pt', address),) if drive or file else (), name + '.pt',
        ('--arch', family, '--model-name', model_name, *(('--input-scaling', 'imagenet') if normalised else ())),
        # The files hold one set of weights, plain or averaged, by plain names.
        ('--moving-average-decay', '0'), tuple(_SHARES + share for share in shares), epochs,
        'Singh2023Revisiting_' + name.replace('CvSt', 'ConvStem') if drive else '')


MODELS = (
    _revisiting('ConvNeXt-iso-CvSt', 300, (224, 70.2, 45.9), pages='HpNbkLTNTBiaeo8'),
    _revisiting('ViT-S', 300, (224, 69.2, 44.0), pages=_WITHOUT_STEM, file='weights_vit_s.pt'),
    _revisiting('ViT-S-CvSt', 300, (224, 72.5, 48.1), pages='agtDw3D7QXbDCmw',
                drive='1-1sUYXnj6bDXacIKI3KKqn4rlkmL-ZI2', normalised=True),
    _revisiting('ConvNeXt-T', 300, (224, 72.4, 48.6), pages=_WITHOUT_STEM),
    _revisiting('ConvNeXt-T-CvSt', 300, (224, 72.7, 49.5), pages='BFLoMrMdn8iBk7Y',
                drive='1-FjtOF6LJ3-bf4VezsmWwncCxYSx-USP'),
    _revisiting('ViT-M-CvSt', 50, (224, 72.4, 48.8), pages='q2mkEYtq5Zjpa4e'),
    # RobustBench's figure and the paper's; an older description of the release says 74.4 clean.
    _revisiting('ConvNeXt-S-CvSt', 50, (224, 74.1, 52.4), pages='m3bAwNg4CJY4jrp',
                drive='1-ZrMYajCCnrtV4oT0wa3qJJoQy1nUSnL'),
    _revisiting('ViT-B', 50, (224, 73.3, 50.0), pages=_WITHOUT_STEM),
    _revisiting('ConvNeXt-B', 50, (224, 75.6, 54.3), pages=_WITHOUT_STEM),
    _revisiting('ViT-B-CvSt', 250, (224, 76.3, 54.7), pages='SbN5AJAicdZJXyr',
                drive='1-JBbfi_eH3tKMXObvPPHprrZae0RiQGT'),
    _revisiting('ConvNeXt-B-CvSt', 250, (224, 75.9, 56.1), (256, 76.9, 57.3), pages='RQBEXagC7R7XweX',
                drive='1-lE-waaVvfL7lgBrydmZIM9UJimmHnVe'),
    _revisiting('ConvNeXt-L-CvSt', 100, (224, 77.0, 57.7), (320, 78.2, 59.4), pages='YzBpeHRrRQzHBDz LeYdmW9DMAr8zws',
                drive='10-YOVdM2EQjHemSi9x2H44qKRSOXVQmh'),
    Model('Revisiting-eps8', _REVISITING_8, (), (), '', pages=(_SHARES + 'FiTToeo4RKY896P',)),
)
