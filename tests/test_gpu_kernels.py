"""The rules of `make test-gpu-graph`, on kernels made by hand; for these every TensorFlow will do."""
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.core.framework import attr_value_pb2, kernel_def_pb2
from tensorflow.python.framework import function

from gpu_kernels import COMPILED, GPU, XLA, Node, fault, host_tensors, kernel_for, nodes_of

IMAGES, LABELS, TABLE, UNKNOWN = ([None, 3, 32, 32], [None], [5000], None)


def attr(value):
    """An AttrValue of a tf.DType, a tuple of these, a text or a number."""
    made = attr_value_pb2.AttrValue()
    if isinstance(value, tf.DType):
        made.type = value.as_datatype_enum
    elif isinstance(value, tuple):
        made.list.type.extend(kind.as_datatype_enum for kind in value)
    elif isinstance(value, str):
        made.s = value.encode()
    else:
        made.i = value
    return made


def node(op='AddV2', inputs=(), outputs=(), in_loop=False, in_attack=False, device='', **attrs):
    return Node('some/op', op, {name: attr(value) for name, value in (attrs or {'T': tf.float32}).items()}, device,
                *([tf.TensorShape(shape) for shape in shapes] for shapes in (inputs, outputs)), in_loop, in_attack)


def kernel(device=GPU, host=(), label='', **allowed):
    """A KernelDef; ``allowed``: to each attribute its element types or texts."""
    made = kernel_def_pb2.KernelDef(device_type=device, host_memory_arg=host, label=label)
    for name, values in allowed.items():
        listed = made.constraint.add(name=name).allowed_values.list
        for value in values:
            if isinstance(value, tf.DType):
                listed.type.append(value.as_datatype_enum)
            else:
                listed.s.append(value.encode())
    return made


def chosen(op, *kernels, device=GPU):
    """The place of the kernel that is taken, or None."""
    found = kernel_for(op, device, lambda op_type: kernels)
    return None if found is None else next(place for place, one in enumerate(kernels) if one is found)


def fault_of(op, *kernels):
    return fault(op, lambda op_type: kernels)


@pytest.mark.parametrize('attrs, fits', [
    ({'T': tf.float32, 'Tidx': tf.int32}, True), ({'T': tf.float16, 'Tidx': tf.int32}, True),
    ({'T': tf.float64, 'Tidx': tf.int32}, False), ({'T': tf.float32, 'Tidx': tf.int64}, False)])
def test_a_kernel_fits_if_all_of_its_types_do(attrs, fits):
    cumsum = kernel(T=[tf.float32, tf.float16], Tidx=[tf.int32])
    assert chosen(node('Cumsum', **attrs), cumsum) == (0 if fits else None)


@pytest.mark.parametrize('kinds, fits', [((tf.float32, tf.int32), True), ((tf.float32, tf.string), False), ((), True)])
def test_of_a_list_each_type_must_be_allowed(kinds, fits):
    assert chosen(node('Stage', dtypes=kinds), kernel(dtypes=[tf.float32, tf.int32])) == (0 if fits else None)


def test_texts_are_constraints_too_and_what_an_op_does_not_say_is_its_default():
    of_either_layout = kernel(data_format=['NCHW']), kernel(data_format=['NHWC'])
    assert chosen(node('Conv2D', data_format='NCHW'), *of_either_layout) == 0
    assert chosen(node('Conv2D', T=tf.float32), *of_either_layout) == 1


def test_a_kernel_with_a_label_is_for_ops_that_ask_for_it():
    plain, special = kernel(), kernel(label='experimental')
    assert chosen(node(), special) is None and chosen(node(), special, plain) == 1
    assert chosen(node(_kernel='experimental'), plain, special) == 1


def test_a_gpu_takes_its_own_kernel_before_one_for_all_devices_and_none_for_cpus():
    cpu, every, own = kernel('CPU'), kernel('DEFAULT'), kernel(GPU)
    assert chosen(node(), cpu) is None
    assert chosen(node(), cpu, every) == 1
    assert chosen(node(), cpu, every, own) == 2
    assert chosen(node(), cpu, every, own, device=XLA) is None
    assert chosen(node(), own, kernel(XLA), device=XLA) == 1


@pytest.mark.parametrize('in_loop', [False, True])
@pytest.mark.parametrize('in_attack', [False, True])
def test_an_op_without_a_kernel_is_named_with_its_types_and_place(in_loop, in_attack):
    op = node('Cumsum', T=tf.float64, Tidx=tf.int32, in_loop=in_loop, in_attack=in_attack)
    found = fault_of(op, kernel('CPU'), kernel(T=[tf.float32]))
    assert found == "Cumsum 'some/op' (T: float64, Tidx: int32){}{}: no kernel for GPU".format(
        ' in an attack' * in_attack, ' in a loop' * in_loop)


def test_what_xla_compiles_needs_xla_s_kernel():
    op = node(T=tf.float32, **{COMPILED: 'cluster'})
    assert fault_of(op, kernel()) == "AddV2 'some/op' (T: float32): no kernel for XLA_GPU_JIT"
    assert fault_of(op, kernel(XLA)) is None


@pytest.mark.parametrize('op, attrs, anywhere, in_loops, in_attacks', [
    ('ScalarSummary', {'T': tf.float32}, True, False, False), ('Const', {'dtype': tf.string}, True, False, False),
    ('Const', {'dtype': tf.float64}, False, False, False), ('ZMQPull', {}, True, False, False),
    ('HorovodAllreduce', {'T': tf.float64}, True, True, False),
    ('SmoothActivation', {'T': tf.float32}, False, False, False),
    ('XlaClusterOutput', {'T': tf.float32}, True, True, True)])
def test_few_ops_need_no_kernel_and_most_of_them_outside_of_loops(op, attrs, anywhere, in_loops, in_attacks):
    attrs = attrs or {'kind': 0}
    for in_loop, in_attack, expected in ((False, False, anywhere), (True, False, in_loops), (True, True, in_attacks)):
        assert (fault_of(node(op, in_loop=in_loop, in_attack=in_attack, **attrs)) is None) == expected


def test_float64_is_a_fault_in_attacks_alone_whatever_kernels_there_are():
    assert fault_of(node(T=tf.float64), kernel()) is None
    assert fault_of(node(T=tf.float64, in_loop=True), kernel()) is None
    assert 'float64' in fault_of(node(T=tf.float64, in_attack=True), kernel())
    assert 'float64' in fault_of(node('Stage', dtypes=(tf.float32, tf.float64), in_attack=True), kernel())


@pytest.mark.parametrize('shape, fine', [(IMAGES, False), (LABELS, True), (TABLE, True), (UNKNOWN, False), ([], True),
                                         ([None, 200], True), ([None, 300], False)])
def test_images_in_the_host_s_memory_are_a_fault_in_attacks(shape, fine):
    host = kernel('DEFAULT', host=['x', 'y', 'z'])
    op = node(T=tf.int32, inputs=[shape, []], outputs=[shape], in_attack=True)
    assert (fault_of(op, host) is None) == fine
    assert fault_of(op, host, kernel()) is None
    assert fault_of(op._replace(in_attack=False), host) is None


def test_arguments_that_are_several_tensors_are_told_apart():
    pack = node('Pack', inputs=[IMAGES, IMAGES, IMAGES], outputs=[TABLE], T=tf.float32, N=3)
    assert host_tensors(pack, kernel(host=['values'])) == [tf.TensorShape(IMAGES)] * 3
    assert host_tensors(pack, kernel(host=['output'])) == [tf.TensorShape(TABLE)]
    stage = node('Stage', inputs=[IMAGES, LABELS], dtypes=(tf.uint8, tf.int32))
    assert [shape.rank for shape in host_tensors(stage, kernel(host=['values']))] == [4, 1]


def test_an_op_of_a_loop_may_not_be_placed_on_the_host():
    assert fault_of(node(device='/device:CPU:0'), kernel()) is None
    assert 'placed on /device:CPU:0' in fault_of(node(device='/device:CPU:0', in_loop=True), kernel())


def test_the_ops_of_nested_loops_branches_and_functions_are_seen(graph):
    @function.Defun(tf.float32, func_name='called')
    def called(x):
        return tf.tan(x)

    def inner(x):
        return tf.while_loop(lambda x: x < 2, lambda x: tf.cond(x > 1, lambda: tf.sin(x),
                                                                lambda: tf.reshape(called(x), [])), [x])

    outside = tf.cos(tf.while_loop(lambda x: x < 3, lambda x: inner(x) + tf.exp(x), [tf.zeros([])]))
    seen = {n.type: n for n in nodes_of(graph, {outside.op.name})}
    assert {name: seen[name].in_loop for name in ('Sin', 'Tan', 'Exp', 'Cos')} == {
        'Sin': True, 'Tan': True, 'Exp': True, 'Cos': False}
    assert seen['Cos'].in_attack and not seen['Exp'].in_attack and seen['Tan'].in_attack
    assert seen['Tan'].name.startswith('called/')
