"""``sat COMMAND``: every program by one name, with its exit codes, and what is told to type is what works there."""
import os
import shlex
import subprocess
import sys

import pytest

import sat.cli
from data.handshake import server_command
from documented import as_script, documented
from image_folders import make_noise_folder
from machine import programs
from machine.gpus import share_out
from small_runs import read_json
from test_main import refusal
from zoo import published

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Here and now ``sat`` is typed, in a folder that has a `main.py` and a `data` of its own; function(words) that
    does what it does."""
    monkeypatch.setattr(sys, 'argv', ['/somewhere/bin/sat'])
    monkeypatch.setattr(programs, '_sat', ())
    monkeypatch.setattr(programs.shutil, 'which', lambda word: '/somewhere/bin/' + word)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'main.py').write_text('raise SystemExit("not this one")')
    return lambda *words: sat.cli.main(list(words))


def test_it_alone_says_what_there_is_on_one_screen(typed, capsys):
    assert typed() == 0
    shown = capsys.readouterr().out
    assert typed('--help') == 0 and capsys.readouterr().out == shown
    lines = shown.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for name in 'train', 'eval', 'analyze', 'zoo', 'convert', 'serve', 'table', 'completion':
        assert any(line.startswith('  {} '.format(name)) for line in lines)
    assert sum(line.startswith('  sat ') for line in lines) == 3


@pytest.mark.parametrize('word, meant', [('evaluate', 'eval'), ('trian', 'train'), ('test', 'eval'), ('models', 'zoo'),
                                         ('analyse', 'analyze'), ('Export', 'convert'), ('serve-data', 'serve')])
def test_a_command_that_is_none_is_told_by_its_name_here(typed, capsys, word, meant):
    line = refusal(capsys, lambda words: typed(*words), [word, '--data', 'x'])
    assert line == 'sat: error: there is no command {}; did you mean {}?; sat -h has all\n'.format(word, meant)


@pytest.mark.parametrize('words, line', [
    (['train', '--epsilon', '8'], 'sat train: error: unrecognized arguments: --epsilon 8; did you mean '
                                  '--attack-epsilon?'),
    (['train', '--eval'], 'sat train: error: --eval: this trains; type sat eval CHECKPOINT'),
    (['train', '--eval-directory=x'], 'sat train: error: --eval-directory=x: this trains; type sat eval CHECKPOINT'),
    (['eval', '--data', '.'], 'sat eval: error: --eval needs --load CHECKPOINT'),
    (['eval', 'nothing', '--data', '.'], "sat eval: error: --load 'nothing': no such checkpoint"),
    (['eval', '--eval-directory', '.'], 'sat eval: error: --eval-directory needs --load CHECKPOINT'),
    (['eval', 'zoo:Res50-sulu', '--data', '.'], "sat eval: error: no published model is called 'Res50-sulu'; did you "
                                                'mean Res50-silu'),
    (['zoo', 'lst'], "sat zoo: error: argument mode: invalid choice: 'lst'"),
    (['zoo', 'list', 'Res50-sulu'], "sat zoo: error: no published model is called 'Res50-sulu'; did you mean "
                                    'Res50-silu'),
    (['zoo', 'verify', 'x', '--arc', 'ViT'], 'sat zoo: error: unrecognized arguments: --arc ViT; did you mean --arch?'),
    (['convert', 'weight'], "sat convert: error: argument mode: invalid choice: 'weight'"),
    (['analyze', 'swep'], "sat analyze: error: argument COMMAND: invalid choice: 'swep'"),
    (['serve', '--dataset', '.'], 'sat serve: error: unrecognized arguments: --dataset .; did you mean --data?'),
    (['table', 'b0'], 'sat table: error: unrecognized arguments: b0'),
    (['completion', 'bsh'], "sat completion: error: argument shell: invalid choice: 'bsh'")])
def test_a_mistake_is_one_line_under_the_name_that_was_typed(typed, capsys, tmp_path, words, line):
    before = sorted(os.listdir(tmp_path))
    assert refusal(capsys, lambda words: typed(*words), words).startswith(line)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_server_that_cannot_serve_says_so_under_the_name_that_was_typed(typed, capsys):
    assert typed('serve', '--data', 'data') == 2
    assert capsys.readouterr().err.startswith('sat serve: ')


@pytest.mark.parametrize('words, main_words', [
    ('CKPT', '--eval --load CKPT'), ('--data D CKPT --batch 4', '--eval --load CKPT --data D --batch 4'),
    ('--data D --batch 4 CKPT', '--eval --load CKPT --data D --batch 4'), ('--load CKPT', '--eval --load CKPT'),
    ('CKPT --data CKPT', '--eval --load CKPT --data CKPT'), ('--data CKPT CKPT', '--eval --load CKPT --data CKPT'),
    ('--eval-directory D CKPT', '--load CKPT --eval-directory D'), ('--targeted CKPT', '--eval --load CKPT --targeted'),
    ('--threat-models --load CKPT', '--eval --threat-models --load CKPT'), ('--data D', '--eval --data D')])
def test_the_checkpoint_may_stand_anywhere(words, main_words):
    assert sat.cli.COMMANDS['eval'].words(words.split()) == main_words.split()


@pytest.mark.parametrize('words, left', [(['A', 'B'], 'A B'), (['A', '--load', 'B'], 'A')])
def test_a_second_checkpoint_is_refused(capsys, words, left):
    line = refusal(capsys, sat.cli.COMMANDS['eval'].words, words)
    assert line.endswith('unrecognized arguments: {}\n'.format(left))


def test_training_judging_and_the_rest_are_the_programs_own(typed, capsys, tmp_path):
    data = make_noise_folder(tmp_path / 'images', {'train': 4, 'val': 2}, ['ant', 'bee'])
    small = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '16', '--batch', '2', '--data', data]
    assert not typed('train', *small, '--logdir', 'runs/one', '--epochs', '1', '--steps-per-epoch', '1',
                     '--attack-iter', '1', '--eval-attack-iter', '1')
    assert read_json(tmp_path / 'runs' / 'one' / 'run.json')['command'][:2] == ['sat', 'train']
    assert not typed('eval', 'runs/one', '--data', data, '--attack-iter', '1', '--results-dir', 'judged')
    assert read_json(tmp_path / 'judged' / 'results.json')['complete'] is True
    assert not typed('eval', '--eval-directory', os.path.join(data, 'val', 'ant'), '--load', 'runs/one')
    assert os.path.getsize(tmp_path / 'predictions.csv')
    assert not typed('convert', 'weights', '--load', 'runs/one', 'plain.npz')
    assert typed('zoo', 'verify', 'plain.npz') == 0
    assert 'variables of CifarResNet8 fit' in capsys.readouterr().out


@pytest.mark.parametrize('script, here', [
    ('python main.py --eval --load zoo:A --data D', 'sat eval zoo:A --data D'),
    ('python main.py --eval --attack pgd', 'sat eval --attack pgd'), ('python main.py', 'sat train'),
    ('python main.py --eval-directory x', 'sat eval --eval-directory x'),
    ('mpirun -np 2 python main.py --batch 4', 'mpirun -np 2 sat train --batch 4'),
    ('python model_zoo.py list', 'sat zoo list'), ('python convert.py weights', 'sat convert weights'),
    ('.venv/bin/python third_party/serve-data.py --fake', 'sat serve --fake'),
    ('python efficientnet/table.py', 'sat table'), ('python -m analysis sweep', 'sat analyze sweep')])
def test_a_command_is_spelt_as_it_was_typed_and_works_from_any_folder(monkeypatch, tmp_path, script, here):
    assert as_script(here).replace('.venv/bin/', '') == script.replace('.venv/bin/python ', '')
    monkeypatch.setattr(programs, '_sat', ())
    monkeypatch.chdir(ROOT)
    assert programs.spelt(script) == script
    monkeypatch.chdir(tmp_path)
    elsewhere = programs.spelt(script)
    for word in shlex.split(elsewhere):
        assert not word.endswith('.py') or os.path.isfile(word)
    monkeypatch.setattr(programs, '_sat', ('sat',))
    assert programs.spelt(script) == here
    monkeypatch.setattr(programs, '_sat', ('/a b/bin/sat',))
    assert programs.spelt(script) == here.replace('sat ', "'/a b/bin/sat' ")


def test_what_is_told_to_type_is_what_works_for_who_typed_sat(monkeypatch):
    """Of the places that tell a whole command."""
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setattr(programs, '_sat', ())
    programs.typed_as_sat(['sat'], 'eval', ['run 1/best', '--data', 'D'])
    assert programs.command() == ['sat', 'eval', 'run 1/best', '--data', 'D']
    assert programs.to_type() == "sat eval 'run 1/best' --data D"
    with pytest.raises(ValueError, match="mpirun -np 1 sat eval 'run 1/best' --data D"):
        share_out([['a'], ['a']])
    assert server_command({'dataset': 'D', 'batch': 32}, 'ipc://@imagenet-train-b32').startswith('sat serve --data D')
    with pytest.raises(ValueError, match='`sat zoo list` shows all'):
        published.find('nothing like it')


@pytest.mark.parametrize('argv, command, to_type', [
    (['main.py', '--data', 'a b'], ['main.py', '--data', 'a b'], "python main.py --data 'a b'"),
    (['python -m analysis', 'sweep'], ['python', '-m', 'analysis', 'sweep'], 'python -m analysis sweep')])
def test_scripts_are_told_as_they_were(monkeypatch, argv, command, to_type):
    monkeypatch.setattr(sys, 'argv', argv)
    monkeypatch.setattr(programs, '_sat', ())
    assert (programs.command(), programs.to_type()) == (command, to_type)
    assert programs.name('serve-data') == 'serve-data'


@pytest.mark.parametrize('argv0, found, words', [
    ('/e/bin/sat', {'sat': '/e/bin/sat'}, ['sat']), ('/e/bin/sat', {'sat': '/other/sat'}, ['/e/bin/sat']),
    ('/e/bin/sat', {}, ['/e/bin/sat']), ('/c/sat/__main__.py', {'python': sys.executable}, ['python', '-m', 'sat']),
    ('/c/sat/__main__.py', {}, [sys.executable, '-m', 'sat'])])
def test_it_is_told_as_the_shell_finds_it(monkeypatch, argv0, found, words):
    monkeypatch.setattr(sys, 'argv', [argv0])
    monkeypatch.setattr(programs.shutil, 'which', found.get)
    assert programs.how_sat_was_typed() == words


def test_it_is_installed_and_starts_where_the_readers_own_modules_have_the_same_names(tmp_path):
    for name in 'main.py', 'model_zoo.py', 'files':
        (tmp_path / name).write_text('raise SystemExit(9)') if name.endswith('.py') else (tmp_path / name).mkdir()
    console = os.path.join(os.path.dirname(sys.executable), 'sat')
    for start in [console], [sys.executable, '-m', 'sat']:
        done = subprocess.run([*start, 'zoo', 'list', 'Res50-silu'], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                              timeout=120)
        assert done.returncode == 0 and 'Res50-silu' in done.stdout
        assert done.stdout.split('judge it    ')[1].splitlines()[0].endswith('sat eval zoo:Res50-silu --data DIR')


def test_the_examples_of_the_screen_are_documented_commands(typed, capsys):
    typed()
    shown = [line.strip() for line in capsys.readouterr().out.split('examples:\n')[1].split('\n\n')[0].splitlines()]
    assert set(shown) <= {command.text for command in documented() if command.source == 'sat/cli/__init__.py'}


def test_every_command_names_a_program_that_there_is():
    for command in sat.cli.COMMANDS.values():
        assert os.path.isfile(os.path.join(ROOT, command.file))
    assert set(programs.SAME.values()) - {'eval --eval-directory'} == set(sat.cli.COMMANDS) - {'completion'}
