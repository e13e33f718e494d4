"""SAT Section 7: the activations on CIFAR-10."""
from studies.activations import BASE, arm_of, cell_of
from studies.figures import bars
from studies.scales import CLEAN, FULL, PGD
from studies.study import JUDGED, Claim, Study

# Unverified: that the paper's network is ResNet-18, at epsilon 8. 100 epochs of PGD-1, as the paper's on ImageNet.
CIFAR = FULL._replace(
    name='cifar-full', arch=('--arch', 'CifarResNet', '-d', '18'),
    train=('--recipe', 'sat', '--attack-iter', '1', '--attack-epsilon', '8', '--attack-step-size', '8', '--batch',
           '128', '--weight-decay', '5e-4'),
    images=50000, batch=128, epsilon=8, pgd_steps=50, test_images=10000, part_images=10000, part=('--data', '{data}'),
    data='CIFAR-10 as folders of images, train/ and test/', ranks=1)


STUDY = Study(
    'cifar10', 'SAT Section 7', 'CIFAR-10: CifarResNet-20 in small, CifarResNet-18 in full; ReLU, SiLU and GELU.',
    lambda scale: [arm_of(name) for name in (BASE, 'silu', 'gelu')], cell_of, JUDGED,
    [Claim('{} instead of ReLU raises {}'.format(name, word), name, BASE, column, 1)
     for name in ('silu', 'gelu') for column, word in ((PGD, 'robustness'), (CLEAN, 'clean accuracy'))],
    'The small cells are those of activations.', bars, published=('resnet20', 'rice2020'),
    scaled=lambda scale: CIFAR if scale.name == 'full' else scale)
