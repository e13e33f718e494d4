"""Type hints agree with what is done, in the rooms that pyproject.toml names."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

WRONG = '''
from files.atomic import keep_older, write_text

write_text(keep_older('a'), 'b')


def unhinted(a):
    return a
'''

SEAMS = '''
from typing import List

from data.folders import ImageSet
from data.protocols import DataSet, Stream
from data.records import RecordSet
from data.stream import FakeStream, TrainingStream


def sets(images: ImageSet, records: RecordSet) -> List[DataSet]:
    return [images, records]


def streams(training: TrainingStream, fake: FakeStream) -> List[Stream]:
    return [training, fake]
'''


def run_checker(*files):
    return subprocess.run([sys.executable, '-m', 'mypy', '--cache-dir', os.devnull, *files], cwd=ROOT, text=True,
                          env=dict(os.environ, MYPYPATH=ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_checker_finds_nothing():
    checked = run_checker()
    assert checked.returncode == 0, checked.stdout


def test_the_checker_finds_a_wrong_type_and_a_missing_hint(tmp_path):
    (tmp_path / 'wrong.py').write_text(WRONG)
    checked = run_checker(str(tmp_path / 'wrong.py'))
    assert checked.returncode == 1 and '[arg-type]' in checked.stdout and '[no-untyped-def]' in checked.stdout


def test_data_sets_and_streams_are_what_others_know_of_them(tmp_path):
    (tmp_path / 'seams.py').write_text(SEAMS)
    checked = run_checker(str(tmp_path / 'seams.py'))
    assert checked.returncode == 0, checked.stdout
