"""Figures of others, to stand beside ours, and never among them. In %, with their source."""
from typing import NamedTuple, Optional


class Published(NamedTuple):
    """what: network and training. clean, pgd, autoattack: accuracy in %, None where not given. attack: of ``pgd``."""
    what: str
    clean: Optional[float]
    attack: str
    pgd: Optional[float]
    autoattack: Optional[float]
    source: str


_BAI = 'Bai, Mei, Yuille and Xie 2021, README of github.com/ytongbai/ViTs-vs-CNNs'
_RICE = 'README of github.com/MTandHJ/PyTorch-Robust, Rice2020ICML'
PUBLISHED = {
    'resnet20': [Published('CIFAR-10, ResNet-20, ReLU, PGD-10 for 110 epochs, epsilon 8', 74.38, 'PGD-10', 45.43, None,
                           'README of github.com/EhanW/AdversarialTraining')],
    'sat': [Published('ImageNet, ResNet-50, ReLU, PGD-1, epsilon 4', 68.7, 'PGD-10', 35.3, None, 'SAT release'),
            Published('ImageNet, ResNet-50, SiLU, PGD-1, epsilon 4', 69.7, 'PGD-10', 43.0, None, 'SAT release')],
    'bai2021': [Published('ImageNet, ResNet-50, ReLU, one step, epsilon 4', 66.77, 'PGD-100', 32.26, 26.41, _BAI),
                Published('ImageNet, ResNet-50, GELU, one step, epsilon 4', 67.38, 'PGD-100', 40.27, 35.51, _BAI)],
    'fgsm_resnet32': [Published('CIFAR-10, ResNet-32, FGSM, epsilon 8: 54.75 under FGSM', 88.23, 'PGD-10', 0.04, 0.0,
                                'README of github.com/MTandHJ/PyTorch-Robust, FGSM-AT')],
    'rice2020': [Published('CIFAR-10, ResNet-18, PGD, best checkpoint', None, '', None, 47.6, _RICE),
                 Published('CIFAR-10, ResNet-18, PGD, last checkpoint', 84.96, '', None, 41.23, _RICE)],
}


def table(names):
    """Lines of Markdown."""
    lines = ['| theirs | clean | under PGD | AutoAttack | source |', '|---|---|---|---|---|']
    for name in names:
        for each in PUBLISHED[name]:
            pgd = '' if each.pgd is None else '{:g} ({})'.format(each.pgd, each.attack)
            lines.append('| {} | {} | {} | {} | {} |'.format(each.what, _text(each.clean), pgd, _text(each.autoattack),
                                                             each.source))
    return lines


def _text(value):
    return '' if value is None else '{:g}'.format(value)
