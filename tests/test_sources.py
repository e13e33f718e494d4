"""Where a command's images come from: --data, SAT_DATA, the data server or the digits, and the number of classes."""
import contextlib
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
import weights.flags
from commands import judge, sources, train
from commands.saying import say_idle_gpus
from data.synsets import synsets
from efficientnet import main as released
from image_folders import make_folder, make_noise_folder
from ranks.launched import Ranks
from small_runs import ROOT, epochs_in, read_json
from test_main import refusal
from weights.classes import classes_in

SERVER = os.path.join(ROOT, 'third_party', 'serve-data.py')
# But for data, of which it takes what there is.
SMALL = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--batch', '4', '--attack-iter', '1', '--epochs', '1',
         '--steps-per-epoch', '2', '--eval-attack-iter', '1']
SERVED = {'dataset': 'digits', 'augmentation': 'cifar', 'augment_name': None, 'randaug_num_layers': None,
          'randaug_magnitude': None}


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv('SAT_DATA', raising=False)


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / 'X.npz', W=np.zeros(1))
    return str(tmp_path / 'X.npz')


@pytest.fixture
def address():
    return 'ipc://@test-sources-' + secrets.token_hex(8)


@pytest.fixture(scope='module')
def three(tmp_path_factory):
    """A data set of three classes."""
    return make_noise_folder(tmp_path_factory.mktemp('three'), {'train': 12, 'val': 5}, 'abc')


@pytest.fixture
def said():
    """What this thread logs, a list of lines: threads of tests before may still end, and say so."""
    lines, handler, this_thread = [], logging.Handler(), threading.get_ident()
    handler.addFilter(lambda record: record.thread == this_thread)  # a filter runs in the thread that logs
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger('tensorpack').addHandler(handler)
    yield lines
    logging.getLogger('tensorpack').removeHandler(handler)


def run(*argv):
    with tf.Graph().as_default():
        main.main([str(word) for word in argv])


# The digits are for networks of ten outputs

@pytest.mark.parametrize('argv', [['--eval', '--load', '{npz}'], [], ['--attack-iter', '30'],
                                  ['--eval', '--load', '{npz}', '--arch', 'CifarResNet', '--num-classes', '100'],
                                  ['--arch', 'CifarResNet', '--num-classes', '12']])
def test_a_network_of_other_than_ten_outputs_is_not_given_the_digits(capsys, graph, npz, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, main.main, [word.format(npz=npz) for word in argv])
    assert '--data DIR' in line and 'SAT_DATA' in line and 'outputs' in line
    assert os.listdir(tmp_path) == ['X.npz']


def test_the_analysis_does_not_give_it_the_digits_either(capsys, npz, monkeypatch, tmp_path):
    import analysis.__main__
    monkeypatch.chdir(tmp_path)
    assert '--data DIR' in refusal(capsys, analysis.__main__.main, ['sweep', '--load', npz])


def test_a_network_of_ten_outputs_has_the_digits(capsys, graph, npz, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "'{}'".format(npz) in refusal(capsys, main.main, ['--eval', '--load', npz, '--arch', 'CifarResNet'])
    sources.check(SimpleNamespace(data=None, num_classes=10))


# SAT_DATA

def test_sat_data_is_the_default_of_data_in_every_mode_that_has_data(monkeypatch, npz, three, tmp_path):
    monkeypatch.setenv('SAT_DATA', three)
    judge = ['--eval', '--load', npz]
    assert [main.parse_args(argv).data for argv in ([], judge, judge + ['--data', str(tmp_path)], ['--fake'],
                                                    ['--eval-directory', str(tmp_path), '--load', npz])] == [
        three, three, str(tmp_path), None, None]
    flags, _ = released.parse(['--mode=eval', '--ckpt_path=' + npz])
    assert flags.data_dir == three
    assert released.parse(['--mode=eval', '--ckpt_path=' + npz, '--data_dir=elsewhere'])[0].data_dir == 'elsewhere'
    from analysis import flags as analysis_flags
    assert analysis_flags.parse(['sweep', '--load', npz])[1][0].args.data == three
    monkeypatch.setenv('SAT_DATA', '')
    assert main.parse_args([]).data is None


def test_sat_data_that_is_not_there_is_refused_by_its_name(monkeypatch, capsys):
    monkeypatch.setenv('SAT_DATA', '/nowhere/at/all')
    for argv in ([], ['--eval', '--load', 'x']):
        line = refusal(capsys, main.parse_args, argv)
        assert "SAT_DATA '/nowhere/at/all': no such directory" in line
    assert 'SAT_DATA' in refusal(capsys, released.parse, ['--mode=eval', '--ckpt_path=x'])
    assert main.parse_args(['--fake']).data is None
    served = subprocess.run([sys.executable, SERVER], cwd='/', stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)
    assert served.returncode == 2 and served.stderr.count('\n') == 1 and 'SAT_DATA' in served.stderr


@contextlib.contextmanager
def data_server(address, *flags):
    server = subprocess.Popen([sys.executable, SERVER, '--batch', '4', '--input-size', '8', '--workers', '1',
                               '--address', address, *flags], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert 'ready' in line
        yield line
    finally:
        server.terminate()
        server.communicate()


def test_the_server_has_sat_data_too_but_for_constant_data(monkeypatch, address, three):
    monkeypatch.setenv('SAT_DATA', three)
    with data_server(address) as line:
        assert three in line and '3 classes' in line
    with data_server(address, '--fake') as line:
        assert three not in line and 'fake' in line


@pytest.mark.parametrize('environment, data', [
    ({}, '/home/u/data/imagenet'), ({'SAT_DATA': '/s'}, '/s'), ({'SAT_DATA': '/s', 'DATA': '/d'}, '/d'),
    ({'SAT_DATA': '/s', 'DATA': ''}, '')])
def test_slurm_jobs_have_sat_data_and_an_empty_data_is_the_digits(environment, data):
    script = 'source slurm/launch.sh; echo "$DATA|$SAT_DATA|${main_flags[*]}"'
    shown = subprocess.run(['bash', '-c', script, 'bash', '-d', '50'], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                           check=True, env={
        'PATH': os.environ['PATH'], 'SLURM_JOB_ID': '1', 'SAT_ROOT': ROOT, 'HOME': '/home/u', **environment}).stdout
    assert shown.strip() == '{0}|{0}|--batch 32{1} -d 50'.format(data, ' --data ' + data if data else '')


# What a data server decides

def test_a_served_training_without_data_leaves_to_its_server_what_is_not_typed(monkeypatch, address, three):
    served = ['--serve-address', address]
    both = ('augmentation', 'num_classes')
    for argv, left in (([], both), (['--augmentation', 'cifar'], both[1:]), (['--num-classes', '7'], both[:1]),
                       (['--augmentation', 'cifar', '--num-classes', '7'], ()), (['--data', three], ()),
                       (['--fake'], ())):
        assert main.parse_args(served + argv).left_to_server == left
    assert main.parse_args(['--attack-iter', '30']).left_to_server == ()
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
    assert main.parse_args(['--attack-iter', '30']).left_to_server == both
    assert main.parse_args(['--fake']).left_to_server == ()


def test_a_training_without_data_takes_images_augmentation_and_classes_from_its_server_and_is_judged_on_its_images(
        address, three, tmp_path, said):
    with data_server(address, '--data', three, '--augmentation', 'none', '--augment-name', 'autoaugment'):
        run(*SMALL, '--serve-address', address, '--logdir', tmp_path / 'run')
    args = read_json(tmp_path / 'run' / 'run.json')
    assert (args['data'], args['augmentation'], args['augment_name'], args['num_classes']) == (
        os.path.realpath(three), 'none', 'autoaugment', 3)
    assert epochs_in(tmp_path / 'run') == [1]
    judged = read_json(tmp_path / 'run' / 'stats.json')[0]['eval-clean-top1-error'] * 5
    assert judged == pytest.approx(round(judged))
    assert classes_in(str(tmp_path / 'run')) == ['a', 'b', 'c']
    assert [line for line in said if 'are those of the data server at ' + address in line]


def test_a_typed_augmentation_must_be_the_server_s_and_the_advice_names_a_data_set(capsys, graph, address, three,
                                                                                   tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with data_server(address, '--data', three, '--augmentation', 'none'):
        line = refusal(capsys, main.main, SMALL + ['--serve-address', address, '--augmentation', 'cifar'])
    assert "augmentation: server 'none', this run 'cifar'" in line and 'serve-data.py --data DIR ' in line


def test_without_a_server_the_advice_is_not_to_train_on_digits(capsys, graph, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, main.main, ['--attack-iter', '30', '--serve-address', address, '--serve-timeout', '0.2'])
    assert 'serve-data.py --data DIR --batch 32 --input-size 224 --address ' + address in line


def take(address, served, *argv, others=()):
    args = main.parse_args(['--serve-address', address, *argv])
    sources.take_served(args, served, address, [served, *others])
    return args


def test_digits_are_taken_from_a_server_for_ten_outputs_alone(address):
    args = take(address, SERVED, '--arch', 'CifarResNet')
    assert (args.data, args.augmentation, args.num_classes) == (None, 'cifar', 10)
    for argv in ([], ['--attack-iter', '30'], ['--arch', 'CifarResNet', '--num-classes', '100']):
        with pytest.raises(ValueError, match='serves the handwritten digits, of 10 classes, .*; start it with --data'):
            take(address, SERVED, *argv)


@pytest.mark.parametrize('dataset, message', [('fake', 'give --fake, or start it with --data DIR'),
                                              ('/nowhere/imagenet', "reads '/nowhere/imagenet', where this machine")])
def test_what_a_trainer_cannot_be_judged_by_is_refused(address, dataset, message):
    with pytest.raises(ValueError, match=message):
        take(address, dict(SERVED, dataset=dataset))


def test_servers_that_augment_in_other_ways_are_refused(address, three):
    with pytest.raises(ValueError, match='differ in --augmentation: cifar and none'):
        take(address, dict(SERVED, dataset=three), others=[dict(SERVED, augmentation='none')])


def test_a_data_set_that_is_given_is_the_trainer_s_own_affair(address, three):
    args = take(address, dict(SERVED, dataset='/elsewhere'), '--data', three)
    assert (args.data, args.augmentation) == (three, 'imagenet')


# The number of classes

@pytest.fixture
def imagenet(tmp_path):
    return make_folder(tmp_path / 'imagenet', ['{}/{}/1.png'.format(split, name) for split in ('train', 'val')
                                               for name in synsets()[5:8]])


@pytest.mark.parametrize('mode', [[], ['--eval', '--load', '{npz}']])
def test_a_folder_s_number_of_classes_is_the_network_s_and_said(npz, three, imagenet, tmp_path, mode):
    def parse(data, *more):
        return main.parse_args([word.format(npz=npz) for word in mode] + ['--data', str(data), *more])
    args = parse(three)
    assert args.num_classes == 3
    assert args.notes == ("--num-classes 3: as many as '{}' has class folders".format(three),)
    assert parse(three, '--num-classes', '7').num_classes == 7 and parse(three, '--num-classes', '7').notes == ()
    assert (parse(imagenet).num_classes, parse(imagenet).notes) == (1000, ())
    assert parse(imagenet, '--arch', 'CifarResNet').num_classes == 1000
    assert parse(imagenet, '--num-classes', '1001').num_classes == 1001
    (tmp_path / 'empty').mkdir()
    assert parse(tmp_path / 'empty').num_classes == 1000
    make_folder(tmp_path / 'above', ['four/train/{}/1.png'.format(name) for name in 'abcd'])
    assert parse(tmp_path / 'above').num_classes == 1000  # no set of one class; opening it says what is wrong
    flat = make_folder(tmp_path / 'flat', ['val/{}.png'.format(k) for k in range(3)])
    assert parse(flat).num_classes == 1000
    only_val = make_folder(tmp_path / 'only', ['val/{}/1.png'.format(name) for name in 'abcde'])
    assert parse(only_val).num_classes == 5


def test_shards_leave_the_number_of_outputs_as_it_is(tmp_path):
    (tmp_path / 'train-00000-of-00001').write_bytes(b'')
    assert main.parse_args(['--data', str(tmp_path)]).num_classes == 1000


def test_a_checkpoint_s_own_number_of_outputs_goes_before_the_folder_s(monkeypatch, npz, three):
    monkeypatch.setattr(weights.flags, '_defaults', lambda *_: weights.flags._Defaults(['--num-classes', '5']))
    assert main.parse_args(['--eval', '--load', npz, '--data', three]).num_classes == 5


def test_a_run_says_the_number_of_classes_and_keeps_it(three, tmp_path, said):
    run(*SMALL, '--data', three, '--logdir', tmp_path / 'run')
    assert "--num-classes 3: as many as '{}' has class folders".format(three) in said
    assert read_json(tmp_path / 'run' / 'run.json')['num_classes'] == 3


# All GPUs of a machine

@pytest.mark.parametrize('gpus, ranks, told', [(0, Ranks(), False), (1, Ranks(), False), (4, Ranks(), True),
                                               (4, Ranks(0, 2, 0, 2), False)])
def test_one_process_of_a_machine_with_several_gpus_is_told_how_to_use_all(monkeypatch, said, gpus, ranks, told):
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['gpu'] * gpus)
    monkeypatch.setattr(sys, 'argv', ['main.py', '--eval', '--load', 'my net.npz'])
    say_idle_gpus(ranks)
    assert said == ['1 of 4 GPUs is used; for all of them type:\n  mpirun -np 4 -bind-to none python main.py --eval '
                    "--load 'my net.npz'"] * told


def test_trainings_and_evaluations_say_it(monkeypatch, three, tmp_path):
    asked = []
    for user in (train, judge):
        monkeypatch.setattr(user, 'say_idle_gpus', lambda *args: asked.append(args))
    run(*SMALL, '--data', three, '--logdir', tmp_path / 'run')
    assert asked == [(Ranks(), '  beside python third_party/serve-data.py with the same data and --batch')]
    run('--eval', *SMALL[:6], '--data', three, '--load', tmp_path / 'run', '--attack-iter', '0', '--results-dir',
        tmp_path / 'results')
    assert asked[1:] == [(Ranks(),)]
    results = json.loads((tmp_path / 'results' / 'results.json').read_text())
    assert results['num_images'] == 5 and results['args']['num_classes'] == 3
