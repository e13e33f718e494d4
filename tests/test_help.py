"""``-h`` is one screen with the most-used flags of the mode and examples; ``--help-all`` is all."""
import contextlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

import analysis.flags
import convert
import main
import model_zoo
import sat.cli
from documented import ROOT, documented
from machine import programs
from settings import modes, sections

SERVER = os.path.join(ROOT, 'third_party', 'serve-data.py')
LINES, COLUMNS = 40, 80
DOCUMENTED = {command.text for command in documented()}
MODES = {modes.TRAINING: ([], 'python main.py'), modes.EVAL: (['--eval'], 'python main.py --eval --load CHECKPOINT'),
         modes.DIRECTORY: (['--eval-directory', 'x'], 'python main.py --eval-directory DIR --load CHECKPOINT')}


@pytest.fixture
def shown(capsys, monkeypatch):
    """function(program's main, words) -> what it prints before it ends well."""
    monkeypatch.setenv('COLUMNS', str(COLUMNS))
    monkeypatch.setattr(programs, '_sat', ())
    monkeypatch.chdir(ROOT)

    def show(run, words):
        with pytest.raises(SystemExit) as end:
            run(words)
        assert not end.value.code
        return capsys.readouterr().out
    return show


def flags_in(text):
    """Flags at the beginning of a line of a help."""
    return set(re.findall(r'^  (--?[\w-]+)', text, re.MULTILINE))


@pytest.mark.parametrize('mode', MODES)
def test_the_help_of_a_mode_is_one_screen_of_its_flags(shown, mode):
    words, usage = MODES[mode]
    text = shown(main.main, words + ['-h'])
    assert shown(main.main, words + ['--help']) == text
    lines = text.splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, text
    assert lines[0] == 'usage: {} [FLAGS]'.format(usage)
    expected = {option.flag.names[0] for option in sections.options()
                if option.flag.brief and mode in option.flag.modes}
    assert flags_in(text) - {'-h', '--help-all'} == expected and len(expected) >= 8


@pytest.mark.parametrize('mode, flags', [
    (modes.TRAINING, '--data --batch --arch -d --activation-name --recipe --attack --attack-epsilon --logdir --resume '
                     '--epochs --base-lr --load'),
    (modes.EVAL, '--data --batch --load --attack --attack-epsilon --attack-iter --norm --results-dir'),
    (modes.DIRECTORY, '--load --prediction-file')])
def test_it_has_what_most_people_need(shown, mode, flags):
    assert set(flags.split()) <= flags_in(shown(main.main, MODES[mode][0] + ['-h']))


@pytest.mark.parametrize('mode', MODES)
def test_its_examples_are_documented_commands_and_the_parsers(shown, mode):
    text = shown(main.main, MODES[mode][0] + ['-h']).split('examples:\n')[1].split('\nothers:')[0]
    examples = [line.strip() for line in text.splitlines()]
    assert len(examples) == (1 if mode == modes.DIRECTORY else 3)
    assert set(examples) <= DOCUMENTED
    for example in examples:
        if 'main.py ' in example:
            args = main.get_parser().parse_args(shlex.split(example.split('main.py ')[1]))
            assert modes.modes_of(args, False)[0] == mode


def test_it_says_how_to_see_the_other_modes_and_all_flags(shown):
    text = shown(main.main, ['-h'])
    assert '  --help-all' in text
    assert text.endswith('others:\n  python main.py --eval --load CHECKPOINT -h\n'
                         '  python main.py --eval-directory DIR --load CHECKPOINT -h\n')


def test_all_flags_are_there_where_all_are_asked_for(shown):
    text = shown(main.main, ['--help-all'])
    assert shown(main.main, ['--eval', '--help-all']) == text
    for option in sections.options():
        assert re.search(r'(^|[\s,\[]){}(?![\w-])'.format(option.flag.names[-1]), text), option.flag.names


def test_it_is_spelt_as_sat_where_that_was_typed(shown, monkeypatch):
    monkeypatch.setattr(programs, '_sat', ('sat',))
    text = shown(main.main, ['--eval', '-h'])
    assert text.startswith('usage: sat eval CHECKPOINT [FLAGS]\n') and 'python' not in text
    assert '  sat eval zoo:Res50-silu --data /path/to/imagenet\n' in text and '  sat train -h\n' in text


@pytest.mark.parametrize('run, words', [
    (model_zoo.main, []), (model_zoo.main, ['list']), (model_zoo.main, ['download']), (model_zoo.main, ['verify']),
    (convert.main, []), (convert.main, ['weights']), (convert.main, ['saved-model']),
    (analysis.flags.parse, []), (analysis.flags.parse, ['sweep']), (analysis.flags.parse, ['report'])])
def test_the_help_of_every_program_is_one_screen(shown, run, words):
    lines = shown(run, words + ['-h']).splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, '\n'.join(lines)


@pytest.mark.parametrize('run, mode', [(model_zoo.main, 'verify'), (convert.main, 'weights'),
                                       (convert.main, 'saved-model')])
def test_the_flags_of_networks_are_all_there_where_all_are_asked_for(shown, run, mode):
    brief, full = (flags_in(shown(run, [mode, word])) for word in ('-h', '--help-all'))
    assert brief < full and '--arch' in brief and '--patch-size' in full - brief


_QUICKLY = """
import contextlib, io, json, sys
import sat.cli
found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ['sat']
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        sat.cli.main(words)
    found.append(said.getvalue())
assert not [name for name in sys.modules if name.startswith(('tensorflow.', 'tensorpack.')) and
            getattr(sys.modules[name], '__file__', None)]
print(json.dumps(found))
"""


def test_help_and_completion_need_no_tensorflow_and_are_the_same(shown, monkeypatch, capsys):
    """Of words that modules have which import it: networks, attacks, optimizers and more."""
    asked = [['train', '-h'], ['train', '--help-all'], ['eval', '-h'], ['convert', 'weights', '--help-all'],
             ['zoo', 'verify', '-h'], ['analyze', 'report', '-h'], ['completion', 'fish']]
    done = subprocess.run([sys.executable, '-c', _QUICKLY, json.dumps(asked)], cwd=ROOT, stdout=subprocess.PIPE,
                          text=True, timeout=120, check=True)
    monkeypatch.setattr(programs, 'how_sat_was_typed', lambda: ['sat'])
    for words, text in zip(asked, json.loads(done.stdout)):
        monkeypatch.setattr(sys, 'argv', ['sat'])
        with contextlib.suppress(SystemExit):
            sat.cli.main(words)
        assert capsys.readouterr().out == text and len(text) > 500


def test_a_flag_that_is_none_is_refused_before_tensorflow_is_imported(tmp_path):
    code = 'import sys; import sat.cli\ntry: sat.cli.main({!r})\nfinally: print("tensorflow" in sys.modules)'
    for words in ['train', '--epsilon', '8'], ['eval', 'x', '--attack-iter', 'many']:
        done = subprocess.run([sys.executable, '-c', code.format(words)], cwd=tmp_path, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, 'False\n')
        assert done.stderr.startswith('sat {}: error: '.format(words[0])) and done.stderr.count('\n') == 1


def test_the_servers_help_is_one_screen_too(shown):
    server = runpy.run_path(SERVER)
    lines = shown(server['main'], ['-h']).splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, '\n'.join(lines)
    assert '--hwm' in shown(server['main'], ['--help-all'])
