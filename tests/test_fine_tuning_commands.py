"""Fine-tuning by its documented commands on real images: how right the networks are on classes that are new to them."""
import os
import subprocess
import sys
import time

import pytest

from data.digits import digits_folder
from documented import documented
from small_runs import MAIN, read_json

pytestmark = pytest.mark.slow

PAGE = 'docs/fine-tuning.md'
CIFAR_VARIABLE = 'SAT_CIFAR10'  # a folder with {train,test}/<class>/*.jpg, all of CIFAR-10
SECONDS, WANTED = 120, 0.85  # of the documented fine-tuning: time, and accuracy on clean images


def link_classes(source, target, classes):
    """A data set of some classes of another one."""
    for split in os.listdir(source):
        os.makedirs(target / split)
        for name in classes:
            os.symlink(os.path.join(source, split, name), target / split / name)


def run(line, cwd):
    """Run a command line as it stands in a document. Returns: seconds."""
    line = line.replace('python main.py', '{} {}'.format(sys.executable, MAIN))
    begin = time.monotonic()
    ended = subprocess.run(['bash', '-c', line], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    return time.monotonic() - begin


def last_accuracy(folder):
    """On all clean validation images, after the last epoch."""
    return 1 - read_json(folder / 'stats.json')[-1]['eval-clean-top1-error']


TUNED = ('python main.py --recipe fine-tune --data images-four --epochs 12 --lr-drop-epochs 9 --eval-every 12 '
         '--logdir ./{} ')


@pytest.mark.parametrize('name, flags', [('clean', '--attack-iter 0'), ('attacked', '--classifier-rate 10')])
def test_a_network_of_six_digits_learns_the_four_others(six_digits, name, flags):
    run(TUNED.format(name) + '--load six/best --new-classifier ' + flags, six_digits)
    assert read_json(six_digits / name / 'run.json')['num_classes'] == 4
    assert last_accuracy(six_digits / name) > WANTED


def test_a_new_last_layer_is_learnt_alone_and_then_all_are(six_digits):
    run(TUNED.format('probe') + '--load six/best --new-classifier --freeze-until group2 --base-lr 0.1', six_digits)
    run(TUNED.format('all') + '--load probe/best', six_digits)
    probe, whole = (last_accuracy(six_digits / name) for name in ('probe', 'all'))
    assert 0.5 < probe < whole > WANTED


@pytest.fixture(scope='module')
def six_digits(tmp_path_factory):
    """A folder with the run ``six``, on the digits 0 to 5, and ``images-four``, a data set of the digits 6 to 9."""
    folder = tmp_path_factory.mktemp('digits')
    link_classes(digits_folder(), folder / 'images-six', '012345')
    run('python main.py --data images-six --arch CifarResNet -d 8 --activation-name silu --batch 32 --epochs 8 '
        '--base-lr 0.8 --warmup-epochs 1 --lr-drop-epochs 6 --eval-every 8 --logdir ./six', folder)
    assert last_accuracy(folder / 'six') > WANTED
    link_classes(digits_folder(), folder / 'images-four', '6789')
    return folder


@pytest.mark.skipif(CIFAR_VARIABLE not in os.environ, reason='{} names no folder with CIFAR-10'.format(CIFAR_VARIABLE))
def test_the_documented_network_learns_four_classes_of_cifar10_in_two_minutes(tmp_path):
    os.symlink(os.path.abspath(os.environ[CIFAR_VARIABLE]), tmp_path / 'cifar10')
    commands = [command.text for command in documented() if command.source == PAGE]
    first = next(number for number, text in enumerate(commands) if '--logdir train_log/ten' in text)
    base, links, tuning = commands[first:first + 3]
    run(base, tmp_path)
    run(links, tmp_path)
    seconds = run(tuning, tmp_path)
    folder = tmp_path / 'train_log' / 'four'
    images = sum(len(os.listdir(each)) for each in (tmp_path / 'four' / 'test').iterdir())
    print('{:.1%} of {} clean test images after {:.0f} s'.format(last_accuracy(folder), images, seconds))
    assert len(os.listdir(tmp_path / 'four' / 'test')) == 4 and images >= 3200
    assert last_accuracy(folder) > WANTED and seconds < SECONDS
