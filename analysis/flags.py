"""The command line: what each command adds to the flags of ``main.py --eval``, which say what network and data."""
import argparse
import re
import shlex
from typing import List, NamedTuple

from analysis import landscape, sweep
from commands.command_line import parse_args
from machine import programs
from nets import network_name
from ranks.command_line import OneLineParser
from settings import attack, lengths
from tables import activation_name

PROGRAM = 'python -m analysis'
OWN_FLAGS_ONLY = ('activations',)  # commands that look at no network
_MODEL = re.compile(r'([^=]+)=(.*)', re.DOTALL)


class Network(NamedTuple):
    """A network to look at. name: in tables. flags: as they were typed. args: the resolved flags."""
    name: str
    flags: List[str]
    args: argparse.Namespace


def _at_least(low):
    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError("'{}' is no whole number".format(text))
        if value < low:
            raise argparse.ArgumentTypeError('{} is not at least {}'.format(text, low))
        return value
    return parse


def _list_of(parse):
    return lambda text: tuple(sorted({parse(part) for part in text.split(',')}))


def _radius(text):
    value = lengths.parse_linf(text)
    if value > lengths.LEVELS:
        raise argparse.ArgumentTypeError('{} is not in 0 to {}'.format(text, lengths.LEVELS))
    return value


def _odd(text):
    value = _at_least(3)(text)
    if value % 2 == 0:
        raise argparse.ArgumentTypeError('{} is even; the image itself is the middle point'.format(text))
    return value


def _span(text):
    value = lengths.parse_linf(text)
    if value == 0:
        raise argparse.ArgumentTypeError('0 is no span')
    return value


def _model(text):
    found = _MODEL.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError("'{}' is not NAME=FLAGS".format(text))
    try:
        return found.group(1).strip(), shlex.split(found.group(2))
    except ValueError as error:
        raise argparse.ArgumentTypeError("'{}': {}".format(text, error))


def _activations(text):
    return [activation_name(name) for name in text.split(',')]


def _text(values):
    return ','.join('{:g}'.format(value) for value in values)


def _add_images(parser, default, what=''):
    parser.add_argument('--images', type=_at_least(1), default=default, metavar='N',
                        help='images, spread evenly over the validation set{} (default: %(default)s)'.format(what))


def _add_sweep(parser):
    group = parser.add_argument_group('sweep')
    group.add_argument('--steps', type=_list_of(_at_least(1)), default=sweep.STEPS, metavar='K,K,...',
                       help="attack steps, at --attack-epsilon (default: {})".format(_text(sweep.STEPS)))
    group.add_argument('--epsilons', type=_list_of(_radius), default=sweep.EPSILONS, metavar='E,E,...',
                       help='radii in pixel levels (8 or 8/255), with --attack-iter steps that grow with the radius '
                            'from --attack-step-size at --attack-epsilon (default: {})'.format(_text(sweep.EPSILONS)))
    group.add_argument('--queries', type=_at_least(1), default=sweep.Plan._field_defaults['queries'], metavar='N',
                       help='of the attack without gradients, for each image (default: %(default)s)')


def _add_landscape(parser):
    group = parser.add_argument_group('landscape')
    group.add_argument('--grid', type=_odd, default=landscape.GRID, metavar='POINTS',
                       help='points on a side (default: %(default)s)')
    group.add_argument('--span', type=_span, metavar='PIXELS',
                       help='pixel levels to either side of the image (default: twice --attack-epsilon)')


def _add_models(parser, least):
    parser.add_argument('--model', type=_model, action='append', default=[], dest='models', metavar='NAME=FLAGS',
                        help="a network, as 'silu=--activation-name silu --load runs/silu'; give it {}. Flags outside "
                             'of it are of all networks'.format(least))


def get_parser():
    """The parser of all commands; flags that it does not know are those of ``main.py --eval``."""
    parser = OneLineParser(prog=programs.name(PROGRAM), allow_abbrev=False, description=(
        'Is a robustness figure to be believed? Looks at networks as `main.py --eval` does, and takes its flags.'))
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(name, text):
        command = commands.add_parser(
            name, usage='%(prog)s [FLAGS]', help=text, description=text, allow_abbrev=False,
            epilog=None if name in OWN_FLAGS_ONLY else
            'All other flags are those of `{}`: network, --load, --data, --batch, --attack-iter, --attack-epsilon, '
            '--attack-step-size, --seed and so on. Attacks are untargeted, L-infinity.'.format(
                programs.spelt('python main.py --eval')))
        command.add_argument('--results-dir', metavar='DIR', help='folder of the output; an existing one is left as it '
                             'is, and its name followed by -2, -3, ... is taken (default: results/<what>-<network>)')
        return command

    command = add('sweep', 'accuracy against attack steps and epsilon, and whether the gradients can be trusted')
    _add_images(command, 200)
    _add_sweep(command)
    command = add('landscape', 'the loss over the plane of the attack direction and a random one')
    _add_images(command, 4)
    _add_landscape(command)
    command = add('activations', 'the activations and their derivatives')
    command.add_argument('--names', type=_activations, metavar='NAME,NAME,...',
                         help="one figure of these activations (default: the paper's figures 1 and 2)")
    command = add('transfer', 'attacked images of each network, judged by the others')
    _add_images(command, 200)
    _add_models(command, 'twice or more')
    command = add('report', 'all of it on one page, HTML and Markdown, for one network or several side by side')
    _add_images(command, 200)
    _add_models(command, 'once for each of several networks; without it, --load and its flags are the network')
    command.add_argument('--results', action='append', default=[], metavar='FILE',
                         help='a results.json of `main.py --eval` of one of the networks, such as of AutoAttack, for '
                              'the table; may be given again')
    command.add_argument('--hardest', type=_at_least(0), default=6, metavar='N',
                         help='images to show that the smallest radius breaks (default: %(default)s)')
    command.add_argument('--landscapes', type=_at_least(0), default=3, metavar='N',
                         help='images to show the loss around (default: %(default)s)')
    _add_sweep(command)
    _add_landscape(command)
    return parser


def parse(argv):
    """Parse; a mistake ends the program with one line and exit code 2.

    Returns:
        argparse.Namespace of the command, list of Network.
    """
    parser = get_parser()
    own, rest = parser.parse_known_args(argv)
    if own.command in OWN_FLAGS_ONLY:
        if rest:
            parser.error('unrecognized arguments: ' + ' '.join(rest))
        return own, []
    models = getattr(own, 'models', [])
    names = [name for name, _ in models]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        parser.error("--model {}: the name is given more than once".format(repeated[0]))
    if own.command == 'transfer' and len(models) < 2:
        parser.error('transfer needs two or more --model NAME=FLAGS')
    networks = [_network(parser, name, rest + flags) for name, flags in models or [(None, rest)]]
    _check_alike(parser, networks)
    return own, networks


def _network(parser, name, flags):
    # Untargeted unless the user says otherwise, also with a recipe whose own attack is targeted.
    args = parse_args(['--eval', '--untargeted'] + flags)
    if args.targeted or args.attack_target != 'none':
        parser.error('--targeted, --attack-target: the checks here are of untargeted attacks')
    if args.attack != attack.KIND or args.norm != attack.LINF:
        parser.error('--attack, --norm, --threat-models: the checks here are of PGD in Linf')
    if args.attack_iter == 0:
        parser.error('--attack-iter 0: there is nothing to look at without an attack')
    return Network(name or '{} {}'.format(network_name(args), args.activation_name), flags, args)


def _check_alike(parser, networks):
    """Several networks must see the same images, and the same attack."""
    for field in ('data', 'input_size', 'num_classes', 'augmentation', 'attack_iter', 'attack_epsilon',
                  'attack_step_size', 'seed'):
        values = [getattr(network.args, field) for network in networks]
        if len(set(values)) > 1:
            parser.error('--{}: must be the same for all networks, not {}'.format(
                field.replace('_', '-'), ' and '.join(map(str, dict.fromkeys(values)))))
