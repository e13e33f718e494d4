"""evaluation/journal.py: of damaged, cut, mixed and swapped files no verdict is taken that was not written, and none is
a traceback."""
import collections
import json
import os
import random
import re

import numpy as np
import pytest

from evaluation import journal
from evaluation.journal import FILE, Journal
from evaluation.passes import row_ranges
from image_folders import make_folder
from third_party.imagenet_utils import open_dataset

PASSES, IMAGES, CLASSES = 3, 40, 10
RANGES = row_ranges(PASSES, IMAGES, CLASSES)
SETTINGS = {'seed': 0, 'data': 'abc', 'columns': ['pass', 'index'], 'attack 1: epsilon': 4.0, 'nothing': None}


def rows_of(seed):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(low, high + 1, 9) for low, high in RANGES], axis=1).astype(np.int32)


def write(folder, seed=0, lines=8, settings=SETTINGS):
    """A journal of some rounds; its path and all rows."""
    os.makedirs(folder, exist_ok=True)
    kept = Journal(str(folder), settings, RANGES, resume=False)
    parts = [rows_of([seed, k]) for k in range(lines)]
    for k, rows in enumerate(parts):
        kept.append(rows, 10.0 * (k + 1))
    kept.close()
    return folder / FILE, np.concatenate(parts)


def resume(folder, settings=SETTINGS):
    kept = Journal(str(folder), settings, RANGES, resume=True)
    kept.close()
    return kept


@pytest.fixture
def said(monkeypatch):
    """What journals warn of."""
    found = []
    monkeypatch.setattr(journal.logger, 'warning', found.append)
    return found


def test_what_was_written_is_read_again(tmp_path, said):
    path, rows = write(tmp_path)
    kept = resume(tmp_path)
    assert kept.resumed and kept.seconds == 80 and not said
    assert (kept.rows == rows).all() and kept.rows.dtype == np.int32
    kept = Journal(str(tmp_path), SETTINGS, RANGES, resume=True)
    kept.append(rows[:2], 99)
    assert (resume(tmp_path).rows == np.concatenate([rows, rows[:2]])).all()
    kept.remove()
    kept.close()
    assert not path.exists()


def test_a_file_that_was_renamed_keeps_what_its_run_writes(tmp_path):
    """Also by a run of which this one knows nothing: it must not write to the other's file."""
    kept = Journal(str(tmp_path), SETTINGS, RANGES, resume=False)
    os.rename(tmp_path / FILE, tmp_path / 'moved')
    other, rows = write(tmp_path, 1)
    kept.append(rows_of(5), 1.0)
    kept.remove()
    kept.close()
    assert (resume(tmp_path).rows == rows).all()
    os.replace(tmp_path / 'moved', other)
    assert (resume(tmp_path).rows == rows_of(5)).all()


def flip(rng, content):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1:]


def cut(rng, content):
    first, last = sorted(rng.choices(range(len(content) + 1), k=2))
    return content[:first] + content[last:]


def truncate(rng, content):
    return content[:rng.randrange(len(content))]


def swap_lines(rng, content):
    lines = content.splitlines(keepends=True)
    first, second = rng.sample(range(len(lines)), 2)
    lines[first], lines[second] = lines[second], lines[first]
    return b''.join(lines)


def swap_parts(rng, content):
    a, b, c, d = sorted(rng.choices(range(len(content) + 1), k=4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def another_digit(rng, content):
    place = rng.choice([match.start() for match in re.finditer(rb'[0-9]', content)])
    return content[:place] + str(rng.randrange(10)).encode() + content[place + 1:]


DAMAGES = (flip, cut, truncate, swap_lines, swap_parts, another_digit)


def check_damaged(tmp_path, said, count):
    rng = random.Random(0)
    path, rows = write(tmp_path / 'one')
    other, _ = write(tmp_path / 'other', seed=1)
    content, strange = path.read_bytes(), other.read_bytes().splitlines(keepends=True)
    written = collections.Counter(map(tuple, rows.tolist()))

    def foreign_line(rng, content):
        lines = content.splitlines(keepends=True)
        lines[rng.randrange(1, len(lines))] = rng.choice(strange)
        return b''.join(lines)
    outcomes = collections.Counter()
    for _ in range(count):
        damage = rng.choice(DAMAGES + (foreign_line,))
        damaged = damage(rng, content)
        path.write_bytes(damaged)
        del said[:]
        try:
            kept = resume(tmp_path / 'one')
        except ValueError as error:
            assert str(path) in str(error) and '\n' not in str(error)
            outcomes['refused'] += 1
            continue
        assert not collections.Counter(map(tuple, kept.rows.tolist())) - written
        if damaged not in (content, content[:-1]) and len(kept.rows) < len(rows) and damage in (flip, foreign_line,
                                                                                                another_digit):
            assert any('judged again' in line for line in said)
        outcomes[len(kept.rows) == len(rows)] += 1
    assert all(outcomes[kind] > count / 100 for kind in ('refused', True, False)), outcomes


def test_no_damage_gives_a_wrong_verdict(tmp_path, said, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda _: None)
    check_damaged(tmp_path, said, 2000)


@pytest.mark.slow
def test_no_damage_of_ten_thousand_gives_a_wrong_verdict(tmp_path, said):
    check_damaged(tmp_path, said, 10000)


def append_rows(path, rows):
    """A line whose checksum is right."""
    run = json.loads(path.read_bytes().split(b'\n')[0])['run']
    with open(path, 'a') as f:
        f.write(journal._line({'run': run, 'seconds': 1.0, 'rows': rows}))


RIGHT = [0, 3, 1, 1, 0, -1, 0]


@pytest.mark.parametrize('column, value', [
    (0, -1), (0, PASSES), (1, -1), (1, IMAGES), (1, 99999), (1, 10 ** 30), (2, -1), (2, CLASSES), (3, -2), (3, CLASSES),
    (4, 2), (4, -1), (5, -2), (5, CLASSES), (6, 2), (1, 3.0), (1, True), (1, None), (1, '3'), (1, [3])])
def test_verdicts_that_there_cannot_be_are_left_out_and_said(tmp_path, said, column, value):
    path, rows = write(tmp_path)
    append_rows(path, [RIGHT, RIGHT[:column] + [value] + RIGHT[column + 1:]])
    append_rows(path, [RIGHT[:-1]])
    append_rows(path, 'rows')
    append_rows(path, [RIGHT])
    kept = resume(tmp_path)
    assert (kept.rows == np.concatenate([rows, [RIGHT]])).all()
    assert '3 of' in said[0] and '{} verdicts are left'.format(len(rows) + 1) in said[0]


def test_a_journal_without_checksums_is_refused_clearly(tmp_path):
    (tmp_path / FILE).write_text('{"settings": {"seed": 0}}\n{"seconds": 1.0, "rows": []}\n')
    with pytest.raises(ValueError, match="--resume-eval: '.*{}' was written before its lines had checksums; move it "
                                         'away to start again'.format(FILE)):
        resume(tmp_path)


def test_another_setting_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match='was started with seed 0, now it is 1$'):
        resume(tmp_path, dict(SETTINGS, seed=1))


def test_images_that_were_changed_are_another_digest(tmp_path):
    data = make_folder(tmp_path, ['val/{}/{}.png'.format('ab'[k % 2], k) for k in range(40)])
    dataset = open_dataset(data, 'val')
    before = journal.digest_of_files(dataset)
    assert journal.digest_of_files(open_dataset(data, 'val')) == before
    path = dataset.files[17]
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert journal.digest_of_files(dataset) != before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert journal.digest_of_files(dataset) == before
    with open(path, 'ab') as f:
        f.write(b'\0')
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert journal.digest_of_files(dataset) != before
    os.remove(path)
    assert journal.digest_of_files(dataset) != before
