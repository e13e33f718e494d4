"""From a TensorFlow graph to the program that XLA makes of it, with the variables as its parameters."""
from typing import List, NamedTuple, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.compiler.xla.service import hlo_pb2
from tensorflow.python.eager import context

# Beside reading ones, and branches that read, what a variable's handle is handed to changes it.
READING = ('ReadVariableOp', 'While', 'StatelessWhile', 'ResourceGather')
BRANCHES = ('then_branch', 'else_branch')


class Program(NamedTuple):
    """An HLO module, serialised.

    parameters, results: (name, type, shape) in their order: first the graph's inputs and results, then variables, of
    which those that the graph changes are results too. Several results are a tuple.
    """
    hlo: bytes
    parameters: List[Tuple[str, str, List[int]]]
    results: List[Tuple[str, str, List[int]]]


def lower(graph, inputs, results):
    """The ``Program`` of a graph, unoptimised.

    Args:
        inputs, results: {name: tensor of ``graph``}, of known shapes.
    Raises:
        ValueError: XLA compiles one of its ops not; an input is not used.
    """
    fetched = [tensor.op.name for tensor in results.values()]
    nodes = tf.graph_util.extract_sub_graph(graph.as_graph_def(), fetched)
    variables, changed = _variables(graph, nodes)
    outside = {tensor.op.name for tensor in inputs.values()} | {variable.handle.op.name for variable in variables}
    for number in reversed(range(len(nodes.node))):
        nodes.node[number].attr.pop('_class', None)  # beside a variable, which will be elsewhere
        if nodes.node[number].name in outside:
            del nodes.node[number]

    with context.eager_mode():
        held = [tf.Variable(np.zeros(v.shape, v.dtype.as_numpy_dtype), use_resource=True) for v in variables]

        def call(*values):
            given = {tensor.name: value for tensor, value in zip(inputs.values(), values)}
            given.update((variable.handle.name, tf.get_default_graph().capture(own.handle))
                         for variable, own in zip(variables, held))
            return tf.import_graph_def(nodes, given, [tensor.name for tensor in results.values()], name='')
        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs.values()]
        function = tf.function(call, signature, autograph=False, jit_compile=True)
        hlo = function.experimental_get_compiler_ir(*(np.zeros(spec.shape, spec.dtype.as_numpy_dtype)
                                                      for spec in signature))(stage='hlo_serialized')
    return _checked(hlo, *([_of(name, tensor) for name, tensor in given.items()] + [_of(v.op.name, v) for v in own]
                           for given, own in ((inputs, variables), (results, changed))))


def _of(name, tensor):
    return name, tensor.dtype.base_dtype.name, tensor.shape.as_list()


def _variables(graph, nodes):
    """The variables that are in ``nodes``, and those of them that are changed."""
    names = {node.name for node in nodes.node}
    written = _written(nodes.node, {function.signature.name: function for function in nodes.library.function})
    with graph.as_default():
        found = [variable for variable in tf.global_variables() if variable.handle.op.name in names]
    return found, [variable for variable in found if variable.handle.op.name in written]


def _written(nodes, functions):
    """The names of what those of ``nodes``, or of the functions that are their branches, do more with than to read."""
    found = set()
    for node in nodes:
        if node.op in ('If', 'StatelessIf'):
            for function in (functions[node.attr[branch].func.name] for branch in BRANCHES):
                inside, arguments = _written(function.node_def, functions), function.signature.input_arg
                found.update(source.split(':')[0] for source, argument in zip(node.input[1:], arguments)
                             if argument.name in inside)
        elif node.op not in READING:
            found.update(source.split(':')[0] for source in node.input)
    return found


def _checked(hlo, parameters, results):
    """The ``Program``, if XLA has the same parameters and results; without copies and where ops come from."""
    module = hlo_pb2.HloModuleProto.FromString(hlo)
    shape = module.host_program_shape
    theirs = [list(each.dimensions) for each in shape.parameters], [
        list(each.dimensions) for each in shape.result.tuple_shapes or [shape.result]]
    assert theirs == ([shape for *_, shape in parameters], [shape for *_, shape in results]), theirs
    for computation in module.computations:
        _without_copies(computation)
        for instruction in computation.instructions:
            instruction.ClearField('metadata')
    return Program(module.SerializeToString(), parameters, results)


def _without_copies(computation):
    """Whatever takes a copy takes what was copied: StableHLO, by which programs get to a GPU, has no such op."""
    copied = {each.id: each.operand_ids[0] for each in computation.instructions if each.opcode == 'copy'}

    def source(number):
        while number in copied:
            number = copied[number]
        return number
    for number in reversed(range(len(computation.instructions))):
        if computation.instructions[number].id in copied:
            del computation.instructions[number]
    for instruction in computation.instructions:
        for attribute in (instruction.operand_ids, instruction.control_predecessor_ids):
            attribute[:] = [source(number) for number in attribute]
    computation.root_id = source(computation.root_id)
