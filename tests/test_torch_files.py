"""Files of PyTorch's: every number as PyTorch wrote it, nothing followed but tensors, and no damage believed."""
import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest

import convert
import main
from test_main import refusal
from weights import torch_pickle
from weights.stored import Stored
from weights.torch_files import TorchFile
from weights.torch_pickle import Storage, Tensor

FILES = ['weights.pt', 'weights_legacy.pt', 'full_model.pth', 'kinds.pt', 'kinds_legacy.pt']


@pytest.mark.parametrize('name', ['kinds.pt', 'kinds_legacy.pt'])
def test_types_strides_offsets_and_shared_storages_are_as_in_pytorch(torch_path, name):
    """Transposed, every other, views of one storage, channels last, no elements, no axes, and each type."""
    file = TorchFile(torch_path(name))
    with np.load(torch_path('kinds.npz')) as expected:
        assert file.content.keys() == set(expected.files)
        for key in expected.files:
            found = file.array(file.content[key], shared=True)
            if key == 'bf16':
                assert found.dtype.name == 'bfloat16'
                found = found.astype(np.float32)
            assert (found.dtype, found.shape) == (expected[key].dtype, expected[key].shape), key
            assert found.tobytes() == expected[key].tobytes() and found.flags.c_contiguous, key
    storages = [file.content[key].storage.key for key in ('whole', 'transposed', 'every_other', 'view')]
    assert len(set(storages)) == 1 and file.content['view'].offset == 5


def test_a_file_of_another_byte_order_is_turned(torch_path, tmp_path):
    with zipfile.ZipFile(torch_path('weights.pt')) as archive, zipfile.ZipFile(tmp_path / 'big.pt', 'w') as turned:
        for info in archive.infolist():
            content = archive.read(info)
            if '/data/' in info.filename:
                content = np.frombuffer(content, '<f4').astype('>f4').tobytes()
            turned.writestr(info.filename, b'big' if info.filename.endswith('byteorder') else content)
    files = TorchFile(torch_path('weights.pt')), TorchFile(str(tmp_path / 'big.pt'))
    for name, tensor in files[0].content.items():
        assert np.array_equal(files[0].array(tensor), files[1].array(files[1].content[name]))


# What is no tensor

class Calls:
    """Pickled, it is a call; ``REDUCE`` would make it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(path, content, storages=()):
    """A file as PyTorch makes them, with this pickle."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', content)
        archive.writestr('x/byteorder', 'little')
        for key, values in storages:
            archive.writestr('x/data/{}'.format(key), values)
    return str(path)


def legacy(path, content):
    with open(path, 'wb') as f:
        for each in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True}):
            pickle.dump(each, f, 2)
        f.write(content)
        pickle.dump([], f, 2)
    return str(path)


def malicious(marker):
    """Pickles that would make the file ``marker``, and what they must be refused by."""
    command = 'touch {}'.format(marker)
    system = os.system
    yield pickle.dumps({'a': Calls(system, command)}, 2), 'posix.system'
    yield pickle.dumps({'a': Calls(system, command)}, 4), 'posix.system'  # STACK_GLOBAL
    yield pickle.dumps([[{'state_dict': {'deep': [Calls(system, command)]}}]], 2), 'posix.system'
    yield pickle.dumps({'a': Calls(eval, "__import__('os').system({!r})".format(command))}, 2), '__builtin__.eval'
    yield b'\x80\x02c__builtin__\ngetattr\ncos\nsystem\n.', '__builtin__.getattr'
    yield "(S'{}'\nios\nsystem\n.".format(command).encode(), 'os.system'  # INST
    yield "cos\nsystem\n(S'{}'\ntR.".format(command).encode(), 'os.system'  # of protocol 0
    yield b'\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.', '_rebuild_tensor_v2.__globals__'
    yield pickle.dumps({'scale': np.float64(1.5)}, 2), 'numpy'
    yield pickle.dumps({'array': np.zeros(3)}, 2), 'numpy'
    yield b'\x80\x02ctorch.storage\n_load_from_bytes\n.', 'torch.storage._load_from_bytes'
    yield b'\x80\x02cargparse\nNamespace\n)\x81.', 'argparse.Namespace'
    yield b'\x80\x02ccollections\nOrderedDict\n)\x81.', 'NEWOBJ'
    yield b'\x80\x02\x82\x01.', 'EXT1'


@pytest.mark.parametrize('number', range(14))
@pytest.mark.parametrize('form', [zipped, legacy])
def test_a_pickle_that_calls_something_is_refused_by_name_and_calls_nothing(tmp_path, number, form):
    marker = tmp_path / 'executed'
    content, named = list(malicious(marker))[number]
    path = form(tmp_path / 'x.pt', content)
    with pytest.raises(ValueError, match=named.replace('.', r'\.')) as error:
        Stored(path)
    assert '\n' not in str(error.value) and path in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize('program, argv', [
    (convert.main, ['weights', '--load', 'x.pt', 'X.npz']), (convert.main, ['saved-model', '--load', 'x.pt', 'served']),
    (main.main, ['--eval-directory', '.', '--load', 'x.pt']), (main.main, ['--fake', '--load', 'x.pt'])])
def test_every_program_refuses_it_in_one_line(tmp_path, monkeypatch, capsys, program, argv):
    monkeypatch.chdir(tmp_path)
    zipped('x.pt', next(malicious('executed'))[0])
    assert "'x.pt': not a readable checkpoint (it holds posix.system" in refusal(capsys, program, argv)
    assert os.listdir() == ['x.pt']


def test_those_pickles_would_call_it(tmp_path):
    """The same bytes, in the hands of Python's own module."""
    marker = tmp_path / 'executed'
    for content in [content for content, _ in malicious(marker)][:4]:
        pickle.loads(content)
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize('content, said', [
    (b'\x80\x02K\x01}q\x00u.', ''), (b'\x80\x02R.', 'without its arguments'), (b'\x80\x02cos\n', ''),
    (b'\x80\x02]K\x01b.', 'attributes'), (b'\x80\x02)}K\x01s.', 'no dictionary'),
    (b'\x80\x02}(]K\x01u.', 'without a name'), (b'\x80\x02ctorch\nFloatStorage\n)R.', 'type that is called'),
    (b'\x80\x02K\x01K\x02\x86Q.', ''), (b'\x80\x02h\x07.', ''), (b'\x80\x02K\x01K\x02.', ''), (b'\x80\x02', ''),
    (b'', '')])
def test_a_pickle_of_nonsense_is_an_error(content, said):
    with pytest.raises(Exception, match=said) as error:
        torch_pickle.load(io.BytesIO(content))
    assert isinstance(error.value, (ValueError, KeyError, IndexError, TypeError))


def test_tuples_in_tuples_take_no_time():
    """2 ** 60 elements, all the same: printing or hashing one would not end."""
    laugh = b'\x80\x02)' + b'q\x00h\x00\x86' * 60
    for end in (b'}q\x01h\x00K\x01s.', b'ctorch._utils\n_rebuild_tensor_v2\nq\x02h\x00R.',
                b'\x85Q.', b'ccollections\nOrderedDict\nh\x00R.'):
        with pytest.raises((ValueError, TypeError, KeyError)):
            torch_pickle.load(io.BytesIO(laugh + end))


# Sizes

def tensor(shape, strides, offset=0, length=24, kind='FloatStorage', key='0'):
    """A pickle of {'a': that tensor}."""
    def number(n):
        return b'\x8a' + bytes([9]) + int(n).to_bytes(9, 'little', signed=True)

    def numbers(values):
        return b'(' + b''.join(map(number, values)) + b't'
    return (b'\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n'
            + kind.encode() + b'\nX\x01\x00\x00\x00' + key.encode() + b'X\x03\x00\x00\x00cpu' + number(length) + b'tQ'
            + number(offset) + numbers(shape) + numbers(strides) + b'\x89)tRs.')


@pytest.mark.parametrize('changed', [
    dict(shape=[25], strides=[1]), dict(shape=[24], strides=[2]), dict(shape=[12], strides=[1], offset=13),
    dict(shape=[2 ** 20, 2 ** 20], strides=[0, 0]), dict(shape=[2 ** 47] * 8, strides=[0] * 8),
    dict(shape=[100], strides=[0]), dict(shape=[-1], strides=[1]), dict(shape=[3], strides=[-1], offset=5),
    dict(shape=[3], strides=[1], offset=-1), dict(shape=[4, 6], strides=[6]), dict(shape=[2 ** 60], strides=[1]),
    dict(shape=[2], strides=[1], length=2 ** 45), dict(shape=[2], strides=[1], length=23),
    dict(shape=[2], strides=[1], length=-1), dict(shape=[2], strides=[1], kind='DoubleStorage'),
    dict(shape=[2], strides=[1], kind='UntypedStorage'), dict(shape=[2], strides=[1], key='1')])
def test_a_tensor_beyond_its_storage_or_the_file_is_refused_before_it_is_read(tmp_path, monkeypatch, changed):
    fine = dict(shape=[4, 6], strides=[6, 1])
    storage = [('0', np.arange(24, dtype=np.float32).tobytes())]
    assert Stored(zipped(tmp_path / 'fine.pt', tensor(**fine), storage))['a'].shape == (4, 6)
    path = zipped(tmp_path / 'x.pt', tensor(**changed), storage)
    monkeypatch.setattr(np, 'frombuffer', None)  # no number is looked at
    with pytest.raises(ValueError, match='not a readable checkpoint') as error:
        Stored(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


def test_a_compressed_archive_is_refused(tmp_path):
    """Of a megabyte of zeros a kilobyte: PyTorch never compresses."""
    with zipfile.ZipFile(tmp_path / 'x.pt', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x/data.pkl', tensor([2], [1], length=1 << 18))
        archive.writestr('x/data/0', bytes(1 << 20))
    with pytest.raises(ValueError, match='compressed'):
        Stored(str(tmp_path / 'x.pt'))


def test_a_view_of_an_old_file_begins_within_its_storage():
    storage = Storage('k', 'float32', 4, 6, 10)
    assert torch_pickle._tensor(storage, 1, (5,), (1,)) == Tensor(storage, 1, (5,), (1,))
    with pytest.raises(ValueError, match='reaches past'):
        torch_pickle._tensor(storage, 2, (5,), (1,))


# Damage

@pytest.mark.parametrize('name', FILES)
def test_no_file_that_is_cut_short_is_believed(torch_path, tmp_path, name):
    with open(torch_path(name), 'rb') as f:
        whole = f.read()
    rng = random.Random(0)
    lengths = {0, 1, 4, 100, len(whole) // 2, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(12))}
    path = tmp_path / ('x.' + name.split('.')[1])
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match='not a readable checkpoint') as error:
            dict(Stored(str(path)))
        assert '\n' not in str(error.value)


def test_no_flipped_bit_is_a_traceback_and_in_an_archive_none_is_believed(torch_path, tmp_path):
    rng = random.Random(0)
    for name in ('kinds.pt', 'kinds_legacy.pt'):
        with open(torch_path(name), 'rb') as f:
            whole = f.read()
        right = {key: value.tobytes() for key, value in Stored(torch_path(name)).items()}
        path = tmp_path / name
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                found = {key: value.tobytes() for key, value in Stored(str(path)).items()}
            except ValueError as error:
                assert '\n' not in str(error)
            else:  # in what is not looked at, such as a date; the older files have no checksum
                assert found == right or name == 'kinds_legacy.pt'


def test_what_is_no_file_of_pytorch_s_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / 'zip.pt', 'w') as archive:
        archive.writestr('model.py', 'print()')
    (tmp_path / 'text.pt').write_text('weights')
    (tmp_path / 'number.pt').write_bytes(pickle.dumps(5, 2))
    np.savez(tmp_path / 'npz.npz', a=np.zeros(3))
    os.rename(tmp_path / 'npz.npz', tmp_path / 'npz.pt')
    (tmp_path / 'tensorless.pt').write_bytes(b'')
    zipped(tmp_path / 'plain.pt', pickle.dumps({'epoch': 5, 'state_dict': {'a': 3}}, 2))
    for name in ('zip.pt', 'text.pt', 'number.pt', 'npz.pt', 'tensorless.pt', 'plain.pt'):
        with pytest.raises(ValueError, match="--load '.*{}': not a readable checkpoint".format(name)) as error:
            Stored(str(tmp_path / name))
        assert '\n' not in str(error.value)


def test_a_legacy_file_with_more_behind_it_is_refused(torch_path, tmp_path):
    with open(torch_path('kinds_legacy.pt'), 'rb') as f:
        (tmp_path / 'x.pt').write_bytes(f.read() + struct.pack('<q', 1))
    with pytest.raises(ValueError, match='8 bytes stand behind'):
        Stored(str(tmp_path / 'x.pt'))
