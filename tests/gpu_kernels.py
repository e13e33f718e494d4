"""Which ops of a graph a GPU cannot run, or only by way of the host, by what TensorFlow says of its own kernels.

Only the CUDA build of TensorFlow knows kernels for GPUs; it needs no GPU for this. Kernels of XLA are known once it has
compiled anything in the process.
"""
import functools
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import kernels, op_def_registry
from tensorflow.python.ops import control_flow_util

GPU, XLA = 'GPU', 'XLA_GPU_JIT'
# Kernels for every device that has none of its own; all that they read and write is in the host's memory.
ANY_DEVICE = 'DEFAULT'
COMPILED = '_xla_compile_id'  # the mark of ops that XLA compiles
# Elements for each image from which on a tensor in the host's memory counts as images. Labels, counters and shapes are
# far below.
AN_IMAGE = 256

# Ops that run on the host, by type or by type and element type, and why that is no fault. In none of them is an image's
# data on its way through a step.
ON_HOST = {
    'ScalarSummary': 'the host writes them', 'MergeSummary': 'the host writes them',
    'SaveV2': 'the host writes checkpoints', 'RestoreV2': 'the host reads checkpoints',
    ('Const', tf.string): 'names of files and summaries, messages',
    'ZMQConnection': 'input: what the data server sends', 'ZMQPull': 'input: what the data server sends',
    'PyFunc': 'input: notes when a wait for the data server begins and ends'}
# Likewise, also in loops, but for attacks.
BETWEEN_RANKS = {name: "Horovod's own build for GPUs has kernels for it" for name in (
    'HorovodAllreduce', 'HorovodAllgather', 'HorovodBroadcast')}
# Not run at all.
MARKS = {'XlaClusterOutput': 'stands for an output of what XLA compiles, until it does'}


class Node(NamedTuple):
    """An op of a graph, or of a function in its library.

    attr: of its NodeDef. inputs, outputs (list of tf.TensorShape): empty where they are not known.
    in_loop: whether it is in the body of a loop. in_attack: whether it was made for an attack.
    """
    name: str
    type: str
    attr: dict
    device: str = ''
    inputs: list = []
    outputs: list = []
    in_loop: bool = False
    in_attack: bool = False

    @property
    def compiled(self):
        """Whether XLA compiles it."""
        return COMPILED in self.attr

    def value(self, name):
        """An attribute's value as KernelDef has them in a list: element types, numbers or bytes."""
        value = self.attr[name] if name in self.attr else next(
            a.default_value for a in op_def_registry.get(self.type).attr if a.name == name)
        kind = value.WhichOneof('value')
        return list(value.list.type) if kind == 'list' else [getattr(value, kind)]

    @property
    def types(self):
        """Element types by the name of their attribute: tf.DType, or a tuple of them for a list."""
        found = {}
        for name, value in self.attr.items():
            if value.WhichOneof('value') == 'type':
                found[name] = tf.as_dtype(value.type)
            elif value.list.type:
                found[name] = tuple(map(tf.as_dtype, value.list.type))
        return found

    def __str__(self):
        def spell(kind):
            return kind.name if isinstance(kind, tf.DType) else '[{}]'.format(', '.join(sorted({k.name for k in kind})))
        return "{} '{}' ({})".format(self.type, self.name, ', '.join(
            '{}: {}'.format(name, spell(kind)) for name, kind in sorted(self.types.items())))


def nodes_of(graph, attack_ops=frozenset()):
    """All ops of a graph and of the functions in its library, as ``Node``.

    Args:
        attack_ops (set of str): names of the ops that were made for attacks.
    """
    for op in graph.get_operations():
        in_loop = control_flow_util.GetContainingWhileContext(op._get_control_flow_context()) is not None
        yield Node(op.name, op.type, op.node_def.attr, op.device, [t.shape for t in op.inputs],
                   [t.shape for t in op.outputs], in_loop, op.name in attack_ops)
    for function in graph.as_graph_def().library.function:
        for node in function.node_def:
            # Who calls it is not asked: it is judged as if an attack's loop did.
            yield Node('{}/{}'.format(function.signature.name, node.name), node.op, node.attr, node.device,
                       in_loop=True, in_attack=True)


@functools.lru_cache(None)
def registered(op_type):
    """What TensorFlow knows of an op type's kernels, a list of KernelDef."""
    return list(kernels.get_registered_kernels_for_op(op_type).kernel)


def kernel_for(node, device, registered=registered):
    """The KernelDef of what runs an op on a device, as TensorFlow chooses it; None where there is none."""
    label = node.attr['_kernel'].s.decode() if '_kernel' in node.attr else ''
    values = tuple((name, tuple(node.value(name))) for name in _constrained(node.type, registered))
    return _choose(node.type, label, values, device, registered)


@functools.lru_cache(None)
def _constrained(op_type, registered):
    """Names of the attributes that an op type's kernels differ in, above all element types."""
    return sorted({constraint.name for kernel in registered(op_type) for constraint in kernel.constraint})


@functools.lru_cache(None)
def _choose(op_type, label, values, device, registered):
    """``kernel_for`` an op with these values of what ``_constrained`` names."""
    values = dict(values)

    def fits(kernel):
        allowed = {c.name: [*c.allowed_values.list.type, *c.allowed_values.list.s, *c.allowed_values.list.i,
                            *c.allowed_values.list.b] for c in kernel.constraint}
        return kernel.label == label and all(set(values[name]) <= set(allowed[name]) for name in allowed)

    fitting = list(filter(fits, registered(op_type)))
    places = (device,) if device == XLA else (device, ANY_DEVICE)
    return next((kernel for place in places for kernel in fitting if kernel.device_type == place), None)


def host_tensors(node, kernel):
    """Shapes of the inputs and outputs of an op that its kernel has in the host's memory."""
    def names(arguments):
        for argument in arguments:
            count = 1
            if argument.number_attr:
                count = node.attr[argument.number_attr].i
            elif argument.type_list_attr:
                count = len(node.attr[argument.type_list_attr].list.type)
            yield from [argument.name] * count
    definition = op_def_registry.get(node.type)
    tensors = [*zip(names(definition.input_arg), node.inputs), *zip(names(definition.output_arg), node.outputs)]
    return [shape for name, shape in tensors if name in kernel.host_memory_arg]


def holds_images(shape):
    """Whether a tensor of this shape has, for each of a batch's images, as many elements as an image; so one of unknown
    rank, too. A batch's size is not known in a graph: what has a first dimension is a table, the same for all."""
    if shape.rank is None:
        return True
    sizes = shape.as_list()
    return sizes[:1] == [None] and np.prod([size or 1 for size in sizes]) >= AN_IMAGE


def exempt(node):
    """Whether an op may be without a kernel for GPUs; see the tables."""
    if node.type in MARKS:
        return True
    if node.in_attack and node.in_loop:
        return False
    if node.type in BETWEEN_RANKS and not node.in_attack:
        return True
    keys = [node.type, *((node.type, kind) for kind in node.types.values())]
    return not node.in_loop and any(key in ON_HOST for key in keys)


def fault(node, registered=registered):
    """What is wrong with an op on a GPU, in words; None for nothing."""
    where = ' in an attack' * node.in_attack + ' in a loop' * node.in_loop
    device = XLA if node.compiled else GPU
    kernel = kernel_for(node, device, registered)
    if kernel is None:
        return None if exempt(node) else '{}{}: no kernel for {}'.format(node, where, device)
    if not (node.in_attack or node.in_loop):
        return None
    if 'CPU' in node.device.upper():
        return '{}{}: placed on {}'.format(node, where, node.device)
    if not node.in_attack:
        return None
    if any(tf.float64 in (kinds if isinstance(kinds, tuple) else [kinds]) for kinds in node.types.values()):
        return '{}{}: float64, of which GPUs compute little'.format(node, where)
    large = [shape for shape in host_tensors(node, kernel) if holds_images(shape)] if device == GPU else []
    if large:
        return "{}{}: {} is in the host's memory".format(node, where, ', '.join(map(str, large)))
    return None
