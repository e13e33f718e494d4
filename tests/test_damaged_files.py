"""JSON files beside checkpoints and results: damaged, or of another type, they are one clear line, and never
believed."""
import json
import os
import random
import re
from types import SimpleNamespace

import pytest

from analysis import judged
from evaluation.results import _is_incomplete
from files import checksums
from files.typed import Malformed
from test_journal import DAMAGES
from training.callbacks import Statistics
from training.resume import _statistics, check_same_run, fixing_a_run, trim_statistics
from weights.classes import _parse_classes, classes_in, write_classes
from weights.find import _parse_best, find_checkpoint

CLASSES = ['ant', 'bee', 'cat', 'dög', 'n01440764']
OTHERS = ['', 'null', 'true', '5', '1e999', 'NaN', '"text"', '[]', '{}', '[5]', '[[]]', '{"a": 1}', '[null]',
          '[{"a": NaN}]',
          '[' * 10 ** 5, '{"a":' * 10 ** 5, '\xff', '"\\ud800"', '[1,]', '[{"epoch_num": "1"}]', '[{"epoch_num": 1.5}]',
          '{"global_step": "7"}', '{"global_step": 7, "eval-10step-top1-error": "low"}', '{"global_step": -1}',
          '[1, "a"]']


def write(path, text):
    path.write_bytes(text.encode('latin-1'))


@pytest.mark.parametrize('text', OTHERS)
def test_a_file_of_another_type_is_one_line(tmp_path, text):
    for name, read, fine in (
            ('classes.json', lambda: classes_in(str(tmp_path)), ()),
            ('best.json', lambda: find_checkpoint(str(tmp_path / 'best')), ()),
            ('stats.json', lambda: trim_statistics(str(tmp_path), 2), ('[]',)),
            ('run.json', lambda: check_same_run(str(tmp_path), {name: 1 for name in fixing_a_run()}), ()),
            ('results.json', lambda: judged.read_results([str(tmp_path / 'results.json')], []), ())):
        write(tmp_path / name, text)
        if text in fine:
            read()
        else:
            with pytest.raises(ValueError, match=name if name != 'run.json' else 'run.json|was started with') as error:
                read()
            assert '\n' not in str(error.value) and len(str(error.value)) < 600
    # Results that are not known to be unfinished ones are kept.
    assert not _is_incomplete(str(tmp_path / 'results.json'))


RESULTS = {'attack': {'name': 'PGD-10', 'norm': 'Linf', 'epsilon': 4}, 'adversarial': {'top1_correct': 3},
           'num_images': 10, 'args': {'load': 'x.npz'}}


@pytest.mark.parametrize('change', [
    {'attack': None}, {'attack': {'name': 'PGD-10', 'norm': 'Linf', 'epsilon': '4'}}, {'adversarial': 7},
    {'adversarial': {'top1_correct': 11}}, {'adversarial': {'top1_correct': 3.0}}, {'num_images': 0}, {'args': []},
    {'num_images': True}, {'args': {'load': 5}}])
def test_results_that_there_cannot_be_are_refused(tmp_path, change):
    path = str(tmp_path / 'results.json')
    (tmp_path / 'x.npz').touch()
    network = SimpleNamespace(name='a', args=SimpleNamespace(load=str(tmp_path / 'x.npz')))
    whole = dict(RESULTS, args={'load': str(tmp_path / 'x.npz')})
    (tmp_path / 'results.json').write_text(json.dumps(whole))
    assert judged.read_results([path], [network]) == {'PGD-10, Linf epsilon 4, 10 images': {'a': '30.0% (10.8–60.3)'}}
    (tmp_path / 'results.json').write_text(json.dumps(dict(whole, **change)))
    with pytest.raises(ValueError, match='no results of main.py --eval'):
        judged.read_results([path], [network])


def test_class_names_of_earlier_runs_or_written_by_hand_are_read(tmp_path):
    for indent in (None, 0, 4):
        (tmp_path / 'classes.json').write_text(json.dumps(CLASSES, indent=indent))
        assert classes_in(str(tmp_path)) == CLASSES
    write_classes(str(tmp_path), CLASSES)
    assert classes_in(str(tmp_path)) == CLASSES


@pytest.mark.parametrize('content, read', [
    ({'classes': CLASSES}, _parse_classes),
    ({'eval-10step-top1-error': 0.625, 'global_step': 7500, 'epoch': 3}, _parse_best)])
def test_of_ten_thousand_damages_none_is_believed(content, read):
    rng = random.Random(0)
    written = checksums.with_checksum(content).encode()
    right, refused = read(written), 0
    for _ in range(5000):
        damage = rng.choice([damage for damage in DAMAGES if damage.__name__ != 'swap_lines'])
        try:
            found = read(damage(rng, written))
            assert found == right or 'epoch' in found and dict(found, epoch=3) == right  # which nothing depends on
        except Malformed as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 4000


@pytest.mark.parametrize('name', ['stats.json', 'run.json'])
def test_no_damage_of_a_run_s_other_files_is_a_traceback(tmp_path, name, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda _: None)
    rng = random.Random(0)
    run = dict({field: [0.5, 'text', None, True][len(field) % 4] for field in fixing_a_run()}, command=['main.py'])
    content = {'stats.json': [{'epoch_num': e, 'global_step': 3 * e, 'loss': 0.25} for e in range(1, 9)],
               'run.json': run}[name]
    written = json.dumps(content).encode()
    for _ in range(500):
        (tmp_path / name).write_bytes(rng.choice(DAMAGES[:3] + DAMAGES[4:])(rng, written))
        try:
            trim_statistics(str(tmp_path), 20) if name == 'stats.json' else check_same_run(
                str(tmp_path), run)
        except ValueError as error:
            assert '\n' not in str(error)


def test_numbers_that_json_lacks_do_not_make_statistics_unreadable(tmp_path):
    statistics = object.__new__(Statistics)
    statistics._fname, statistics._stats = str(tmp_path / 'stats.json'), [
        {'epoch_num': 1, 'a': float('nan'), 'b': float('inf'), 'c': 0.5}, {'epoch_num': 2, 'a': None}]
    statistics._write_stat()
    assert _statistics(str(tmp_path)) == [{'epoch_num': 1, 'a': None, 'b': None, 'c': 0.5},
                                                   {'epoch_num': 2, 'a': None}]


def test_a_checksum_is_of_all_that_is_before_it():
    text = checksums.with_checksum({'a': [1, 'ö"}'], 'crc32': 'mine'})
    assert json.loads(text)['a'] == [1, 'ö"}'] and re.search(r'"crc32": "[0-9a-f]{8}"\}$', text)
    assert json.loads(checksums.without_checksum(text.encode())) == {'a': [1, 'ö"}'], 'crc32': 'mine'}
    for other in (text.encode()[:-1], b'', b'{}', text.replace('1', '2', 1).encode(), text.encode() + b' '):
        with pytest.raises(Malformed):
            checksums.without_checksum(other)
    assert os.linesep not in text
