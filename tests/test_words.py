"""What a command says: few lines of 80 columns on the terminal, all else in log.log, and the names of figures."""
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import main
from attacks.pgd import NoOpAttacker, PGDAttacker
from commands import sources
from ranks import terminal
from ranks.launched import RANK_VARIABLES
from small_runs import BATCH, LEAN, MAIN, NUM_IMAGES, STEPS, read_json
from training.callbacks import TRAINING_ERROR
from training.epoch_line import EpochLine, duration
from training.epochs import Epoch, Judged, read_epochs

# As in the tutorial, but for the size of the images.
DIGITS = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--batch', '256', '--epochs', '3', '--eval-every',
          '3', '--logdir', 'runs/digits', '--attack-precision', 'bfloat16', '--update-precision', 'bfloat16']
ESCAPE = '\x1b'


def run_main(cwd, *words):
    """A process of main.py without a launcher, both of its outputs in one pipe."""
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    done = subprocess.run([sys.executable, MAIN, *words], cwd=cwd, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Output and folder of a training of three epochs with digits."""
    cwd = tmp_path_factory.mktemp('digits')
    return run_main(cwd, *DIGITS), cwd / 'runs' / 'digits'


def test_a_training_says_less_than_40_lines_of_80_columns(digits):
    said, _ = digits
    lines = said.splitlines()
    assert 12 < len(lines) < 40, said
    assert max(map(len, lines)) <= 80, said
    assert '\r' not in said and ESCAPE not in said and 'GPU' not in said, said


def test_a_training_says_what_on_what_how_where_and_each_epoch(digits):
    said, folder = digits
    expected = [
        r'network     CifarResNet8, silu, 10 classes, 8 x 8 pixels; recipe sat',
        r'data        digits, 1,498 images, read by this process',
        r'attack      PGD-1, Linf, epsilon 4, steps of 4, in bfloat16',
        r'update      gradients computed in bfloat16, weights kept in float32',
        r'judged      299 images, clean and under PGD-10, epsilon 4, every 3 epochs',
        r'machine     1 process, on the CPU in \d+ threads?, 256 images a step',
        r'length      3 epochs of 6 steps', r'written to  runs/digits',
        r'            index\.html in it shows the run in a browser', r'parameters  75,290',
        r'epoch 1/3: training accuracy under PGD-1 \d+\.\d%, cost \d[.\d]*, \d+:\d\d',
        r'epoch 2/3: training accuracy under PGD-1 \d+\.\d%, cost \d[.\d]*, \d+:\d\d',
        r'epoch 3/3: clean \d+\.\d%, robust \d+\.\d%, training under PGD-1 \d+\.\d%, \d+:\d\d']
    lines = said.splitlines()
    for line, pattern in zip(lines, expected):
        assert re.fullmatch(pattern, line), said
    assert lines[len(expected):] == ['Training has ended. Its most robust weights, for --load:', '  runs/digits/best']
    assert sum(_sizes(folder)) == 75290


def _sizes(folder):
    """Elements of each row of the table of variables in log.log."""
    return [int(row[1]) for row in re.finditer(r'^\S+ +\[[\d, ]+\] +(\d+)$', (folder / 'log.log').read_text(), re.M)]


def test_all_else_is_in_log_log_without_colours(digits):
    said, folder = digits
    log = (folder / 'log.log').read_text()
    for text in ('Flags: accumulate=1', 'Recipe sat: ', 'List of Trainable Variables', 'group0/block0/conv1/bn/gamma',
                 '[HyperParamSetter] At global_step=0', 'Epoch 1 (global_step 6) finished', 'learning_rate: ',
                 'Command: ', 'eval-10step-top1-error: '):
        assert text in log and text not in said, text
    assert ESCAPE not in log and 'GPU' not in log
    assert [line for line in said.splitlines() if line not in log and line != '  runs/digits/best'] == []


def test_figures_of_the_line_are_those_of_the_statistics(digits):
    said, folder = digits
    last = read_json(folder / 'stats.json')[-1]
    assert 'epoch 3/3: clean {:.1%}, robust {:.1%}, training under PGD-1 {:.1%}'.format(
        1 - last['eval-clean-top1-error'], 1 - last['eval-10step-top1-error'], 1 - last[TRAINING_ERROR]) in said


# The training accuracy

def test_the_training_error_counts_every_image_of_an_epoch(train, tmp_path, monkeypatch):
    """Against the batches' own errors, of which it is the mean."""
    from training.callbacks import TrainingAccuracy
    seen, after_run = [], TrainingAccuracy._after_run

    def noted(self, context, run):
        seen.append(float(run.results))
        after_run(self, context, run)
    monkeypatch.setattr(TrainingAccuracy, '_after_run', noted)
    train(tmp_path / 'run', '--attack-iter', '1')
    assert len(seen) == 2 * STEPS and round(NUM_IMAGES / BATCH) == STEPS
    for number, entry in enumerate(read_json(tmp_path / 'run' / 'stats.json')):
        assert entry[TRAINING_ERROR] == pytest.approx(np.mean(seen[STEPS * number:STEPS * (number + 1)]))
        assert entry[TRAINING_ERROR] * STEPS * BATCH == pytest.approx(round(entry[TRAINING_ERROR] * STEPS * BATCH))
        assert read_epochs(str(tmp_path / 'run'))[number].train_error == entry[TRAINING_ERROR]


def epoch(judged=(), **given):
    values = dict.fromkeys(Epoch._fields)
    return Epoch(**{**values, 'number': 100, 'attacked': True, 'judged': judged, 'train_error': 0.588, 'cost': 2.14113,
                    'seconds': 3700.0, **given})


def judged(attack, error, averaged=False):
    return Judged(attack, averaged, 50000, 0, error, None, None)


WATCHING = PGDAttacker(10, 4, 1)


@pytest.mark.parametrize('attacker, found, line', [
    (PGDAttacker(1, 4, 4), epoch(), 'epoch 100/100: training accuracy under PGD-1 41.2%, cost 2.141, 1:01:40'),
    (NoOpAttacker(), epoch(), 'epoch 100/100: training accuracy 41.2%, cost 2.141, 1:01:40'),
    (PGDAttacker(1, 4, 4), epoch([judged('clean', 0.25), judged('10step', 0.75)], evaluation_seconds=20),
     'epoch 100/100: clean 75.0%, robust 25.0%, training under PGD-1 41.2%, 1:02:00'),
    (PGDAttacker(1, 4, 4), epoch([judged('clean', 0.25), judged('10step', 0.75), judged('50step', 0.8),
                                  judged('clean', 0.3, True), judged('10step', 0.6, True)]),
     'epoch 100/100: clean 75.0%, robust 25.0%, PGD-50 20.0%, averaged weights: clean 70.0%, robust 40.0%, training '
     'under PGD-1 41.2%, 1:01:40'),
    (PGDAttacker(1, 4, 4), epoch(train_error=None, cost=None, seconds=None), 'epoch 100/100: no step was left')])
def test_an_epoch_is_a_line(attacker, found, line):
    assert EpochLine(100, attacker, WATCHING).in_words(found) == line
    assert len(line) <= 80 or 'averaged' in line


@pytest.mark.parametrize('seconds, text', [(0.4, '0:00'), (59.6, '1:00'), (3599, '59:59'), (3723, '1:02:03')])
def test_a_duration_in_words(seconds, text):
    assert duration(seconds) == text


# The terminal

@pytest.fixture
def streams():
    """function(verbose): the terminal's handler writes to a stream with a ``text``, which it returns, from then on; put
    back at the end."""
    loggers = [logging.getLogger(name) for name in terminal.ROOMS]
    before = [list(logger.handlers) for logger in loggers]
    written = SimpleNamespace(text='', flush=lambda: None, isatty=lambda: True, encoding='utf-8')
    written.write = lambda text: setattr(written, 'text', written.text + text)

    def start(verbose=False):
        terminal.open_terminal(verbose)
        for handler in loggers[0].handlers:
            if isinstance(handler, terminal._Terminal):
                handler.setStream(written)
        return written
    yield start
    for logger, handlers in zip(loggers, before):
        logger.handlers[:] = handlers


def log_of_all_kinds():
    terminal.say('said')
    for name in terminal.ROOMS:
        logging.getLogger(name).warning('%s warns', name)
    logging.getLogger('data.stream').error('a thread \x1b[31mfails\x1b[0m')
    logging.getLogger('tensorpack').info('[HyperParamSetter] a note')


def test_what_is_said_and_warned_of_reaches_the_terminal_and_nothing_else(streams):
    written = streams()
    log_of_all_kinds()
    assert written.text.splitlines() == ['said', 'warning: tensorpack warns', 'warning: data warns',
                                         'warning: files warns', 'error: a thread fails']


def test_verbose_has_time_and_place_of_all_of_it(streams):
    written = streams(verbose=True)
    log_of_all_kinds()
    lines = written.text.splitlines()
    assert all(re.match(r'\[\d{4} \d\d:\d\d:\d\d @test_words.py:\d+\] ', line) for line in lines), lines
    assert [line.partition('] ')[2] for line in lines][-1] == '[HyperParamSetter] a note' and len(lines) == 6


def test_a_verbose_training_says_all_that_its_log_has(streams, train, tmp_path):
    written = streams()
    train(tmp_path / 'run', *LEAN, '--epochs', '1', '--verbose')
    log = (tmp_path / 'run' / 'log.log').read_text()
    lines = [line for line in log.splitlines() if '[EnqueueThread]' not in line]
    assert len(lines) > 40 and [line for line in lines if line not in written.text] == []


def test_ranks_beside_the_first_say_errors_and_what_is_for_anybody(streams):
    written = streams()
    logger = logging.getLogger('tensorpack')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        terminal.say('said')
        logger.warning('warned of')
        logger.error('wrong')
        terminal.warn_anywhere('no data')
    finally:
        logger.setLevel(level)
    assert written.text.splitlines() == ['error: wrong', 'warning: no data']


def test_a_log_keeps_all_rooms_lines_and_the_next_one_takes_over(streams, tmp_path):
    streams()
    for name in ('one', 'two'):
        terminal.keep_log(str(tmp_path / name))
        log_of_all_kinds()
    for name in ('one', 'two'):
        lines = (tmp_path / name / 'log.log').read_text().splitlines()
        assert [line.partition('] ')[2] for line in lines][1:] == [
            'said', 'warning: tensorpack warns', 'warning: data warns', 'warning: files warns',
            'error: a thread fails', '[HyperParamSetter] a note']
        assert '] Command: ' in lines[0]


@pytest.mark.parametrize('text, lines', [
    ('short', ['short']), ('', ['']), ('two\nlines', ['two', 'lines']),
    ('a ' * 45, [('a ' * 40).rstrip(), '    ' + ('a ' * 5).rstrip()]),
    (terminal.row('data', 'b ' * 40), ['data        ' + ('b ' * 34).rstrip(), ' ' * 12 + ('b ' * 6).rstrip()]),
    ('see:\n  python main.py ' + 'c ' * 60, ['see:', '  python main.py ' + 'c ' * 60]),
    ('/a' * 60, ['/a' * 60])])
def test_lines_are_folded_but_for_commands_and_long_words(text, lines):
    assert terminal.fold(text).split('\n') == lines


@pytest.mark.parametrize('stderr, launcher, shown', [
    ('terminal', None, True), ('file', None, False), ('file', '/dev/pts/3', True), ('file', 'pipe:[17]', False),
    ('file', None, False)])
def test_a_bar_is_drawn_where_somebody_looks(monkeypatch, stderr, launcher, shown):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if launcher:
        monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
        monkeypatch.setattr(os, 'readlink', {'/proc/{}/fd/2'.format(os.getppid()): launcher}.get)
    monkeypatch.setattr(sys, 'stderr', SimpleNamespace(isatty=lambda: stderr == 'terminal', write=lambda text: None,
                                                       flush=lambda: None))
    with terminal.bar(3, 'epoch 1/1') as bar, terminal.bar(3, 'of another rank', shown=False) as other:
        assert (bar.disable, other.disable) == (not shown, True)


def test_a_bar_leaves_nothing_and_what_is_said_meanwhile_stands_above_it(streams, monkeypatch):
    written = streams()
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, written)
    with terminal.bar(3, 'epoch 1/1') as bar:
        bar.update(3)
        terminal.say('said')
    parts = re.split('[\r\n]+', written.text)
    assert max(map(len, parts)) < terminal.COLUMNS
    assert parts[-1].strip() == '' and 'said' in parts
    assert [part for part in parts if part.strip() and part != 'said' and not part.startswith('epoch 1/1:')] == []


# Evaluations

@pytest.mark.parametrize('classes, shown', [(5, []), (6, ['Clean Top5 Error: 0.2', 'Top5 Error: 0.3'])])
def test_there_is_no_top_5_error_of_five_classes_or_fewer(capsys, classes, shown):
    from evaluation.results import print_results
    clean, attacked = {'top1_error': 0.4, 'top5_error': 0.2}, {'top1_error': 0.5, 'top5_error': 0.3}
    print_results({'clean': clean, 'adversarial': attacked, 'attack': {}, 'verdict': 'last step',
                   'attack_success_rate': 0.1, 'attack_success_rate_at_any_step': 0.1,
                   'args': {'num_classes': classes}})
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if 'Top5' in line] == shown and 'Top1 Error: 0.5' in printed


@pytest.mark.parametrize('flags, attack, verdict, stages', [
    (['--attack-iter', '1', '--attack-step-size', '8'], 'PGD-1, Linf, epsilon 8, steps of 8', 'last step', []),
    (['--attack', 'autoattack', '--autoattack-version', 'apgd-ce'], 'autoattack-apgd-ce-Linf, Linf, epsilon 8',
     'success at any step', [r'clean: \d+\.\d% right, \d of 8', r'apgd-ce: \d+\.\d% robust, \d of 8'])])
def test_an_evaluation_says_what_is_judged_on_what_and_under_which_threat_model(
        graph, digits, streams, monkeypatch, capsys, flags, attack, verdict, stages):
    _, folder = digits
    monkeypatch.chdir(folder)
    open_all = sources.open_judged_images
    monkeypatch.setattr(sources, 'open_judged_images', lambda *args: open_all(*args).chosen(range(8)))
    written = streams()
    main.main(['--eval', '--load', 'best', '--attack-epsilon', '8', *flags, '--results-dir', 'judged'])
    expected = [r'network     CifarResNet8, silu, of best, 8 x 8 pixels', r'data        digits, 8 images',
                r'attack      ' + attack, r' {12}0\.03137 for images in \[0, 1\]; verdict: ' + verdict,
                r'machine     1 process, on the CPU in \d+ threads?, 32 images a batch', *stages,
                r'Results are in judged']
    lines = written.text.splitlines()
    assert len(lines) == len(expected) and max(map(len, lines)) <= 80, lines
    for line, pattern in zip(lines, expected):
        assert re.fullmatch(pattern, line), lines
    results = read_json(folder / 'judged' / 'results.json')
    assert 'Top1 Error: {}'.format(results['adversarial']['top1_error']) in capsys.readouterr().out.splitlines()
