"""Every published checkpoint, by name."""
import os
from typing import List, Optional, Sequence, Tuple

from machine import programs
from settings.nearest import nearest
from zoo import revisiting
from zoo.entry import DRIVE, Figures, File, Model, Release, Under

PREFIX = 'zoo:'  # of a name that --load takes
FOLDER_VARIABLE = 'SAT_ZOO'
DEFAULT_FOLDER = '~/.cache/sat-zoo'

# FD release. Published as errors in %; with all figures of PGD attack success rates.
_FD = Release('Feature Denoising: targeted PGD, epsilon 16; ImageNet validation, accuracy / attack success rate in %',
              tuple(Under('PGD-{}'.format(k), 'PGD-{}'.format(k), 'Linf', 16, True) for k in (10, 100, 1000)),
              'https://github.com/facebookresearch/ImageNet-Adversarial-Training',
              'The third was trained with somewhat different settings. Figures vary by 0.3 with the random targets.')
# SAT release: its tables say "error rate" and hold accuracies.
_SAT = Release('Smooth Adversarial Training, ResNets: untargeted PGD, epsilon 4, step 1; ImageNet validation, accuracy '
               'in %', tuple(Under('PGD-{}'.format(k), 'PGD-{}'.format(k), 'Linf', 4) for k in (10, 20, 50)),
               'https://github.com/cihangxie/SmoothAdversarialTraining')
_SAT_EFFICIENTNET = Release(
    'Smooth Adversarial Training, EfficientNets: untargeted PGD, epsilon 4; ImageNet validation, accuracy in %',
    (Under('PGD', '', 'Linf', 4),), 'https://github.com/cihangxie/SmoothAdversarialTraining',
    'The release gives no figure under attack; that of efficientnet-bL1-enhanced is from the abstract of the paper.')


def _denoising(name: str, tag: str, flags: str, clean_error: float, errors: Sequence[float],
               success: Tuple[float, ...]) -> Model:
    address = '{}/releases/download/{}/{}.npz'.format(_FD.page, tag, name)
    figures = Figures(224, _from_error(clean_error), tuple(map(_from_error, errors)), success)
    return Model(name, _FD, (figures,), (File(name + '.npz', address),), name + '.npz', tuple(flags.split()))


def _from_error(error: float) -> float:
    return round(100 - error, 1)


def _drive_checkpoint(name: str, ids: str) -> Tuple[File, ...]:
    """The release's three files of a TensorFlow checkpoint; its index last, without which the rest is none."""
    endings = ('meta', 'data-00000-of-00001', 'index')
    return tuple(File('{}.{}'.format(name, ending), DRIVE + i) for ending, i in zip(endings, ids.split()))


def _smooth(name: str, flags: str, ids: str, clean: Optional[float] = None, attacked: Tuple[float, ...] = (),
            size: int = 224) -> Model:
    size_flags = ('--input-size', str(size)) if size != 224 else ()
    return Model(name, _SAT, (Figures(size, clean, attacked),), _drive_checkpoint(name, ids), name,
                 ('--arch', 'ResNet', *flags.split(), *size_flags))


def _efficientnet(size_name: str, pixels: int, clean: float, ids: str, averages: bool = False, variant: str = '',
                  attacked: Tuple[float, ...] = ()) -> Model:
    model_name = 'efficientnet-' + size_name
    name = model_name + variant
    return Model(name, _SAT_EFFICIENTNET, (Figures(pixels, clean, attacked),), _drive_checkpoint(name, ids), name,
                 ('--arch', 'EfficientNet', '--model-name', model_name),
                 ('--moving-average-decay', '0.9999' if averages else '0'))


MODELS = (
    _denoising('R152', 'v0', '--arch ResNet -d 152 --recipe feature-denoising',
               37.7, (47.5, 58.3, 61.0), (5.5, 31.0, 36.1)),
    _denoising('R152-Denoise', 'v0.1', '--arch ResNetDenoise -d 152', 34.7, (44.3, 54.5, 57.2), (4.9, 26.6, 32.7)),
    _denoising('X101-DenoiseAll', 'v0.2', '--arch ResNeXtDenoiseAll -d 101',
               31.6, (44.0, 55.6, 59.6), (4.9, 31.5, 38.1)),

    _smooth('Res50-relu', '-d 50 --activation-name relu',
            '132lC0k7EWjT371NZRY7OzULA-AshcDqc 1f03RpPMF6_OyVnL7F8RnbkPT4uitnucX 1cohW6FAE7dTaC7RARiqP3fVbiE5AVX4f',
            68.7, (35.3, 33.7, 33.1)),
    _smooth('Res50-silu', '-d 50 --activation-name silu',
            '1NEDQyTYKTd4aw8lpWe4LsLC9EVf3Uat3 1y3yAKrXgyGF7pnXoZg7R6Ge6N3LsXa_B 1VvnMZyrntlLfWnQAdY9wfuCAGJ4fMU3x',
            69.7, (43.0, 42.2, 41.9)),
    _smooth('Res50-smoothrelu', '-d 50 --activation-name smoothrelu',
            '1oibs4xXh6tZCezYaalJ4jyFFF55hzao7 1mtm-QspciqS-_AXHNGgy-sqwtAAgtiw_ 18FizqadONHUAgysO8EoNyxFAzxpjJq_V',
            69.3, (41.3, 40.4, 40.1)),
    _smooth('Res50-gelu', '-d 50 --activation-name gelu',
            '1DzBg4N40f9Lm8hH9oLEIaocy-tOf5edW 1bNkq7B_oq6AWoUQb74GlERRPTX8wQuFY 1WXZNTAZwZ_JsgXN6mNwm3CMwyFTfknkb',
            69.9, (42.6, 41.8, 41.5)),
    _smooth('Res50-elu', '-d 50 --activation-name elu',
            '12ebpFW5eJC0_V5GfwRf_7Xf4Epdqm4QZ 1eymHm21mkxm5aL24Uca8aFqj6FPLqBcw 11PCXlx7XNs7bkg2LH6RiCysJf5J2sgRq',
            69.0, (41.6, 40.9, 40.7)),
    _smooth('Res50-softplus', '-d 50 --activation-name softplus',
            '15kJvWfYNlgm3lIfKbQSfgV-bEyPoND8t 16SLoDVJWK5w_69f8PoOHrxZZNakKaCXW 1HnBSIWV4w8o2cD8fwb-WbHQZ5nxz7YSS'),
    _smooth('Res50-mish', '-d 50 --activation-name mish',
            '1I0ObFU__xnC2RLo99JVsHT29_JhwLIpA 1yhHDRwbVA4okcGtJ4Y9pz0DbfvmH4zEg 1W-4IR9IbJI-qBFlBfFlChp1OekjpQoGK'),
    _smooth('Res50-silu-299', '-d 50 --activation-name silu',
            '1PkArMefesGXqX7PGLI2ibKoMy31AndNK 1Qlbet7k8_0RmHPzfaZvBpRv-c3R2cjCr 12lpRIpz7hRN7bMHEkZAMqrZr2euirKOA',
            70.7, (44.6, 43.8, 43.6), 299),
    _smooth('Res50-silu-380', '-d 50 --activation-name silu',
            '1AdjhY9FQa8dLA2Z5RT_3o9L570Nqh5Z_ 1tnHuq7t6PpyeSCeolEQHG7ZWKye4hAY6 16bPLGP6Ltamtcjji2WV63RDxhRU2hoPU',
            71.6, (44.9, 44.1, 43.8), 380),
    _smooth('ResX50-silu-32x4d', '-d 50 --activation-name silu --group 32 --res2-bottleneck 4',
            '1oUh6B-0TynxRf7B-4INgDdKbvgzlihY7 1jIMgBg5VjPp8mToRNvTpKs5jzUFbOceY 1K4KHECxGM8H-QoY7N1XvS6_dxx6Ej87k',
            71.1, (43.3, 42.5, 42.2)),
    _smooth('ResX50-silu-32x8d', '-d 50 --activation-name silu --group 32 --res2-bottleneck 8',
            '1c9vGl81tyaN6W-p3E_ogOw6ZJtorv4V4 1_tbqY26jFp5TPIXDHQu1qyC2Rx_5ZrcW 1-QZmB4eUDPQ2Pyx651gKI5CRamcOmBHk',
            73.3, (46.3, 45.2, 44.8)),
    _smooth('Res101-silu', '-d 101 --activation-name silu',
            '1mSI36SYH2axrV_9vVeVdTFk0H9BWlLxn 1r_IM4JXR1hmummpTbzHj1gb2BwrAZbi8 1-95fYvBaCFoHWnM0USEOWeLORDdS48ek',
            72.9, (46.4, 45.5, 45.2)),
    _smooth('Res152-silu', '-d 152 --activation-name silu',
            '1H1fMjSzgey41FbVmTbWXpbB0d8IVg8OD 1D44_MDY0aylpHi7iJ3xqRHsQNCb-TFcX 17V5SS8zeYEb-WEHk0_U_8T_20uujR3T9',
            74.0, (47.3, 46.2, 45.8)),
    _smooth('ResX152-silu-380-32x8d', '-d 152 --activation-name silu --group 32 --res2-bottleneck 8',
            '1hzFZ1BhBYdTlBuLK1tahww0hIKP-eZ4L 1tpr3XLzM4s5HlQu7AloGnrMxDOFCDKAx 1kk5QS8n8iVvisdtBu0-SyRR4WVRCYpE0',
            78.0, (53.0, 51.7, 51.0), 380),

    _efficientnet('b0', 224, 65.2, '1UgwnDU7kAlPd5l2Hp0AvKoYc-LD5jpAY 1NVEtGO0l15r2Dc5FBzOKlWr2lqJ11WQD '
                                   '1ZTFo5RHQYy9zCKghFrQyACFQOsg4srr4'),
    _efficientnet('b1', 240, 68.6, '1izecRKPEWbZcaNnfAud7AS3REZldvHDQ 12EWVkLi0_4Ep6Du933MV1vCwIKAActzT '
                                   '1Z5oKE9oYLMcl16uK_FOWjY_sbeFhljRp'),
    _efficientnet('b2', 260, 70.3, '1wgWGtZqOMq0LPR4FDelT1G64tbQu-pO0 1QkDEm6OSgeeRwYd9suXtQbu-3yC9ebmu '
                                   '1-_GlLOlIhwnhu1lnT1rv9aleTR1VmXAs'),
    _efficientnet('b3', 300, 73.1, '1rq2Tx4qif5mQdY1e52usvv4LP4hb8gIb 1zlCLPKaX4i9_ikuJzusY4aV9kTGzXLqF '
                                   '1BeyzyFYA43CwGvlXyNNG-2EswH4DLQNt'),
    _efficientnet('b4', 380, 75.9, '1XXrDvIILllqouDwygEI095arHhytvuY_ 17cMDXEqNjzXpPcvhSWAA7pDfTxGl3I9Q '
                                   '1O5N_WD-ofuSG5n5OOiNiZRpcBIhh0Ykg'),
    _efficientnet('b5', 456, 77.8, '1dOy6lnfrmPp861rLcl-pJ1s9wlgZi9rd 1EWF0H_26zj6_kvdxQD1mYjjLzW9K7qHz '
                                   '1QG81MOXKF1MpUYV9nTECfOimmGCQuiH2'),
    _efficientnet('b6', 528, 79.2, '1x9wIeges7c9acxEV-ZrL1zIUkrqCQjmm 1iA-XyCRmXzyvHr-IP21xvHxD2y4lesyK '
                                   '14y9VCC7mHSE6cX10hkof5-vFA2bkjd31'),
    _efficientnet('b7', 600, 79.8, '1l2iSHdISRu19WwBRMtv--wtEV_Ra6Zp8 1koh9au89VJR6sB1b4ep2azbUmNiDmblj '
                                   '1SAZt2Ald7MVWsxz_Hpe7F1bTEZW7nQdF'),
    _efficientnet('bL1', 600, 80.7, '1xDI4Rg1r56gq9SKLg8DstezwLgKmMWfV 1jGniWU77jQtjxjRqnd4GRoefCaJ9dnzr '
                                    '1MZr3Vx1E7qICamwpV_CFs1i2BZ40O6oq'),
    _efficientnet('bL1', 600, 82.2, '1kepUwuVvENHT16ukAq6Wln_x2rVR2BEi 1ceFsUZYWYh2usgVZV9uDnn9zc6NgWFty '
                                    '1CJvhOkKaEaPvNqe_ZZelsMzJpuitysAv', True, '-enhanced', (58.6,)),

    *revisiting.MODELS,
)
_BY_NAME = {name.lower(): model for model in MODELS for name in (model.name, model.robustbench) if name}


def find(name: str) -> Model:
    """The published model ``name``, its own or RobustBench's, in any case and with or without 'zoo:'.

    Raises:
        ValueError: there is none; names the nearest.
    """
    name = name[len(PREFIX):] if name.startswith(PREFIX) else name
    if name.lower() in _BY_NAME:
        return _BY_NAME[name.lower()]
    near = dict.fromkeys(_BY_NAME[key].name for key in nearest(name, _BY_NAME, most=3))
    raise ValueError("no published model is called '{}'; {}`{}` shows all".format(
        name, 'did you mean {}? '.format(' or '.join(near)) if near else '',
        programs.spelt('python model_zoo.py list')))


def of_file(name: str) -> Optional[Model]:
    """The published model whose checkpoint's file or prefix is called ``name``, here or by RobustBench; None."""
    return next((model for model in _BY_NAME.values() if model.flags is not None and name in (
        model.prefix, model.robustbench and model.robustbench + '.pt')), None)


def is_named(load: Optional[str]) -> bool:
    """bool: whether ``--load``'s value means a published model."""
    return load is not None and load.startswith(PREFIX)


def flags_of(load: str, training: bool = False) -> List[str]:
    """Flags of main.py that a published model ``zoo:NAME`` brings; of the network alone for ``training``.

    Raises:
        ValueError: no such model, or it is a folder of models.
    """
    model = find(load)
    model.check_network()
    return [*(model.flags or ()), *(() if training else model.judged_flags)]


def folder() -> str:
    """Where downloaded models are: $SAT_ZOO, else ~/.cache/sat-zoo."""
    return os.path.expanduser(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def local_path(load: str) -> str:
    """The downloaded checkpoint of ``zoo:NAME``.

    Raises:
        ValueError: no such model, it is a folder of models, or it is not downloaded.
    """
    model = find(load)
    model.check_network()
    if not model.is_in(folder()):
        raise ValueError("'{}' is not in '{}'; `{}` brings it".format(
            model.name, folder(), programs.spelt('python model_zoo.py download ' + model.name)))
    return model.path(folder())
