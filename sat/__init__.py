"""The library: networks from Python, with NumPy arrays in and out.

    import sat
    net = sat.load('train_log/my-run')
    labels = net.predict(images).argmax(1)
    adv = net.attack(images, labels, 'pgd', epsilon=8, steps=10)

Images are RGB [N,H,W,3], uint8 or float32 in pixel levels, 0-255; lengths are in pixel levels too. What ``main.py
--eval`` would refuse in one line raises ValueError with that line. The process runs TensorFlow in graph mode, without
eager execution. ``import sat`` is quick: TensorFlow is imported where a network is loaded.
"""
import importlib

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

__all__ = ['attacks', 'load', 'networks', 'picture']


def load(checkpoint, **options):
    """A network with its weights.

    Args:
        checkpoint (str): what ``--load`` takes: a run's directory, a TensorFlow checkpoint, .npz, .safetensors,
            PyTorch's .pt or .pth, or zoo:NAME, which is downloaded if it is not there.
        options: where the checkpoint does not say it, the fields of ``settings/network.py`` by name: arch='ResNet',
            depth=50, activation_name='silu' and so on; input_size and augmentation; batch, images in one pass;
            moving_average_decay=0 for the weights where there are averages too; ignore_checkpoint_flags.
    Returns:
        sat.network.Network.
    Raises:
        ValueError: there is no such checkpoint, or it is not this network's. OSError: the download failed. TypeError:
            there is no such option.
    """
    _quieten()
    from sat.network import Network
    return Network(checkpoint, options)


def attacks():
    """The attacks by name, each with a line about it; dict."""
    _quieten()
    from attacks.registry import KINDS
    return {name: kind.help for name, kind in KINDS.items()}


def networks():
    """The networks that ``arch`` may be, each with a line about it and its choices; dict."""
    _quieten()
    from nets import ARCHITECTURES
    found = {}
    for name, entry in ARCHITECTURES.items():
        about = entry.model.__doc__.split('\n')[0].split('; ``options``')[0].rstrip('.').replace('`', '')
        choices = [('depth', entry.depths), ('model_name', entry.sizes)]
        found[name] = '; '.join([about] + ['{}: {}'.format(option, ', '.join(map(str, words)))
                                           for option, words in choices if words])
    return found


def picture(rows, captions=None, names=None):
    """Rows of images as a PNG, which a notebook shows.

    Args:
        rows: of images [h,w,3] in RGB, 0-255. captions: likewise of texts, under the images. names: one for each row.
    Returns:
        sat.pictures.Picture, with ``save(path)``.
    """
    from sat.pictures import picture
    return picture(rows, captions, names)


def _quieten():
    """Before TensorFlow is imported: without its word of what is deprecated, which tensorpack switches off."""
    importlib.import_module('tensorpack')
