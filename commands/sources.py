"""Where the images of a command come from: ``--data``, the embedded digits, or what its data server reads."""
import os

from data.digits import NAME as DIGITS
from data.folders import count_classes, open_dataset
from data.handshake import FAKE
from data.policies import describe_policy
from data.subsets import part_of
from data.views import default_augmentation, settled
from nets import ARCHITECTURES, architecture_defaults, network_name
from settings import serving
from settings.data import View
from settings.fields import ALWAYS, OF_IMAGES, OF_VIEW
from settings.sections import view_of

DIGIT_CLASSES = 10


def taken():
    """Names of the options that a training without a data set takes from its server's description."""
    return serving.compared(OF_VIEW)


def left_to_server(args, served):
    """Names of the fields that a training's data server decides, in a command without a data set: those not given.
    Until then their values are those for the digits.

    Args:
        args: ``data``, ``num_classes`` and the options ``taken()``, not resolved. served (bool): whether the training
            has a data server.
    """
    if not served or args.fake or args.data is not None:
        return ()
    policy = describe_policy(None)  # which is left where none is named
    return tuple(name for name in (*taken(), 'num_classes') if name not in policy and getattr(args, name) is None)


def settle_classes(args):
    """Set ``num_classes``, where it is not given, to the number of class folders if the data set has any."""
    usual = architecture_defaults(args.arch, args.model_name)['num_classes']
    if args.num_classes is None:
        found = count_classes(args.data) if args.data and os.path.isdir(args.data) else None
        # One folder is no set of classes; opening it will say what is wrong.
        args.num_classes = found if found and found > 1 else usual
        if args.num_classes != usual:
            args.notes += "--num-classes {}: as many as '{}' has class folders".format(found, args.data),


def settle_augmentation(args):
    """Set ``augmentation``, where it is not given, to the network's or the images' own."""
    if args.augmentation is None:
        args.augmentation = default_augmentation(args.data or args.eval_directory, args.input_size,
                                                 ARCHITECTURES[args.arch].augmentation)


def usual_view(args):
    """How a network of resolved architecture flags is shown an image where nothing else is said."""
    return View(args.input_size, ARCHITECTURES[args.arch].augmentation)


def check(args):
    """Refuse the digits for a network that is not for them.

    Raises:
        ValueError: says what to type.
    """
    if args.data is None and args.num_classes != DIGIT_CLASSES:
        raise ValueError('--data DIR is needed, or SAT_DATA: without them there are only the handwritten digits, of {} '
                         'classes, and {} has {} outputs'.format(DIGIT_CLASSES, network_name(args), args.num_classes))


def open_images(args, split, classes=None):
    """The data set of resolved flags; see ``open_dataset``.

    Raises:
        ValueError: as ``check`` and ``open_dataset``.
    """
    check(args)
    return open_dataset(args.data, split, args.num_classes, classes)


def open_judged_images(args, classes=None):
    """The images of an evaluation: of the validation set all, or those of ``--subset``.

    Raises:
        ValueError: as ``open_images`` and ``part_of``.
    """
    dataset = open_images(args, 'val', classes)
    return part_of(dataset, args.subset) if args.subset else dataset


def expected_of_server(args):
    """What the server's description must say: all that the command says."""
    expected = {'dtype': 'uint8', **{name: getattr(args, name) for name in serving.compared(
        *[ALWAYS] if args.fake else [ALWAYS, OF_IMAGES])}}
    if args.fake:
        return dict(expected, dataset=FAKE)
    told = {**vars(args), **vars(settled(view_of(vars(args))))}
    view = {name: told[name] for name in taken()}
    if args.data:
        return dict(expected, dataset=os.path.realpath(args.data), **view)
    left = set(args.left_to_server).union(() if args.augment_name else describe_policy(None))
    return dict(expected, **{name: value for name, value in view.items() if name not in left})


def take_served(args, served, address, of_all):
    """Fill in what a command without a data set has left to its data server, which feeds the training.

    Args:
        served (dict): the server's description. address (str): its own. of_all (list of dict): of the descriptions of
            all ranks' servers the fields ``taken()``.
    Raises:
        ValueError: the server has no images that the network can learn and be judged by, or the servers differ.
    """
    if args.fake or args.data is not None:
        return
    for field in taken():
        values = list(dict.fromkeys(found[field] for found in of_all))
        if len(values) > 1:
            raise ValueError("the data servers of this job differ in --{}: {}; start all with the same".format(
                field.replace('_', '-'), ' and '.join(map(str, values))))
    name = served['dataset']
    if name == FAKE:
        raise ValueError('the data server at {} serves constant data; give --fake, or start it with --data DIR'.format(
            address))
    if name != DIGITS:
        if not os.path.isdir(name):
            raise ValueError("the data server at {} reads '{}', where this machine has no folder; the validation "
                             'images come from there: put them in that place'.format(address, name))
        args.data = name
    for field in taken():
        setattr(args, field, served.get(field))
    args.notes += "--data '{}' and --augmentation {} are those of the data server at {}".format(
        name, args.augmentation, address),
    if 'num_classes' in args.left_to_server:
        args.num_classes = None
        settle_classes(args)
    if name == DIGITS and args.num_classes != DIGIT_CLASSES:
        raise ValueError('the data server at {} serves the handwritten digits, of {} classes, and {} has {} outputs; '
                         'start it with --data DIR'.format(address, DIGIT_CLASSES, network_name(args),
                                                           args.num_classes))
