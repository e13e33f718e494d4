"""What the benchmarks share: in turn, ratios of a round, files whole; and what `make bench` says of them."""
import argparse
import json
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCHMARKS = os.path.join(ROOT, 'benchmarks')
import attack_speed
import compare
import main
import measure
import timeline
from measure import Quantity

SPEED, SECONDS = Quantity('images/s', 1), Quantity('seconds', higher_is_better=False)


def test_variants_are_measured_in_turn():
    order = []

    def one(name):
        order.append(name)
        return {'images/s': len(order)}
    found = measure.interleaved(['a', 'b'], 3, one)
    assert order == ['a', 'b'] * 3
    assert found == {'a': {'images/s': [1, 3, 5]}, 'b': {'images/s': [2, 4, 6]}}


def test_a_ratio_is_the_median_of_the_rounds_not_of_the_medians():
    # A machine that slows down from round to round; the medians' ratio would be 3.
    found = {'a': {'images/s': [8.0, 4.0, 2.0]}, 'b': {'images/s': [12.0, 6.0, 30.0]}}
    a, b = measure.rows(found, [SPEED])
    assert a == {'name': 'a', 'median': 4.0, 'spread': [2.0, 8.0], 'ratio': 1.0}
    assert b == {'name': 'b', 'median': 12.0, 'spread': [6.0, 30.0], 'ratio': 1.5}


def test_a_ratio_above_1_is_better_also_where_less_is():
    found = {'a': {'seconds': [4.0, 2.0]}, 'b': {'seconds': [1.0, 0.5]}}
    assert [row['ratio'] for row in measure.rows(found, [SECONDS])] == [1.0, 4.0]


def test_each_variant_may_have_a_reference_of_its_own():
    found = {name: {'images/s': [value]} for name, value in (('a', 2.0), ('b', 6.0), ('b fast', 12.0))}
    made = measure.rows(found, [SPEED], lambda name: name.split()[0])
    assert [row['ratio'] for row in made] == [1.0, 1.0, 2.0]


def test_several_quantities_share_one_table_and_have_a_row_each():
    found = {'a': {'images/s': [2.0, 4.0], 'seconds': [1.0, 1.0]}, 'b': {'images/s': [1.0, 2.0], 'seconds': [3.0, 2.0]}}
    made = measure.rows(found, [SPEED, SECONDS])
    assert [row['name'] for row in made] == ['a: images/s', 'a: seconds', 'b: images/s', 'b: seconds']
    assert measure.table(found, [SPEED, SECONDS], {'the first': made}).splitlines() == [
        '| variant | images/s | times the first | seconds | the first over this |', '| --- | --- | --- | --- | --- |',
        '| a | 3.0 (2.0 to 4.0) | 1.00 | 1.00 (1.00 to 1.00) | 1.00 |',
        '| b | 1.5 (1.0 to 2.0) | 0.50 | 2.50 (2.00 to 3.00) | 0.42 |']


def test_a_second_reference_has_a_column_and_rows_of_its_own(tmp_path, capsys):
    found = {name: {'images/s': [value]} for name, value in (('alone', 4.0), ('apart', 2.0), ('ranks', 1.0))}
    measure.report(found, [SPEED], str(tmp_path / 'some.json'), {
        'alone': None, 'apart': lambda name: 'apart' if name == 'ranks' else None})
    rows = json.loads((tmp_path / 'some.json').read_text())['rows']
    assert [(row['name'], row['ratio']) for row in rows] == [
        ('alone', 1.0), ('apart', 0.5), ('ranks', 0.25), ('ranks, times apart', 0.5)]
    assert capsys.readouterr().out.splitlines() == [
        '| variant | images/s | times alone | times apart |', '| --- | --- | --- | --- |',
        '| alone | 4.0 (4.0 to 4.0) | 1.00 |  |', '| apart | 2.0 (2.0 to 2.0) | 0.50 |  |',
        '| ranks | 1.0 (1.0 to 1.0) | 0.25 | 0.50 |']


def test_the_file_says_how_where_and_when(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['benchmarks/some.py', '--flag', 'two words'])
    measure.report({'a': {'images/s': [1.0]}}, [SPEED], str(tmp_path / 'some.json'))
    assert os.listdir(tmp_path) == ['some.json']
    content = json.loads((tmp_path / 'some.json').read_text())
    assert sorted(content) == ['command', 'date', 'machine', 'rows']
    assert content['command'] == "benchmarks/some.py --flag 'two words'"
    assert content['machine'].startswith('{} cores of '.format(len(os.sched_getaffinity(0))))
    assert content['rows'] == [{'name': 'a', 'median': 1.0, 'spread': [1.0, 1.0], 'ratio': 1.0}]
    assert '| a | 1.0 (1.0 to 1.0) | 1.00 |' in capsys.readouterr().out


def test_a_measuring_process_hands_over_its_last_word_only():
    program = 'import measure; print("chatter"); measure.say({"x": 1}); measure.say({"x": 2}); print("more")'
    assert measure.run([sys.executable, '-c', program], {'PYTHONPATH': BENCHMARKS}) == {'x': 2}


@pytest.mark.parametrize('program', ['raise SystemExit(3)', 'pass'])
def test_a_measuring_process_that_fails_ends_the_benchmark(program):
    with pytest.raises(SystemExit, match='error: exit code'):
        measure.run([sys.executable, '-c', program])


@pytest.mark.parametrize('text, found', [
    ('clean: --attack-iter 0', ('clean', ['--attack-iter', '0'], {})), ('plain:', ('plain', [], {})),
    ("x: --a 'b c' D=e", ('x', ['--a', 'b c', 'D=e'], {})),
    ("slow: TF_NUM_INTEROP_THREADS=1 X='a b=c' --depth 8", (
        'slow', ['--depth', '8'], {'TF_NUM_INTEROP_THREADS': '1', 'X': 'a b=c'}))])
def test_a_variant_is_a_name_variables_and_flags(text, found):
    assert measure.variant(text) == found


@pytest.mark.parametrize('text', ['--attack-iter 0', ': --attack-iter 0', "x: 'open"])
def test_a_variant_without_a_name_or_with_an_open_quote_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='{}'.format(text.split("'")[0])):
        measure.variant(text)


@pytest.mark.parametrize('flags, named', [
    (['--repeats', '0'], "'0'"), (['--repeats', 'many'], "'many'"), (['--json', '/nowhere/x.json'], '/nowhere/x.json')])
def test_flags_that_cannot_work_are_refused_before_anything_is_measured(flags, named, capsys):
    parser = argparse.ArgumentParser()
    measure.add_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(flags)
    assert named in capsys.readouterr().err


def a_folder(tmp_path, **ratios):
    for name, rows in ratios.items():
        measure.write_json(str(tmp_path / (name + '.json')), {'command': '', 'machine': '', 'date': '', 'rows': [
            {'name': row, 'median': 1.0, 'spread': [1.0, 1.0], 'ratio': ratio} for row, ratio in rows.items()]})
    return str(tmp_path)


def run_compare(folder, *flags):
    done = subprocess.run([sys.executable, os.path.join(BENCHMARKS, 'compare.py'), '--no-run', '--folder', folder,
                           '--baseline', os.path.join(folder, 'base.json'), *flags], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert 'Traceback' not in done.stderr
    return done


def test_a_fallen_ratio_is_an_error_and_a_smaller_loss_is_none(tmp_path):
    base = {'train_speed': {'a': 1.0, 'b': 2.0, 'gone': 3.0}, 'memory': {'x': 4.0}}
    folder = a_folder(tmp_path, train_speed={'a': 1.0, 'b': 1.91, 'new': 7.0})
    measure.write_json(os.path.join(folder, 'base.json'), {'machine': 'another', 'date': 'then', 'ratios': base})
    done = run_compare(folder)
    assert done.returncode == 0, done.stderr
    assert '| train_speed | b | 2.00 | 1.91 | -4.5% |  |' in done.stdout
    assert '| train_speed | new |  | 7.00 |  | not in the baseline |' in done.stdout
    assert '| train_speed | gone | 3.00 |  |  | not measured |' in done.stdout
    assert 'memory' not in done.stdout and 'baseline: another, then' in done.stdout

    a_folder(tmp_path, train_speed={'a': 1.0, 'b': 1.89})
    done = run_compare(folder)
    assert done.returncode == 1 and '1 of the ratios fell' in done.stderr
    assert '| train_speed | b | 2.00 | 1.89 | -5.5% | **fell** |' in done.stdout
    assert run_compare(folder, '--only', 'memory').returncode == 1  # nothing measured is no good news


def measuring(tmp_path, monkeypatch, *ratios):
    """compare.py, with a benchmark that writes these ratios one after another; the baseline has 1."""
    folder = a_folder(tmp_path)
    program = ("import json, sys; count = int(open(sys.argv[2]).read()); open(sys.argv[2], 'w').write(str(count + 1)); "
               "json.dump({'rows': [{'name': 'a', 'ratio': json.loads(sys.argv[3])[count]}]}, open(sys.argv[1], 'w'))")
    (tmp_path / 'count').write_text('0')
    monkeypatch.setattr(compare, 'command', lambda name, path, _: [
        sys.executable, '-c', program, path, str(tmp_path / 'count'), json.dumps(ratios)])
    baseline = os.path.join(folder, 'base.json')
    measure.write_json(baseline, {'machine': 'another', 'date': 'then', 'ratios': {'memory': {'a': 1.0}}})

    def compared(*flags):
        monkeypatch.setattr(sys, 'argv', ['compare.py', '--only', 'memory', '--folder', folder, '--baseline', baseline,
                                          *flags])
        compare.main()
        return int((tmp_path / 'count').read_text())
    return compared


def test_what_fell_is_run_again_and_the_median_of_the_runs_counts(tmp_path, monkeypatch, capsys):
    compared = measuring(tmp_path, monkeypatch, 0.9, 0.97, 0.96, 0.98)
    assert compared() == 3
    out = capsys.readouterr().out
    assert 'fell by more than 5%, and run again: memory' in out and '| memory | a | 1.00 | 0.96 | -4.0% |  |' in out
    assert compared() == 4  # nothing of the runs before counts, and nothing is run again
    assert '| memory | a | 1.00 | 0.98 | -2.0% |  |' in capsys.readouterr().out


def test_what_fell_in_most_of_its_runs_is_an_error(tmp_path, monkeypatch):
    compared = measuring(tmp_path, monkeypatch, 0.9, 0.97, 0.94)
    with pytest.raises(SystemExit, match='1 of the ratios fell by more than 5%'):
        compared()


def test_a_baseline_of_several_runs_has_their_medians(tmp_path, monkeypatch):
    compared = measuring(tmp_path, monkeypatch, 0.5, 2.0, 1.5)
    assert compared('--runs', '3', '--write-baseline') == 3
    with open(tmp_path / 'base.json') as f:
        assert json.load(f)['ratios'] == {'memory': {'a': 1.5}}


def test_others_code_may_become_slower(tmp_path):
    folder = a_folder(tmp_path, attack_speed={'float32': 2.0, 'PyTorch, float32': 1.0})
    base = {'attack_speed': {'float32': 2.0, 'PyTorch, float32': 2.0}}
    measure.write_json(os.path.join(folder, 'base.json'), {'machine': 'another', 'date': 'then', 'ratios': base})
    done = run_compare(folder)
    assert done.returncode == 0, done.stderr
    assert '| attack_speed | PyTorch, float32 | 2.00 | 1.00 | -50.0% |  |' in done.stdout


def test_a_baseline_is_written_and_keeps_what_was_not_measured(tmp_path):
    folder = a_folder(tmp_path, train_speed={'a': 1.0})
    assert run_compare(folder).returncode == 0  # there is none: everything is said to be new
    assert run_compare(folder, '--write-baseline').returncode == 0
    a_folder(tmp_path, train_speed={'a': 0.5}, memory={'x': 3.0})
    assert run_compare(folder).returncode == 1
    assert run_compare(folder, '--only', 'memory', '--write-baseline').returncode == 0
    with open(os.path.join(folder, 'base.json')) as f:
        content = json.load(f)
    assert content['ratios'] == {'train_speed': {'a': 1.0}, 'memory': {'x': 3.0}}
    assert sorted(content) == ['date', 'machine', 'ratios', 'versions'] and content['versions']['tensorflow']


def test_a_broken_baseline_is_named_in_one_line(tmp_path):
    folder = a_folder(tmp_path, train_speed={'a': 1.0})
    (tmp_path / 'base.json').write_text('{')
    done = run_compare(folder)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'base.json' in done.stderr


def test_a_benchmark_that_fails_is_not_judged_by_its_earlier_figures(tmp_path, monkeypatch, capsys):
    folder = a_folder(tmp_path, train_speed={'a': 1.0}, memory={'x': 3.0})
    monkeypatch.setattr(compare, 'command', lambda name, *_: [
        sys.executable, '-c', 'raise SystemExit({})'.format(int(name == 'memory'))])
    monkeypatch.setattr(sys, 'argv', ['compare.py', '--only', 'train_speed', 'memory', '--folder', folder,
                                      '--baseline', os.path.join(folder, 'base.json'), '--write-baseline'])
    with pytest.raises(SystemExit, match='failed: memory'):
        compare.main()
    out = capsys.readouterr().out
    assert '| train_speed | a |' in out and '| memory | x |' not in out
    assert not os.path.exists(os.path.join(folder, 'base.json'))


@pytest.mark.parametrize('kind', ['amx', 'avx512_bf16-family-25', 'other', 'gpu'])
def test_the_baseline_is_that_of_the_kind_of_machine(kind, tmp_path, monkeypatch, capsys):
    folder = a_folder(tmp_path, train_speed={'a: images/s': 1.0})
    (tmp_path / 'baselines').mkdir()
    measure.write_json(str(tmp_path / 'baselines' / 'amx.json'), {
        'machine': 'another', 'date': 'then', 'versions': {'tensorflow': '1.2'},
        'ratios': {'train_speed': {'a: images/s': 1.0}}})
    monkeypatch.setattr(compare, 'HERE', str(tmp_path))
    monkeypatch.setattr(compare, 'kind', lambda: kind)
    monkeypatch.setattr(sys, 'argv', ['compare.py', '--no-run', '--folder', folder])
    compare.main()
    out = capsys.readouterr().out
    assert ('baseline: another, then, tensorflow 1.2' in out) == (kind == 'amx')
    assert ('baseline: none for this kind of machine' in out and kind + '.json' in out) == (kind != 'amx')


def test_the_baselines_that_are_there_are_whole():
    for name in os.listdir(os.path.join(BENCHMARKS, 'baselines')):
        with open(os.path.join(BENCHMARKS, 'baselines', name)) as f:
            content = json.load(f)
        assert sorted(content) == ['date', 'machine', 'ratios', 'versions']
        assert set(content['ratios']) <= set(compare.BENCHMARKS)


@pytest.mark.parametrize('name', list(compare.BENCHMARKS))
def test_each_benchmark_of_make_bench_has_its_program(name):
    assert os.path.isfile(compare.command(name, 'x.json')[1])


@pytest.mark.parametrize('flags, arch, depth', [
    ([], 'ResNet', 50), (['-d', '101'], 'ResNet', 101), (['--arch', 'EfficientNet'], 'EfficientNet', None)])
def test_the_attacks_speed_is_measured_on_any_network(flags, arch, depth):
    args = main.parse_args(['--fake'] + attack_speed.with_defaults(flags))
    assert (args.arch, args.depth, args.batch, args.attack_iter) == (arch, depth, 8, 4)


@pytest.mark.parametrize('flags, theirs', [
    ([], '--batch 8 --attack-iter 4'), (['-d', '101'], None), (['--arch', 'EfficientNet'], None),
    (['--arch', 'ViT'], '--network vit_small_patch16_224 --batch 8 --attack-iter 4'),
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-s-cvst', '--batch', '2'],
     '--network convnext_small --conv-stem --batch 2 --attack-iter 4'),
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-iso'], None), (['--arch', 'ViT', '--input-size', '32'], None)])
def test_pytorch_is_asked_for_the_same_network_or_not_at_all(flags, theirs):
    found = attack_speed.torch_network(flags)
    assert found == (theirs and theirs.split())


def test_the_memory_of_a_process_is_its_own():
    mine = bytearray(200 << 20)
    program = 'import measure; measure.say(measure.resident())'
    theirs = measure.run([sys.executable, '-c', program], {'PYTHONPATH': BENCHMARKS})
    assert len(mine) < measure.resident() and 2e6 < theirs < 100e6


def test_a_process_that_stays_is_measured_turn_by_turn():
    program = 'import measure, sys; measure.say("ready")\nfor n, _ in enumerate(sys.stdin): measure.say({"x": n})'
    command = [sys.executable, '-c', program], {'PYTHONPATH': BENCHMARKS}
    with measure.started({'a': command, 'b': command}) as running:
        assert [measure.turn(running[name])['x'] for name in ('a', 'a', 'b')] == [0, 1, 0]
        processes = list(running.values())
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize('flags, first, count', [
    ([], "the release's graph", 2 + 2 + 7), (['--arch', 'ConvNeXt'], "TensorFlow's own ops", 1 + 2 + 6)])
def test_all_ways_are_measured_beside_the_reference(flags, first, count, monkeypatch):
    monkeypatch.setattr(attack_speed, 'find_torch', lambda python: python)
    found = attack_speed.loops(flags, ['float32', 'bfloat16'], 'torch-python')
    assert next(iter(found)) == first and len(found) == count
    assert all(command[0] == 'torch-python' for name, command in found.items() if name.startswith('PyTorch'))


START = 1_700_000_000_000_000  # microseconds since the epoch, as Horovod writes it


def events(tensor, begin, end):
    """One exchange as Horovod writes it; times in milliseconds."""
    return [{'ph': kind, 'pid': tensor, 'ts': 1000 * time, **more} for kind, time, more in (
        ('B', begin - 1, {'name': 'NEGOTIATE_ALLREDUCE'}), ('X', begin, {'name': '1', 'dur': 0}), ('E', begin, {}),
        ('B', begin, {'name': 'ALLREDUCE'}), ('B', begin + 0.1, {'name': 'MPI_ALLREDUCE'}), ('E', end - 0.1, {}),
        ('E', end, {'args': {'dtype': 'float32'}}))]


@pytest.fixture
def timeline_of(tmp_path):
    def write(*exchanges):
        names = {1: 'texts', 2: 'AllReduce/HorovodAllreduce_a', 3: 'AllReduce/HorovodAllreduce_b'}
        found = [{'name': 'process_name', 'ph': 'M', 'pid': 0, 'args': {'start_time_since_epoch_in_micros': START}}] + [
            {'name': 'process_name', 'ph': 'M', 'pid': pid, 'args': {'name': name}} for pid, name in names.items()]
        (tmp_path / 'timeline.json').write_text(json.dumps(found + [e for each in exchanges for e in each] + [{}]))
        return str(tmp_path / 'timeline.json')
    return write


def seconds(*milliseconds):
    return tuple(START * 1e-6 + each * 1e-3 for each in milliseconds)


def test_what_is_exchanged_before_the_last_gradient_is_ready_is_hidden(timeline_of):
    path = timeline_of(events(1, 0, 500),  # no gradient
                       events(2, 11, 19), events(3, 31, 33), events(2, 111, 125), events(3, 121, 131))
    first, second = timeline.read(path)
    assert first == [pytest.approx(seconds(11, 19), abs=1e-6), pytest.approx(seconds(31, 33), abs=1e-6)]
    assert timeline.judge(first, *seconds(10, 30)) == pytest.approx((0.020, 0.010, 0.008, 0.003), abs=1e-6)
    # 111 to 131, where two overlap.
    assert timeline.judge(second, *seconds(110, 120)) == pytest.approx((0.010, 0.020, 0.009, 0.011), abs=1e-6)
    assert timeline.judge(second, *seconds(90, 100)).hidden == 0
    assert timeline.judge(second, *seconds(90, 140))[1:3] == pytest.approx((0.020, 0.020), abs=1e-6)
    lines = timeline.describe(path, [seconds(110, 120)])  # of the last step only
    assert len(lines) == 2 and '20.0 ms, 45% of it hidden; it ended 11.0 ms after' in lines[0]
    assert '45% of the exchange hidden, 11.0 ms not' in lines[1]


def test_a_timeline_without_gradients_or_cut_short_is_refused(timeline_of, tmp_path):
    with pytest.raises(ValueError, match='no exchange of gradients'):
        timeline.read(timeline_of(events(1, 0, 500)))
    (tmp_path / 'cut.json').write_text('[\n{"name": ')
    with pytest.raises(ValueError, match='cut.json'):
        timeline.read(str(tmp_path / 'cut.json'))


TINY = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--batch', '4', '--attack-iter', '1']


def run_benchmark(name, *flags, cwd):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1')
    done = subprocess.run([sys.executable, os.path.join(BENCHMARKS, name), '--repeats', '1', '--json', 'found.json',
                           *flags, *TINY], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    assert done.returncode == 0, done.stderr
    with open(os.path.join(cwd, 'found.json')) as f:
        return done.stdout, json.load(f)['rows']


@pytest.mark.slow
def test_memory_is_measured_by_training_steps(tmp_path):
    out, rows = run_benchmark('memory.py', '--steps', '1', '--variant', 'small: --batch 4', cwd=tmp_path)
    found = {row['name']: row['median'] for row in rows}
    assert 100 < found['small: peak resident, MiB'] < 4000 and found['small: images/s'] > 0
    assert 1000 < found['small: bytes an image'] < 100e6  # of 4 images in a step; the process itself takes more
    assert out.count('| small |') == 1 and os.listdir(tmp_path) == ['found.json']


@pytest.mark.slow
def test_ranks_are_measured_beside_processes_that_know_nothing_of_each_other(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip('one core cannot be shared out')
    out, rows = run_benchmark('scaling.py', '--steps', '2', '--timeline', '--setting',
                              'half: HOROVOD_CYCLE_TIME=2 --gradient-compression fp16', cwd=tmp_path)
    assert [row['name'] for row in rows] == [
        'one process alone', '2 processes at once, no exchange', '2 ranks', '2 ranks, half',
        '2 ranks, times processes without exchange', '2 ranks, half, times processes without exchange']
    assert all(row['median'] > 0 for row in rows) and rows[0]['ratio'] == 1
    assert rows[4]['ratio'] == pytest.approx(rows[2]['ratio'] / rows[1]['ratio'])
    assert out.count('\nstep ') == 2 and '% of the exchange hidden' in out
    assert os.listdir(tmp_path) == ['found.json']


def test_more_ranks_than_cores_are_refused(tmp_path):
    done = subprocess.run([sys.executable, os.path.join(BENCHMARKS, 'scaling.py'), '--ranks', '10000'],
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and '--ranks 10000' in done.stderr and 'Traceback' not in done.stderr
