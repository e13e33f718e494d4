"""Names by which users of the released programs have what they import; each is the same object as in its room."""
import importlib
import os
import subprocess
import sys

import pytest

import main
import nets

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.parametrize('module, names', [
    ('adv_model', 'NoOpAttacker PGDAttacker AdvImageNetModel'), ('resnet_model', 'imagenet_resnet'),
    ('main', 'get_parser parse_args'), ('nets', ' '.join(name + 'Model' for name in nets.ARCHITECTURES)),
    ('third_party.utils', 'start_ranks Ranks session_config gather_rows together OneLineParser'),
    ('third_party.imagenet_utils', 'open_dataset augment TrainingStream ValidationBatches Lease'),
    ('zmq_ops', 'ZMQPullSocket dump_arrays load_arrays')])
def test_a_name_is_where_it_was(module, names):
    found = importlib.import_module(module)
    for name in names.split():
        thing = getattr(found, name)
        assert getattr(importlib.import_module(thing.__module__), name) is thing


def test_a_network_is_made_from_its_name_and_flags():
    args = main.parse_args(['--arch', 'CifarResNet', '-d', '8', '--fake'])
    assert getattr(nets, args.arch + 'Model')(args).num_classes == args.num_classes == 10


def test_the_folder_of_the_originals_may_be_on_the_path(tmp_path):
    """As in the released README: PYTHONPATH names third_party, whose modules are imported by their bare names."""
    program = ('import imagenet_utils, utils, zmq_ops; from third_party import utils as other; '
               'assert utils.start_ranks is other.start_ranks and imagenet_utils.open_dataset')
    subprocess.run([sys.executable, '-c', program], cwd=tmp_path, check=True,
                   env=dict(os.environ, PYTHONPATH=os.path.join(ROOT, 'third_party')))
