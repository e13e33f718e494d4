"""third_party/zmq_ops: the wire format, the op's refusals, and how pulls wait, end and share a socket.

Expected bytes come from tests/fixtures/zmq_wire.json (written by the original encoder) or from `struct` here; expected
verdicts on damaged messages come from `reference_decode`, a reader of its own.
"""
import contextlib
import ctypes
import gc
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import zmq
from hypothesis import HealthCheck, given, settings, strategies as st

import zmq_ops
from zmq_ops import pull_socket, wire

with open(os.path.join(os.path.dirname(__file__), 'fixtures', 'zmq_wire.json')) as f:
    FIXTURE = json.load(f)
CODES = FIXTURE['dtype_codes']
SECOND = 1000  # ms
LIMIT = tf.RunOptions(timeout_in_ms=20 * SECOND)  # a pull that gets no message fails its test and does not hang it
PROMPT = 5.0  # s; an upper bound on "at once" that a loaded machine keeps


def fixture_arrays(message):
    return [np.array(a['values'], a['dtype']).reshape(a['shape']) for a in message['arrays']]


def tensor_bytes(code, dims, payload, rank=None, nbytes=None):
    """One tensor on the wire; `rank` and `nbytes` may be given wrong."""
    rank = len(dims) if rank is None else rank
    nbytes = len(payload) if nbytes is None else nbytes
    return struct.pack('<ii{}iq'.format(len(dims)), code, rank, *dims, nbytes) + payload


def message_bytes(*tensors, count=None):
    return struct.pack('<i', len(tensors) if count is None else count) + b''.join(tensors)


def array_bytes(array):
    return tensor_bytes(CODES[array.dtype.name], array.shape, array.tobytes())


def int_message(value):
    return message_bytes(tensor_bytes(CODES['int32'], [], struct.pack('<i', value)))


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        a = np.asarray(a)
        assert a.dtype == e.dtype and a.shape == e.shape and a.tobytes() == e.tobytes()


class Pipe:
    """A PUSH socket, a ZMQPullSocket connected to it, and a session."""

    def __init__(self, push, pull_socket_, sess):
        self.push, self.socket, self.sess = push, pull_socket_, sess
        self.tensors = pull_socket_.pull()

    def send(self, data):
        self.push.send(data)

    def pull(self, options=LIMIT):
        return self.sess.run(self.tensors, options=options)

    def pull_in_thread(self, fetches=None):
        """Starts a step that pulls; the returned function waits for its result or exception."""
        outcome = []

        def run():
            try:
                outcome.append(self.sess.run(self.tensors if fetches is None else fetches))
            except tf.errors.OpError as e:
                outcome.append(e)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def join():
            thread.join(PROMPT)
            assert not thread.is_alive(), 'the step is still blocked'
            return outcome[0]
        return join


def new_address():
    return 'ipc://@zmq-ops-test-{}'.format(uuid.uuid4().hex)


@pytest.fixture
def address():
    return new_address()


@contextlib.contextmanager
def push_socket(end_point, bind=False, hwm=1000):
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.set(zmq.LINGER, 0)
        push.set(zmq.RECONNECT_IVL, 1)  # ms; the other side often binds a moment later
        push.set(zmq.SNDHWM, hwm)
        push.set(zmq.SNDTIMEO, 20 * SECOND)
        (push.bind if bind else push.connect)(end_point)
        yield push


@contextlib.contextmanager
def new_pipe(types, end_point=None, config=None, **kwargs):
    end_point = end_point or new_address()
    with push_socket(end_point) as push, tf.Graph().as_default():
        with tf.Session(config=config) as sess:
            yield Pipe(push, zmq_ops.ZMQPullSocket(end_point, types, **kwargs), sess)


@pytest.fixture(scope='module')
def int_pipe():
    with new_pipe([tf.int32]) as p:
        yield p


@pytest.fixture(scope='module')
def mixed_pipe():
    with new_pipe(MIXED) as p:
        yield p


# The encoder.

@pytest.mark.parametrize('message', FIXTURE['messages'])
def test_encoder_writes_the_fixture_bytes(message):
    assert zmq_ops.dump_arrays(fixture_arrays(message)) == bytes.fromhex(message['hex'])


def test_dtype_codes_are_those_of_the_fixture_and_of_tensorflow():
    assert wire.DTYPE_CODES == CODES
    assert {name: tf.as_dtype(name).as_datatype_enum for name in CODES} == CODES


def test_python_and_numpy_numbers_become_32_bit_scalars_and_the_list_stays_as_it_was():
    numbers = [1.5, -7, np.float64(0.25), np.int64(9), True, np.bool_(False)]
    given_list = list(numbers)
    expected = message_bytes(
        tensor_bytes(1, [], struct.pack('<f', 1.5)), tensor_bytes(3, [], struct.pack('<i', -7)),
        tensor_bytes(1, [], struct.pack('<f', 0.25)), tensor_bytes(3, [], struct.pack('<i', 9)),
        tensor_bytes(10, [], b'\1'), tensor_bytes(10, [], b'\0'))
    assert zmq_ops.dump_arrays(given_list) == expected
    assert zmq_ops.dump_arrays(tuple(given_list)) == expected
    assert all(a is b for a, b in zip(given_list, numbers))


@pytest.mark.parametrize('array', [
    np.arange(12, dtype='i4').reshape(3, 4).T, np.arange(12, dtype='i4').reshape(3, 4)[:, ::2],
    np.arange(12, dtype='i4')[::-1], np.asfortranarray(np.arange(6, dtype='i4').reshape(2, 3)),
    np.arange(5, dtype='>i4'), np.array(3, '>i4')], ids=str)
def test_any_memory_layout_is_sent_in_c_order_and_little_endian(array):
    before = array.copy()
    payload = b''.join(struct.pack('<i', v) for v in array.ravel().tolist())
    assert zmq_ops.dump_arrays([array]) == message_bytes(tensor_bytes(3, array.shape, payload))
    assert np.array_equal(array, before)


@pytest.mark.parametrize('element, text', [
    (np.array(['a']), 'element 1: dtype <U1'), (np.array([None]), 'element 1: dtype object'),
    (np.zeros(2, 'M8[s]'), r'element 1: dtype datetime64\[s\]'),
    (np.zeros(2, np.longdouble), 'element 1: dtype float'),
    (np.zeros(2, [('x', 'i4')]), 'element 1: dtype'), ([1, 2], 'element 1: list'), ('text', 'element 1: str'),
    (None, 'element 1: NoneType'), (np.complex64(1), 'element 1: complex64 of dtype complex64')])
def test_encoder_refuses_other_types_and_names_the_element(element, text):
    with pytest.raises(TypeError, match=text):
        zmq_ops.dump_arrays([np.zeros(1, 'f4'), element])


@pytest.mark.parametrize('number', [2 ** 31, -2 ** 31 - 1, np.int64(2 ** 40), 1e39])
def test_encoder_refuses_numbers_beyond_32_bits(number):
    with pytest.raises(ValueError, match='element 0: .* does not fit'):
        zmq_ops.dump_arrays([number])


def test_encoder_keeps_the_ends_of_the_range_and_the_non_finite():
    numbers = [2 ** 31 - 1, -2 ** 31, float('inf'), float(np.finfo('f4').max)]
    assert zmq_ops.dump_arrays(numbers) == message_bytes(
        *[tensor_bytes(3, [], struct.pack('<i', n)) for n in numbers[:2]],
        *[tensor_bytes(1, [], struct.pack('<f', n)) for n in numbers[2:]])


def test_encoder_refuses_a_bare_array_and_a_dimension_beyond_int32():
    with pytest.raises(TypeError, match='list or tuple'):
        zmq_ops.dump_arrays(np.zeros(3))
    with pytest.raises(ValueError, match='element 0: .* dimension'):
        zmq_ops.dump_arrays([np.empty((0, 2 ** 31), 'u1')])


@pytest.mark.parametrize('message', FIXTURE['messages'])
def test_messages_written_into_a_buffer_are_the_fixture_bytes(message):
    arrays, expected = fixture_arrays(message), bytes.fromhex(message['hex'])
    specs = [(a.dtype, a.shape) for a in arrays]
    assert wire.message_size(arrays) == wire.message_size(specs) == len(expected)
    for kind in (bytearray, lambda size: np.full(size, 0x55, 'u1'), lambda size: memoryview(bytearray(size))):
        written, filled = kind(len(expected)), kind(len(expected))
        wire.write_message(arrays, written)
        for view, array in zip(wire.payload_views(filled, specs), arrays):
            assert view.dtype == array.dtype and view.shape == array.shape
            view[...] = array
        assert bytes(written) == bytes(filled) == expected


def test_a_message_is_written_from_any_layout_and_leaves_the_rest_of_its_buffer():
    arrays = [np.arange(12, dtype='i4').reshape(3, 4).T, np.arange(5, dtype='>i4'), 1.5, -7, True]
    expected = zmq_ops.dump_arrays(arrays)
    buffer = bytearray(b'x' * (len(expected) + 9))
    wire.write_message(arrays, buffer)
    assert buffer == expected + b'x' * 9 and len(expected) == wire.message_size(arrays)


def test_a_batch_is_assembled_in_place_image_by_image():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    specs = [(np.uint8, images.shape), ('>i4', (4,))]
    buffer = bytearray(wire.message_size(specs))
    image, label = wire.payload_views(buffer, specs)
    for i in range(4):
        image[i], label[i] = images[i], i
    assert buffer == zmq_ops.dump_arrays([images, np.arange(4, dtype='i4')])


@pytest.mark.parametrize('buffer, text', [
    (bytearray(31), 'message of 32 bytes does not fit into 31 bytes'), (bytearray(), 'into 0 bytes'),
    (bytes(32), 'does not fit into 32 bytes of read-only memory')])
def test_a_buffer_that_cannot_take_the_message_is_refused_and_stays_as_it_was(buffer, text):
    before = bytes(buffer)
    for call in (lambda: wire.write_message([np.ones(2, 'f4')], buffer),
                 lambda: wire.payload_views(buffer, [('f4', (2,))])):
        with pytest.raises(ValueError, match=text):
            call()
    assert buffer == before


def test_specs_and_elements_that_the_format_does_not_know_are_refused():
    for call in (wire.message_size, lambda specs: wire.payload_views(bytearray(99), specs)):
        with pytest.raises(TypeError, match='element 1: dtype datetime64'):
            call([('u1', ()), ('M8[s]', (1,))])
        with pytest.raises(ValueError, match='element 0: .* dimension'):
            call([('u1', (0, 2 ** 31))])
    with pytest.raises(TypeError, match='write_message takes a list or tuple'):
        wire.write_message(np.zeros(3), bytearray(99))
    with pytest.raises(TypeError, match='element 0: str'):
        wire.message_size(['text'])


def test_importing_the_package_for_the_encoder_leaves_tensorflow_out():
    code = "import sys, zmq_ops; zmq_ops.dump_arrays([1]); assert 'tensorflow' not in sys.modules"
    env = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(zmq_ops.__file__)))
    subprocess.run([sys.executable, '-c', code], env=env, check=True)


# The reader in Python; what is malformed, and random damage, stand beside the op's.

@pytest.mark.parametrize('message', FIXTURE['messages'])
def test_python_reads_the_fixture_bytes_in_place(message):
    arrays, data = fixture_arrays(message), bytes.fromhex(message['hex'])
    for memory in (data, bytearray(data), np.frombuffer(data, 'u1')):
        found = zmq_ops.load_arrays(memory, [a.dtype for a in arrays])
        assert_same(found, arrays)
        assert not any(a.flags.writeable or a.flags.owndata for a in found)


def test_python_reads_what_the_encoder_writes():
    arrays = [np.arange(24, dtype='>i4').reshape(2, 3, 4).T, np.array(2.5, 'f8'), np.zeros((0, 3), '?'), True, -7, 0.5]
    read = zmq_ops.load_arrays(zmq_ops.dump_arrays(arrays), ['i4', np.float64, 'bool', bool, np.int32, 'f4'])
    assert_same(read, [np.ascontiguousarray(arrays[0], 'i4')] + arrays[1:3] + [
        np.array(True), np.array(-7, 'i4'), np.array(0.5, 'f4')])


def test_python_cannot_declare_what_the_format_does_not_know():
    with pytest.raises(TypeError, match='element 1: dtype datetime64'):
        zmq_ops.load_arrays(b'', ['u1', 'M8[s]'])


# The op and well-formed messages.

@pytest.mark.parametrize('message', FIXTURE['messages'])
def test_op_reads_the_fixture_bytes(message):
    arrays = fixture_arrays(message)
    with new_pipe([a.dtype for a in arrays]) as pipe:
        pipe.send(bytes.fromhex(message['hex']))
        assert_same(pipe.pull(), arrays)


def test_op_reads_every_dtype_at_any_alignment():
    rng = np.random.default_rng(0)
    arrays = []
    for name in CODES:
        values = rng.integers(0, 256, 7 * np.dtype(name).itemsize, np.uint8)
        arrays.append((values & 1).view(name) if name == 'bool' else values.view(name))
    # Three bytes first, so that no field after them is aligned.
    arrays = [np.arange(3, dtype='u1')] + arrays
    data = message_bytes(*map(array_bytes, arrays))
    assert zmq_ops.dump_arrays(arrays) == data
    with new_pipe([a.dtype for a in arrays]) as pipe:
        pipe.send(data)
        assert_same(pipe.pull(), arrays)


@pytest.mark.parametrize('shape', [(), (0,), (1,), (2, 0, 3), (1,) * 10, (2, 3, 4)], ids=str)
def test_op_reads_scalars_and_empty_tensors(shape):
    array = np.arange(np.prod(shape), dtype='f4').reshape(shape)
    with new_pipe([tf.float32]) as pipe:
        pipe.send(message_bytes(array_bytes(array)))
        assert_same(pipe.pull(), [array])


def test_op_reads_a_batch_of_images():
    image = np.random.default_rng(1).integers(0, 256, (32, 224, 224, 3), np.uint8)
    label = np.arange(32, dtype='i4')
    with new_pipe([tf.uint8, tf.int32]) as pipe:
        for _ in range(3):
            pipe.send(zmq_ops.dump_arrays([image, label]))
            assert_same(pipe.pull(), [image, label])


def test_op_takes_the_highest_rank_of_a_tensor_shape():
    with new_pipe([tf.uint8]) as pipe:
        pipe.send(message_bytes(tensor_bytes(4, [1] * 254, b'\5')))
        rank, value = pipe.sess.run([tf.rank(pipe.tensors[0]), tf.reshape(pipe.tensors[0], [])], options=LIMIT)
        assert (rank, value) == (254, 5)


def test_pull_returns_a_list_of_tensors_of_unknown_shape():
    with new_pipe([tf.uint8, 'float32']) as pipe:
        assert isinstance(pipe.tensors, list)
        assert [t.dtype for t in pipe.tensors] == [tf.uint8, tf.float32]
        assert all(t.shape.rank is None for t in pipe.tensors)


def test_ops_stay_on_the_cpu_whatever_the_device_scope(address):
    with tf.Graph().as_default(), tf.device('/gpu:0'):
        tensors = zmq_ops.ZMQPullSocket(address, [tf.int32]).pull()
        assert 'CPU:0' in tensors[0].device and 'CPU:0' in tensors[0].op.inputs[0].device


# Malformed messages. Each case: the dtypes declared, the message, what the error must name.

F4 = array_bytes(np.arange(6, dtype='f4').reshape(2, 3))
I4 = array_bytes(np.arange(2, dtype='i4'))
BIG = 2 ** 31 - 1
MALFORMED = {
    'empty message': ('f', b'', 'message of 0 bytes ends within the number of tensors'),
    'too few tensors': ('fi', message_bytes(F4), 'holds 1 tensors, 2 are declared'),
    'too many tensors': ('f', message_bytes(F4, I4), 'holds 2 tensors, 1 are declared'),
    'no tensors': ('f', message_bytes(), 'holds 0 tensors, 1 are declared'),
    'negative count': ('f', message_bytes(F4, count=-1), 'holds -1 tensors'),
    'huge count': ('f', message_bytes(F4, count=BIG), 'holds 2147483647 tensors'),
    'other dtype': ('ff', message_bytes(F4, I4), 'component 1: dtype is int32, declared is float32'),
    'unknown dtype': ('fi', message_bytes(F4, tensor_bytes(7, [], b'')), 'component 1: unknown dtype code 7'),
    'negative dtype': ('f', message_bytes(tensor_bytes(-1, [], b'')), 'component 0: unknown dtype code -1'),
    'negative rank': ('f', message_bytes(tensor_bytes(1, [], b'', rank=-1)), 'component 0: rank -1 '),
    'rank beyond the limit': ('f', message_bytes(tensor_bytes(1, [1] * 255, b'\0' * 4)), 'component 0: rank 255 '),
    'huge rank': ('f', message_bytes(tensor_bytes(1, [], b'', rank=BIG)), 'component 0: rank 2147483647 '),
    'rank beyond the message': ('f', message_bytes(tensor_bytes(1, [1], b'', rank=9)), 'ends within dimension'),
    'negative dimension': ('f', message_bytes(tensor_bytes(1, [2, -3], b'\0' * 24)), 'component 0: dimension 1 is -3'),
    'two negative dimensions': ('f', message_bytes(tensor_bytes(1, [-2, -3], b'\0' * 24)), 'dimension 0 is -2'),
    'payload too short for the shape': ('if', message_bytes(I4, tensor_bytes(1, [2, 3], b'\0' * 20)),
                                        r'component 1: the payload has 20 bytes, shape \[2,3\] of float32 takes 24'),
    'payload too long for the shape': ('f', message_bytes(tensor_bytes(1, [2], b'\0' * 12)), 'has 12 bytes.* takes 8'),
    'payload for an empty shape': ('f', message_bytes(tensor_bytes(1, [0], b'\0' * 4)), 'has 4 bytes.* takes 0'),
    'payload length without payload': ('f', message_bytes(tensor_bytes(1, [2], b'', nbytes=8)),
                                       'ends within the payload: 8 bytes needed at offset 24, 0 left'),
    'negative payload length': ('f', message_bytes(tensor_bytes(1, [2], b'', nbytes=-8)), 'has -8 bytes'),
    'huge payload': ('f', message_bytes(tensor_bytes(1, [BIG], b'', nbytes=4 * BIG)), 'ends within the payload'),
    'size beyond int32': ('f', message_bytes(tensor_bytes(1, [65536, 65536], b'', nbytes=0)), 'takes 17179869184'),
    'size that is 0 modulo 2**64': ('f', message_bytes(tensor_bytes(1, [2 ** 30, 2 ** 30, 4], b'', nbytes=0)),
                                    r'component 0: shape \[1073741824,1073741824,4\] is too large'),
    'size beyond int64, a dimension 0': ('f', message_bytes(tensor_bytes(1, [BIG, BIG, BIG, 0], b'')), 'is too large'),
    'trailing bytes': ('f', message_bytes(F4) + b'abc', '3 bytes follow the last tensor'),
    'bool of value 2': ('?', message_bytes(tensor_bytes(10, [3], b'\1\0\2')), 'component 0: bool 2 is stored as 2'),
}


@pytest.mark.parametrize('types, message, text', MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_message_is_a_named_error_and_the_next_one_arrives(types, message, text):
    good = [np.ones(2, t) for t in types]
    with new_pipe([a.dtype for a in good]) as pipe:
        pipe.send(message)
        pipe.send(zmq_ops.dump_arrays(good))
        with pytest.raises(tf.errors.InvalidArgumentError, match='zmq_ops: .*' + text):
            pipe.pull()
        assert_same(pipe.pull(), good)


@pytest.mark.parametrize('types, message, text', MALFORMED.values(), ids=MALFORMED.keys())
def test_python_names_a_malformed_message_as_the_op_does(types, message, text):
    with pytest.raises(ValueError, match=text):
        zmq_ops.load_arrays(message, [np.dtype(t) for t in types])


def test_message_of_several_frames_is_refused_as_a_whole(int_pipe):
    int_pipe.push.send_multipart([int_message(1), int_message(2), b'', int_message(3)])
    int_pipe.send(int_message(4))
    with pytest.raises(tf.errors.InvalidArgumentError, match='zmq_ops: .* 4 frames'):
        int_pipe.pull()
    assert int_pipe.pull() == [4]


MIXED = (tf.uint8, tf.int32, tf.bool)
MIXED_ARRAYS = [np.arange(6, dtype='u1').reshape(1, 2, 3), np.array([5, -6], 'i4'), np.array([True, False])]
MIXED_MESSAGE = message_bytes(*map(array_bytes, MIXED_ARRAYS))


def test_message_cut_off_at_any_byte_is_refused(mixed_pipe):
    for size in range(len(MIXED_MESSAGE)):
        mixed_pipe.send(MIXED_MESSAGE[:size])
        with pytest.raises(tf.errors.InvalidArgumentError, match='message of {} bytes ends within'.format(size)):
            mixed_pipe.pull()
    mixed_pipe.send(MIXED_MESSAGE)
    assert_same(mixed_pipe.pull(), MIXED_ARRAYS)


def reference_decode(data, names):
    """The arrays of a message, or None if it is malformed; written from the format's description."""
    def take(form):
        nonlocal data
        size = struct.calcsize(form)
        values, data = struct.unpack(form, data[:size]), data[size:]
        return values
    arrays = []
    try:
        if take('<i') != (len(names),):
            return None
        for name in names:
            code, rank = take('<ii')
            if code != CODES[name] or not 0 <= rank <= 254:
                return None
            dims = take('<{}i'.format(rank))
            nbytes, = take('<q')
            item_size = np.dtype(name).itemsize
            size = item_size * math.prod(dims)
            too_large = item_size * math.prod(d for d in dims if d) >= 2 ** 63
            if min(dims, default=0) < 0 or too_large or nbytes != size or nbytes > len(data):
                return None
            payload, data = data[:nbytes], data[nbytes:]
            if name == 'bool' and set(payload) - {0, 1}:
                return None
            arrays.append(np.frombuffer(payload, name).reshape(dims))
    except struct.error:
        return None
    return None if data else arrays


def test_the_reference_reader_of_these_tests_knows_good_from_bad():
    assert_same(reference_decode(MIXED_MESSAGE, ['uint8', 'int32', 'bool']), MIXED_ARRAYS)
    assert all(reference_decode(MIXED_MESSAGE[:n], ['uint8', 'int32', 'bool']) is None
               for n in range(len(MIXED_MESSAGE)))


@st.composite
def damaged_messages(draw):
    arrays = []
    for dtype in MIXED:
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        values = np.frombuffer(draw(st.binary(min_size=108, max_size=108)), 'u1') & (1 if dtype == tf.bool else 255)
        size = int(np.prod(shape)) * np.dtype(dtype.as_numpy_dtype).itemsize
        arrays.append(values[:size].view(dtype.as_numpy_dtype).reshape(shape))
    data = bytearray(message_bytes(*map(array_bytes, arrays)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(['byte', 'int32', 'int64', 'cut', 'insert']))
        if kind == 'byte':
            data[at:at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == 'int32':
            at -= at % 4 if draw(st.booleans()) else 0
            numbers = [-1, 0, 1, 2, 255, 65536, 2 ** 30, BIG, -2 ** 31]
            data[at:at + 4] = struct.pack('<i', draw(st.sampled_from(numbers)))
        elif kind == 'int64':
            data[at:at + 8] = struct.pack('<q', draw(st.sampled_from([-1, 0, 2 ** 31, 2 ** 62, 2 ** 63 - 1, -2 ** 63])))
        elif kind == 'cut':
            del data[at:]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
    return bytes(data)


@settings(max_examples=400, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.one_of(damaged_messages(), st.binary(max_size=60)))
def test_random_damage_gives_the_right_tensors_or_an_error(mixed_pipe, data):
    expected = reference_decode(data, [dtype.name for dtype in MIXED])
    mixed_pipe.send(data)
    if expected is None:
        with pytest.raises(tf.errors.InvalidArgumentError, match='zmq_ops: '):
            mixed_pipe.pull()
    else:
        assert_same(mixed_pipe.pull(), expected)


def assert_python_reads_what_the_reference_reads(data):
    names = [dtype.name for dtype in MIXED]
    expected = reference_decode(data, names)
    if expected is None:
        with pytest.raises(ValueError):
            zmq_ops.load_arrays(data, names)
    else:
        assert_same(zmq_ops.load_arrays(data, names), expected)


@settings(max_examples=500, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.one_of(damaged_messages(), st.binary(max_size=60)))
def test_random_damage_gives_python_the_right_arrays_or_an_error(data):
    assert_python_reads_what_the_reference_reads(data)


@pytest.mark.slow
@settings(max_examples=50000, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.one_of(damaged_messages(), st.binary(max_size=60)))
def test_random_damage_gives_python_the_right_arrays_or_an_error_at_length(data):
    assert_python_reads_what_the_reference_reads(data)


@pytest.mark.skipif(shutil.which('make') is None or shutil.which('g++') is None, reason='needs make and g++')
@pytest.mark.parametrize('seed, inputs', [(0, 50000), pytest.param(1, 10 ** 6, marks=pytest.mark.slow)])
def test_the_parser_withstands_damaged_messages_under_sanitizers(seed, inputs):
    folder = os.path.dirname(zmq_ops.__file__)
    command = ['make', '-C', folder, 'fuzz', 'FUZZ_SEED={}'.format(seed), 'FUZZ_INPUTS={}'.format(inputs)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout
    found = re.search(r'(\d+) inputs, (\d+) valid, (\d+) refused, no fault', ended.stdout)
    count, valid, refused = map(int, found.groups())
    assert count == inputs == valid + refused and min(valid, refused) > inputs / 5


# Waiting, cancelling, sharing.

def test_pulls_share_the_socket_and_get_the_messages_in_the_order_of_their_steps():
    with new_pipe([tf.int32]) as pipe:
        other = pipe.socket.pull()
        for i in range(6):
            pipe.send(int_message(i))
        assert sorted(pipe.sess.run([pipe.tensors[0], other[0]], options=LIMIT)) == [0, 1]
        assert [pipe.pull()[0], pipe.sess.run(other, options=LIMIT)[0], pipe.pull()[0]] == [2, 3, 4]


def test_sockets_of_one_name_are_one_socket_if_their_options_agree(address):
    with new_pipe([tf.int32], address, name='mine') as pipe:
        assert pipe.socket.name == 'mine'
        twin = zmq_ops.ZMQPullSocket(address, [tf.int32], name='mine').pull()
        stranger = zmq_ops.ZMQPullSocket(address, [tf.int32], hwm=11, name='mine').pull()
        pipe.send(int_message(1))
        pipe.send(int_message(2))
        assert pipe.pull() == [1]
        assert pipe.sess.run(twin, options=LIMIT) == [2]
        with pytest.raises(tf.errors.InvalidArgumentError, match='mine is open with .* hwm 10, .* hwm 11'):
            pipe.sess.run(stranger, options=LIMIT)


def test_default_names_are_unique_in_the_graph():
    with tf.Graph().as_default():
        sockets = [zmq_ops.ZMQPullSocket(new_address(), [tf.int32]) for _ in range(3)]
        assert len({s.name for s in sockets}) == 3


def test_waiting_pulls_hold_no_thread_of_the_session():
    config = tf.ConfigProto(inter_op_parallelism_threads=1, use_per_session_threads=True)
    with new_pipe([tf.int32], config=config) as pipe:
        x = tf.placeholder(tf.float32, [])
        total = x * 2 + 1  # for the session's only thread to compute
        joins = [pipe.pull_in_thread() for _ in range(4)]
        time.sleep(0.1)
        assert pipe.sess.run(total, {x: 20}, options=LIMIT) == 41
        for i in range(4):
            pipe.send(int_message(i))
        assert sorted(join()[0] for join in joins) == [0, 1, 2, 3]


def test_a_step_that_times_out_takes_no_message_along():
    with new_pipe([tf.int32]) as pipe:
        for i in range(5):
            begin = time.monotonic()
            with pytest.raises(tf.errors.DeadlineExceededError):
                pipe.pull(tf.RunOptions(timeout_in_ms=50))
            assert 0.04 < time.monotonic() - begin < PROMPT
            pipe.send(int_message(i))
            assert pipe.pull() == [i]


def test_a_failing_step_ends_its_waiting_pull_and_takes_no_message_along():
    with new_pipe([tf.int32]) as pipe:
        with tf.control_dependencies([tf.Assert(False, ['on purpose'])]):
            failing = tf.constant(1) + 0
        with pytest.raises(tf.errors.InvalidArgumentError, match='on purpose'):
            pipe.sess.run([failing] + pipe.tensors, options=LIMIT)
        pipe.send(int_message(3))
        assert pipe.pull() == [3]


def test_other_pulls_go_on_waiting_when_one_is_cancelled():
    with new_pipe([tf.int32]) as pipe:
        first = pipe.pull_in_thread()
        time.sleep(0.05)
        with pytest.raises(tf.errors.DeadlineExceededError):
            pipe.pull(tf.RunOptions(timeout_in_ms=50))
        second = pipe.pull_in_thread()
        time.sleep(0.05)
        pipe.send(int_message(1))
        pipe.send(int_message(2))
        assert sorted([first(), second()]) == [[1], [2]]  # in whichever order their threads have begun


def test_messages_and_timeouts_that_race_never_duplicate_or_reorder():
    sent = 150
    with new_pipe([tf.int32]) as pipe:
        def send():
            rng = np.random.default_rng(2)
            for i in range(sent):
                time.sleep(rng.uniform(0, 0.004))
                pipe.send(int_message(i))
        sender = threading.Thread(target=send)
        sender.start()
        got, timeouts = [], 0
        while not got or got[-1] < sent - 1:
            try:
                got.append(int(pipe.pull(tf.RunOptions(timeout_in_ms=2))[0]))
            except tf.errors.DeadlineExceededError:
                timeouts += 1
                if not sender.is_alive() and timeouts > 100 * sent:
                    break
        sender.join()
        assert got == sorted(set(got))
        # A step can run out of time with its message in hand; that loses one message a timeout at most.
        assert sent - len(got) <= timeouts


def test_closing_the_session_ends_a_blocked_pull():
    with new_pipe([tf.int32]) as pipe:
        join = pipe.pull_in_thread()
        time.sleep(0.2)
        begin = time.monotonic()
        pipe.sess.close()
        assert isinstance(join(), tf.errors.CancelledError)
        assert time.monotonic() - begin < PROMPT


def test_destroying_the_resource_ends_a_blocked_pull_and_frees_the_address(address):
    with new_pipe([tf.int32], address) as pipe:
        handle = pipe.sess.graph.get_operation_by_name('ZMQConnection').outputs[0]
        destroy = tf.raw_ops.DestroyResourceOp(resource=handle)
        join = pipe.pull_in_thread()
        time.sleep(0.2)
        pipe.sess.run(destroy, options=LIMIT)
        error = join()
        assert isinstance(error, tf.errors.CancelledError) and address in error.message
        with push_socket(address, bind=True):
            pass


def test_the_address_is_taken_while_the_session_lives_and_free_afterwards(address):
    def pull_once():
        with new_pipe([tf.int32], address) as pipe:
            pipe.send(int_message(1))
            assert pipe.pull() == [1]
            with pytest.raises(zmq.ZMQError) as e, push_socket(address, bind=True):
                pass
            assert e.value.errno == zmq.EADDRINUSE
    pull_once()
    gc.collect()  # TensorFlow frees a session when Python frees the object
    pull_once()
    gc.collect()
    with push_socket(address, bind=True):
        pass


def threads_named(name):
    """Thread ids of this process's threads of that name."""
    found = []
    for thread in os.listdir('/proc/self/task'):
        with contextlib.suppress(FileNotFoundError), open('/proc/self/task/{}/comm'.format(thread)) as f:
            if f.read().strip() == name:
                found.append(int(thread))
    return found


def test_signals_do_not_disturb_a_waiting_pull():
    libc = ctypes.CDLL(None)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with new_pipe([tf.int32]) as pipe:
            join = pipe.pull_in_thread()
            time.sleep(0.1)
            threads = threads_named('zmq_ops')
            assert threads
            for _ in range(20):
                for thread in threads:
                    libc.tgkill(os.getpid(), thread, signal.SIGUSR1)
                time.sleep(0.002)
            pipe.send(int_message(5))
            assert join() == [5]
    finally:
        signal.signal(signal.SIGUSR1, before)


# Timeouts, and a sender that dies and comes back.

def test_a_pull_ends_when_the_address_has_been_silent_for_its_timeout(address):
    with new_pipe([tf.int32], address, timeout=0.3) as pipe:
        for i in range(2):
            begin = time.monotonic()
            with pytest.raises(tf.errors.DeadlineExceededError) as error:
                pipe.pull()
            assert 0.3 <= time.monotonic() - begin < PROMPT
            assert "no batch from '{}' for 0.3 s; is its data server running?".format(address) in error.value.message
            pipe.send(int_message(i))
            assert pipe.pull() == [i]


def test_every_message_starts_the_clock_of_the_waiting_pulls_again():
    with new_pipe([tf.int32], timeout=1.0) as pipe:
        begin = time.monotonic()
        joins = [pipe.pull_in_thread() for _ in range(5)]
        for i in range(4):
            time.sleep(0.4)
            last = time.monotonic()
            pipe.send(int_message(i))
        results = [join() for join in joins]
        assert last - begin > 1.0 and 1.0 <= time.monotonic() - last < PROMPT
        late, = [result for result in results if isinstance(result, tf.errors.DeadlineExceededError)]
        assert sorted(r[0] for r in results if r is not late) == [0, 1, 2, 3] and 'for 1 s' in late.message


def test_the_clock_starts_with_the_pull_and_not_with_the_last_message():
    with new_pipe([tf.int32], timeout=1.0) as pipe:
        pipe.send(int_message(1))
        assert pipe.pull() == [1]
        time.sleep(1.1)  # nobody waits, as while a network is judged
        join = pipe.pull_in_thread()
        time.sleep(0.1)
        pipe.send(int_message(2))
        assert join() == [2]


def test_pulls_of_one_socket_have_timeouts_of_their_own(address):
    with new_pipe([tf.int32], address, name='mine', timeout=0.2) as pipe:
        patient = zmq_ops.ZMQPullSocket(address, [tf.int32], name='mine').pull()
        join = pipe.pull_in_thread(patient)
        time.sleep(0.1)
        with pytest.raises(tf.errors.DeadlineExceededError, match='for 0.2 s'):
            pipe.pull()
        pipe.send(int_message(3))
        assert join() == [3]


@pytest.mark.parametrize('timeout', [-1, float('nan')])
def test_a_timeout_below_zero_is_refused(address, timeout):
    with tf.Graph().as_default(), pytest.raises(ValueError, match='timeout must be at least 0'):
        zmq_ops.ZMQPullSocket(address, [tf.int32], timeout=timeout)


SENDER = """
import sys, zmq, zmq_ops
with zmq.Context() as context, context.socket(zmq.PUSH) as push:
    push.bind(sys.argv[1])
    while True:
        push.send(zmq_ops.dump_arrays([int(sys.argv[2])]))
"""


@pytest.mark.parametrize('scheme', ['abstract', 'file'])
def test_a_sender_that_is_killed_and_started_again_is_picked_up(tmp_path, scheme):
    address = new_address() if scheme == 'abstract' else 'ipc://{}'.format(tmp_path / 'socket')
    env = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(zmq_ops.__file__)))
    with tf.Graph().as_default(), tf.Session() as sess:
        tensors = zmq_ops.ZMQPullSocket(address, [tf.int32], bind=False, timeout=20.0).pull()
        for number in range(3):
            sender = subprocess.Popen([sys.executable, '-c', SENDER, address, str(number)], env=env)
            try:
                while sess.run(tensors) != [number]:  # what the one before had sent
                    pass
            finally:
                sender.kill()
                sender.wait()


# User names and passwords.

@contextlib.contextmanager
def guarded_sender(address, login):
    """A PUSH socket that only those with this user name and password may connect to, and who was turned away."""
    refused, context = [], zmq.Context()
    with contextlib.ExitStack() as stack:
        stack.callback(context.term)  # not destroy(), which would close the socket of a thread
        push = stack.enter_context(context.socket(zmq.PUSH))
        guard = context.socket(zmq.REP)
        guard.bind('inproc://zeromq.zap.01')

        def judge():
            with guard:
                while True:
                    try:
                        frames = guard.recv_multipart()
                    except zmq.ContextTerminated:
                        return
                    fits = tuple(frames[6:]) == tuple(part.encode() for part in login)
                    refused.extend([] if fits else [frames[6:]])
                    guard.send_multipart([b'1.0', frames[1], b'200' if fits else b'300', b'', b'', b''])
        threading.Thread(target=judge, daemon=True).start()
        push.set(zmq.LINGER, 0)
        push.set(zmq.SNDTIMEO, 20 * SECOND)
        push.set(zmq.PLAIN_SERVER, 1)
        push.set(zmq.HANDSHAKE_IVL, 300)
        push.bind(address)
        yield push, refused


def test_a_guarded_sender_is_connected_to_with_the_password_which_is_not_in_the_graph(address):
    secret = uuid.uuid4().hex
    with guarded_sender(address, ('trainer', secret)) as (push, refused), tf.Graph().as_default() as graph, \
            tf.Session() as sess:
        tensors = zmq_ops.ZMQPullSocket(address, [tf.int32], bind=False, login=('trainer', secret)).pull()
        sender = threading.Thread(target=push.send, args=(int_message(9),))
        sender.start()
        assert sess.run(tensors, options=LIMIT) == [9] and not refused
        sender.join()
        assert secret not in str(graph.as_graph_def())


@pytest.mark.parametrize('login', [None, ('trainer', 'guessed'), ('other', 'secret')])
def test_a_guarded_sender_gives_nothing_to_others(address, login):
    with guarded_sender(address, ('trainer', 'secret')) as (push, refused), tf.Graph().as_default(), \
            tf.Session() as sess:
        tensors = zmq_ops.ZMQPullSocket(address, [tf.int32], bind=False, login=login, timeout=1.0).pull()
        with pytest.raises(tf.errors.DeadlineExceededError):
            sess.run(tensors)
        assert not push.poll(0, zmq.POLLOUT)
        # Turned away, it comes again.
        assert login is None or len(refused) > 1 and set(map(tuple, refused)) == {tuple(p.encode() for p in login)}


@pytest.mark.parametrize('login', [('', 'secret'), ('trainer', ''), ('trainer', 'x' * 256)])
def test_a_login_that_zmq_cannot_send_is_refused(address, login):
    with tf.Graph().as_default(), pytest.raises(ValueError, match='1 to 255 bytes'):
        zmq_ops.ZMQPullSocket(address, [tf.int32], login=login)


# Where the outputs lie.

def aligned_somewhere():
    """Two tensors for each alignment that a message's memory can have, so that two of them lie as TensorFlow needs.

    malloc() aligns to 16 bytes and ZMQ puts 40 bytes before a large message, so this is a multiple of 8 bytes.
    """
    arrays, offset = [], 4
    for k in range(16):
        fill = (8 * k - offset - 20 - 20) % 64  # a tensor of rank 1 has 20 bytes before its payload
        arrays.append(np.arange(fill, dtype='u1'))
        offset += 20 + fill
        arrays.append(np.arange(2048, dtype='f4') + k)
        offset += 20
        assert offset % 64 == 8 * k % 64
        offset += arrays[-1].nbytes
    return arrays


def payload_offset(arrays, index):
    return 4 + 20 * (index + 1) + sum(a.nbytes for a in arrays[:index])


def test_aligned_tensors_stay_in_their_message_and_the_others_are_copied():
    arrays = aligned_somewhere()
    message = zmq_ops.dump_arrays(arrays)
    with new_pipe([a.dtype for a in arrays]) as pipe:
        kept = []
        for _ in range(4):
            pipe.send(message)
            kept.append(pipe.pull())
            # NumPy sees TensorFlow's own memory. Where a message begins follows from each tensor in it.
            begins = [a.ctypes.data - payload_offset(arrays, i) for i, a in enumerate(kept[-1]) if i % 2]
            shared = [begin for begin in begins if begins.count(begin) == 2 and begin % 8 == 0]
            assert len(shared) == 2
            assert all(a.ctypes.data % 64 == 0 for i, a in enumerate(kept[-1]) if i % 2)
        # Messages live as long as their tensors, whatever comes after them.
        for _ in range(20):
            pipe.send(zmq_ops.dump_arrays([np.zeros_like(a) for a in arrays]))
            pipe.pull()
        for found in kept:
            assert_same(found, arrays)
        first = kept[0][1]
        del kept, found
        gc.collect()
        assert np.array_equal(first, arrays[1])


def test_an_op_that_works_in_place_changes_no_other_tensor_of_the_message():
    arrays = aligned_somewhere()
    with new_pipe([a.dtype for a in arrays]) as pipe:
        doubled = [tensor * 2 for tensor in pipe.tensors[1::2]]  # may reuse its input's memory
        pipe.send(zmq_ops.dump_arrays(arrays))
        assert_same(pipe.sess.run(doubled + pipe.tensors[::2], options=LIMIT),
                    [a * 2 for a in arrays[1::2]] + arrays[::2])


# Connecting, options, user errors.

def run_socket(*args, **kwargs):
    with tf.Graph().as_default(), tf.Session() as sess:
        return sess.run(zmq_ops.ZMQPullSocket(*args, **kwargs).pull(), options=LIMIT)


def test_socket_connects_to_a_sender_that_binds(address):
    with push_socket(address, bind=True) as push:
        sender = threading.Thread(target=push.send, args=(int_message(9),))
        sender.start()
        assert run_socket(address, [tf.int32], bind=False) == [9]
        sender.join()


@pytest.mark.parametrize('bind', [True, False])
@pytest.mark.parametrize('end_point', ['nonsense', '', 'tcp://127.0.0.1', 'carrier-pigeon://x', 'ipc://' + 'x' * 200])
def test_an_address_zmq_does_not_accept_is_an_error_that_names_it(end_point, bind):
    with pytest.raises(tf.errors.InvalidArgumentError, match="zmq_ops: cannot {} '{}': .".format(
            'bind to' if bind else 'connect to', end_point)):
        run_socket(end_point, [tf.int32], bind=bind)


def test_an_address_in_use_is_an_error_and_can_be_had_once_it_is_free(address):
    with tf.Graph().as_default(), tf.Session() as sess:
        tensors = zmq_ops.ZMQPullSocket(address, [tf.int32]).pull()
        with push_socket(address, bind=True):
            with pytest.raises(tf.errors.FailedPreconditionError, match="cannot bind to '{}': Address".format(address)):
                sess.run(tensors, options=LIMIT)
        with push_socket(address) as push:
            push.send(int_message(4))
            assert sess.run(tensors, options=LIMIT) == [4]


def test_hwm_limits_the_messages_that_wait(address):
    def accepted(hwm, end_point):
        """Megabyte messages that a sender of hwm 1 gets rid of while nobody pulls."""
        message = message_bytes(tensor_bytes(4, [1 << 20], b'\0' * (1 << 20)))
        with tf.Graph().as_default(), tf.Session() as sess, push_socket(end_point, hwm=1) as push:
            tensors = zmq_ops.ZMQPullSocket(end_point, [tf.uint8], hwm=hwm).pull()
            push.send(message)
            sess.run(tensors, options=LIMIT)
            count = 0
            while count < 100 and push.poll(300, zmq.POLLOUT):
                push.send(message, zmq.NOBLOCK)
                count += 1
            return count
    few, many = accepted(1, address), accepted(20, address + '-many')
    assert few <= 8 and 20 <= many <= 30


@pytest.mark.parametrize('types, kwargs, error, text', [
    ([tf.string], {}, TypeError, "'string'"), ([tf.float32, tf.bfloat16], {}, TypeError, "'bfloat16'"),
    ([], {}, ValueError, 'types is empty'), ([tf.int32], {'hwm': 0}, ValueError, 'hwm .* 0'),
    ([tf.int32], {'hwm': -3}, ValueError, 'hwm .* -3')])
def test_socket_refuses_options_that_cannot_work(address, types, kwargs, error, text):
    with tf.Graph().as_default(), pytest.raises(error, match=text):
        zmq_ops.ZMQPullSocket(address, types, **kwargs)


def test_hwm_is_10_by_default_and_a_huge_one_is_an_error(address):
    with tf.Graph().as_default() as graph:
        zmq_ops.ZMQPullSocket(address, [tf.int32], hwm=None)
        op = graph.get_operation_by_name('ZMQConnection')
        assert (op.get_attr('hwm'), op.get_attr('bind'), op.get_attr('end_point')) == (10, True, address.encode())
    with pytest.raises(tf.errors.InvalidArgumentError, match='hwm 2147483648 '):
        run_socket(address, [tf.int32], hwm=2 ** 31)


def test_op_itself_refuses_types_it_cannot_receive(address):
    with tf.Graph().as_default(), tf.Session() as sess:
        ops = zmq_ops.load_op_library()
        components = ops.zmq_pull(ops.zmq_connection(end_point=address), [tf.string])
        with pytest.raises(tf.errors.InvalidArgumentError, match='string cannot be received'):
            sess.run(components, options=LIMIT)


def test_a_library_that_is_missing_or_broken_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    load = zmq_ops.load_op_library.__wrapped__  # without the cache
    monkeypatch.setattr(pull_socket, 'FOLDER', str(tmp_path / 'zmq_ops'))
    library = tmp_path / 'zmq_ops' / 'build' / ('tensorflow-' + tf.__version__) / 'libzmq_ops.so'
    with pytest.raises(ImportError, match='zmq_ops: {} has not been built; run `make setup`'.format(library)):
        load()
    library.parent.mkdir(parents=True)
    library.write_bytes(b'no library')
    with pytest.raises(ImportError, match='zmq_ops: {} does not fit TensorFlow .*make setup'.format(library)):
        load()


# Under tensorpack.

SERVER = """
import sys
import numpy as np
from tensorpack.dataflow import DataFromList, send_dataflow_zmq
points = [[np.full((2, 3), i, np.uint8), np.arange(i, dtype=np.int32), i, i / 2] for i in range(4)]
send_dataflow_zmq(DataFromList(points, shuffle=False), sys.argv[1], hwm=150, format='zmq_ops', bind=True)
"""


def test_tensorpack_sends_a_dataflow_and_its_zmq_input_receives_it(address):
    from tensorpack.input_source import ZMQInput
    signature = [tf.TensorSpec([2, 3], tf.uint8, 'image'), tf.TensorSpec([None], tf.int32, 'label'),
                 tf.TensorSpec([], tf.int32, 'index'), tf.TensorSpec([], tf.float32, 'half')]
    server = subprocess.Popen([sys.executable, '-c', SERVER, address], stderr=subprocess.DEVNULL)
    try:
        with tf.Graph().as_default(), tf.Session() as sess:
            source = ZMQInput(address, 30, bind=False)
            source.setup(signature)
            tensors = source.get_input_tensors()
            assert [t.shape.as_list() for t in tensors] == [[2, 3], [None], [], []]
            for step in range(10):
                i = step % 4
                assert_same(sess.run(tensors, options=LIMIT), [
                    np.full((2, 3), i, 'u1'), np.arange(i, dtype='i4'), np.array(i, 'i4'), np.array(i / 2, 'f4')])
    finally:
        server.kill()
        server.wait()


def test_tensorpack_makes_a_dataset_of_the_zmq_input(address):
    from tensorpack.input_source import ZMQInput
    signature = [tf.TensorSpec([None], tf.float32, 'x'), tf.TensorSpec([], tf.int32, 'y')]
    with push_socket(address) as push, tf.Graph().as_default(), tf.Session() as sess:
        iterator = tf.data.make_initializable_iterator(ZMQInput(address, 5).to_dataset(signature).repeat())
        batch = iterator.get_next()
        assert [t.shape.as_list() for t in batch] == [[None], []]
        sess.run(iterator.initializer)
        for i in range(5):
            push.send(zmq_ops.dump_arrays([np.full(i, 0.5, 'f4'), i]))
            assert_same(sess.run(batch, options=LIMIT), [np.full(i, 0.5, 'f4'), np.array(i, 'i4')])
        with pytest.raises(tf.errors.DeadlineExceededError):
            sess.run(batch, options=tf.RunOptions(timeout_in_ms=100))
