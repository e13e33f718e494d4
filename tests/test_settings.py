"""settings/: an option is one field, and everything that is told of options follows from it."""
import dataclasses
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys

import numpy as np
import pytest

import main
import nets
from commands import sources
from commands.judge import _settings
from data import handshake
from data.folders import ImageSet
from data.info_server import InfoServer
from data.views import AUGMENTATIONS, Augmentation
from files import typed
from image_folders import make_folder
from settings import attack, fields, flags, recipes, sections, serving
from settings.checks import at_least, probability
from settings.data import View
from settings.fields import OF_VIEW, Served, option
from settings.modes import EVAL, EVERY, TRAINING, WITH_IMAGES
from settings.network import Network
from settings.resolve import resolve
from small_runs import ROOT, read_json, start_training
from tables import TABLES
from test_main import refusal
from third_party.imagenet_utils import Lease, new_job
from training.resume import check_same_run
from weights import card

FLAGS = {option.dest: option for option in sections.options()}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No data set, and no launcher."""
    for name in ('SAT_DATA', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'PMIX_RANK'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / 'X.npz', W=np.zeros(1))
    return str(tmp_path / 'X.npz')


@pytest.fixture
def judge(npz, tmp_path):
    """Words of an evaluation."""
    return ['--eval', '--load', npz, '--data', str(tmp_path)]


# What there is

def test_settings_know_neither_tensorflow_nor_what_needs_it():
    names = ', '.join('settings.' + name[:-3] for name in os.listdir(os.path.join(ROOT, 'settings'))
                      if name.endswith('.py') and name != '__init__.py')
    loaded = subprocess.run(
        [sys.executable, '-c', 'import sys, {}; print(*sys.modules)'.format(names)], cwd=ROOT, check=True,
        stdout=subprocess.PIPE, text=True).stdout.split()
    assert 'settings.resolve' in loaded
    assert not {'tensorflow', 'numpy', 'zmq', 'nets', 'weights.find', 'data.stream'} & set(loaded)


def test_an_option_stands_once_and_says_where_it_means_something():
    assert len(FLAGS) == len(sections.options()) == len({option.flag.names for option in sections.options()})
    for each in sections.options():
        assert each.flag.modes and each.flag.help, each.dest
        assert not each.decides_verdict or EVAL in each.flag.modes, each.dest
        assert not each.fixes_run or TRAINING in each.flag.modes, each.dest


def test_recipes_set_options_that_there_are_and_that_the_parser_leaves_open():
    parsed = main.get_parser().parse_args([])
    for name in recipes.names():
        assert FLAGS[name] and getattr(parsed, name) is None


def test_what_is_named_by_a_table_has_one():
    named = {option.flag.check for option in sections.options() if isinstance(option.flag.check, str)}
    assert named - {fields.SWITCH} == set(TABLES)


def test_the_release_s_flags_are_options_by_another_name():
    from efficientnet import main as released
    same = [flag.same for flag in released.EVALUATION.values()] + [flag for _, flag in released.TRAINING.values()]
    assert set(filter(None, same)) <= {option.flag.names[-1] for option in sections.options()}


# The settings of a command

def test_a_training_has_two_attacks_of_one_type():
    found = resolve(main.parse_args(['--recipe', 'feature-denoising', '--attack-precision', 'bfloat16', '--xla',
                                     '--eval-attack-epsilon', '8', '--attack-gradient', 'silu']))
    assert found.training_attack == attack.Attack(
        num_iter=30, epsilon=16.0, step_size=1.0, targeted=True, target='random', prob_start_from_clean=0.2,
        precision='bfloat16', xla=True, gradient='silu')
    # Of the training's, the evaluations have the aim alone.
    assert found.evaluation_attack == attack.Attack(num_iter=10, epsilon=8.0, step_size=1.0, targeted=True,
                                                    target='random')


def test_an_evaluation_has_the_attack_that_its_flags_are_of(judge):
    found = resolve(main.parse_args(judge + ['--attack', 'momentum', '--norm', 'L2', '--attack-epsilon', '100',
                                             '--eval-attack-iter', '5', '--attack-target', 'least-likely']))
    assert found.training_attack is None
    assert found.evaluation_attack == attack.Attack(
        kind='momentum', norm='L2', num_iter=5, epsilon=100.0, step_size=20.0, targeted=True, target='least-likely',
        precision='float32')


def test_every_value_of_a_training_s_namespace_is_in_its_settings_once():
    args = main.parse_args(['--batch', '7', '--seed', '3', '--lr-drop-epochs', '5,2', '--more-eval-attack-iter', '20'])
    found = resolve(args)
    values = {}
    for section in ('data', 'network', 'view', 'training_attack', 'run', 'evaluation', 'update', 'schedule'):
        names = {option.field: option.dest for option in fields.options_of(type(getattr(found, section)))
                 if not option.dest.startswith('eval_attack_')}
        values.update({names[name]: value for name, value in vars(getattr(found, section)).items()})
    assert values == {name: value for name, value in vars(args).items()
                      if name in FLAGS and not name.startswith('eval_attack_')}


def test_settings_are_frozen_and_whole():
    found = resolve(main.parse_args([]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.run.seed = 1
    with pytest.raises(TypeError, match='--attack-epsilon has no value'):
        attack.Attack(num_iter=1, step_size=1.0, targeted=False)


# An option more, which is one field

@dataclasses.dataclass(frozen=True)
class ErasingView(View):
    erasing: float = option(
        '--erasing', WITH_IMAGES, 'probability that a rectangle of an image is erased (default: 0)', default=0.0,
        late=True, check=probability, unit='P', fixes_run=True, decides_verdict=True,
        served=Served('probability that a rectangle of an image is erased (default: %(default)s)', check=probability,
                      unit='P', default=0.0, wire=typed.number(0, 1), compared=OF_VIEW))


@dataclasses.dataclass(frozen=True)
class ErasingSettings(sections.Settings):
    view: ErasingView


@pytest.fixture
def erasing(monkeypatch):
    monkeypatch.setattr(sections, 'ALL', ErasingSettings)


@pytest.fixture
def serve_data(erasing):
    """The module of the data server."""
    handler = signal.getsignal(signal.SIGINT)
    spec = importlib.util.spec_from_file_location('serve_data', os.path.join(ROOT, 'third_party', 'serve-data.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    signal.signal(signal.SIGINT, handler)


def test_it_is_parsed_checked_and_in_the_help(erasing, capsys):
    assert [main.parse_args(argv).erasing for argv in ([], ['--erasing', '0.25'])] == [0.0, 0.25]
    assert '--erasing' in refusal(capsys, main.parse_args, ['--erasing', '2'])
    assert '--erasing P' in main.get_parser().format_help()
    assert resolve(main.parse_args(['--erasing', '0.25'])).view.erasing == 0.25


def test_a_recipe_may_set_it(erasing, serve_data, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, 'sat', recipes.RECIPES['sat'].but(erasing=0.5))
    assert [main.parse_args(argv).erasing for argv in (
        [], ['--erasing', '0'], ['--recipe', 'feature-denoising'])] == [0.5, 0.0, 0.0]
    assert serve_data.get_parser().parse_args([]).erasing == 0.0  # which knows of no recipe


def test_it_is_with_the_images_of_a_run_in_training_and_in_evaluations(erasing, monkeypatch, tmp_path):
    """From the command line to where an image becomes what a network is shown, and into the run's record."""
    seen = {'trained': set(), 'evaluated': set()}
    whole = AUGMENTATIONS['none']
    monkeypatch.setitem(AUGMENTATIONS, 'watched', Augmentation(
        lambda image, view, rng: seen['trained'].add(view.erasing) or whole.trained(image, view, rng),
        lambda image, view: seen['evaluated'].add(view.erasing) or whole.evaluated(image, view)))
    data = make_folder(tmp_path / 'images', ['{}/{}/{}.png'.format(split, name, number) for split in ('train', 'val')
                                             for name in 'ab' for number in range(3)])
    start_training(data, tmp_path / 'run', '--augmentation', 'watched', '--erasing', '0.25', '--epochs', '1')
    assert seen == {'trained': {0.25}, 'evaluated': {0.25}}
    assert read_json(tmp_path / 'run' / 'run.json')['erasing'] == 0.25


def test_it_is_refused_where_it_means_nothing(erasing, capsys):
    assert '--erasing is for training and --eval and --eval-directory, not for --fake; leave it out' in refusal(
        capsys, main.parse_args, ['--fake', '--erasing', '0.1'])


def test_a_run_that_goes_on_must_have_the_same(erasing, tmp_path):
    args = main.parse_args(['--erasing', '0.1'])
    (tmp_path / 'run.json').write_text(json.dumps(dict(vars(args), ranks=1)))
    check_same_run(str(tmp_path), dict(vars(args), ranks=1))
    with pytest.raises(ValueError, match='was started with erasing 0.1, now it is 0.2'):
        check_same_run(str(tmp_path), dict(vars(args), ranks=1, erasing=0.2))


def test_an_evaluation_that_goes_on_must_have_the_same(erasing, judge):
    dataset = ImageSet([], np.zeros(0, np.int32), [], 'none')
    kept = _settings(main.parse_args(judge + ['--erasing', '0.1']), dataset, {}, [])
    assert kept['erasing'] == 0.1


def test_the_data_server_has_it_and_a_trainer_refuses_another_value(erasing, serve_data, tmp_path):
    data = make_folder(tmp_path / 'images', ['{}/{}/1.png'.format(split, name) for split in ('train', 'val')
                                             for name in 'ab'])
    address = 'ipc://@test-settings-' + secrets.token_hex(8)
    _, description = serve_data.make_stream(serve_data.get_parser().parse_args(['--data', data, '--erasing', '0.3']))
    assert description['erasing'] == 0.3
    server = InfoServer(address, description)

    def expected(*argv):
        return sources.expected_of_server(main.parse_args(['--serve-address', address, *argv]))
    try:
        with Lease(address, expected('--data', data, '--erasing', '0.3'), new_job(), 10) as lease:
            taken = main.parse_args(['--serve-address', address])
            sources.take_served(taken, lease.description, address, [lease.description])
        assert taken.erasing == 0.3 and 'erasing' not in expected()
        for argv in (['--data', data, '--erasing', '0.4'], ['--erasing', '0.4']):
            with pytest.raises(ValueError, match='erasing: server 0.3, this run 0.4; .*serve-data.* --erasing 0.4 '):
                Lease(address, expected(*argv), new_job(), 10)
        with pytest.raises(ValueError, match='erasing: server 0.3, this run 0.0'):
            Lease(address, expected('--data', data), new_job(), 10)
    finally:
        server.close()


def test_what_a_server_says_of_it_is_checked_before_it_is_believed(erasing):
    description = {'protocol': handshake.PROTOCOL, 'server': 's', 'fingerprint': 'f', 'shared': 's', 'batch': 1,
                   'input_size': 8, 'dtype': 'uint8', 'channels': 'BGR', 'num_images': 1, 'shard': [0, 1],
                   'classes': [], 'dataset': 'digits', 'augmentation': 'none', 'seed': 0, 'fake': False}
    assert handshake.check_description(dict(description, erasing=0.5), 'it')['erasing'] == 0.5
    for wrong in (dict(description, erasing=2), dict(description, erasing='0.5'), description):
        with pytest.raises(typed.Malformed, match='erasing'):
            handshake.check_description(wrong, 'it')


def test_without_the_field_there_is_nothing_of_it(capsys):
    assert '--erasing' in refusal(capsys, main.parse_args, ['--erasing', '0.1'])
    assert 'erasing' not in serving.described() and 'erasing' not in sections.fixing_a_run()


@dataclasses.dataclass(frozen=True)
class StemNetwork(Network):
    stem_width: int = option('--stem-width', EVERY, 'channels of the stem (default: %(default)s)', default=64,
                             check=at_least(1), fixes_run=True, decides_verdict=True, written=typed.whole(1, 999))


@dataclasses.dataclass(frozen=True)
class StemSettings(sections.Settings):
    network: StemNetwork


def test_an_option_of_a_network_is_written_with_its_weights_and_comes_with_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sections, 'ALL', StemSettings)
    written = card.make(main.parse_args(['--stem-width', '32']), None)
    assert written['flags']['stem_width'] == 32

    def judged(said, *argv):
        path = str(tmp_path / 'X.npz')
        np.savez(path, W=np.zeros(1), **card.as_entry(dict(written, flags=dict(written['flags'], stem_width=said))))
        return main.parse_args(['--eval', '--load', path, *argv])
    assert judged(32).stem_width == 32 and judged(32, '--ignore-checkpoint-flags', '--stem-width', '8').stem_width == 8
    assert 'is a network of --stem-width 32' in refusal(capsys, lambda argv: judged(32, *argv), ['--stem-width', '8'])
    assert 'stem_width: 1000 is no whole number in 1 to 999' in refusal(capsys, lambda argv: judged(1000), [])


# The programs that have a part of the options

def test_a_value_of_its_own_is_in_every_option_that_a_data_server_has():
    assert all(each.flag.help for each in serving.data_server_options())
    assert serving.flags_for({'batch': 4, 'seed': 0, 'augmentation': None, 'fake': False}) == ['--batch', '4']
    assert serving.flags_for({'seed': 7}) == ['--seed', '7']


def test_a_table_is_read_anew_for_each_parser(monkeypatch):
    monkeypatch.setitem(nets.ARCHITECTURES, 'Tiny', nets.ARCHITECTURES['CifarResNet'])
    assert main.get_parser().parse_args(['--arch', 'Tiny']).arch == 'Tiny'
    assert 'Tiny' in main.get_parser().format_help()
    assert flags.typed(main.get_parser(), ['--arch', 'Tiny']) == {'arch': 'Tiny'}
