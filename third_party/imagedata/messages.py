"""A batch as the bytes that trainers receive, written into memory that is there already."""
import importlib.util
import os

import numpy as np


def message_writer(wire_format, stream):
    """How the batches of a stream become messages.

    Args:
        wire_format (str): 'zmq_ops', or 'tensorpack' for its Python receivers.
        stream: see ``WorkerPool``.
    Returns:
        size (int): bytes of the longest message.
        write: function(number, buffer) that makes batch ``number`` in ``buffer`` and returns the message's length.
    """
    return _zmq_ops_writer(stream) if wire_format == 'zmq_ops' else _tensorpack_writer(stream)


def _zmq_ops_writer(stream):
    from third_party.zmq_ops import message_size, payload_views
    size = message_size(stream.specs)

    def write(number, buffer):
        stream.fill(number, *payload_views(buffer, stream.specs))
        return size
    return size, write


def _tensorpack_writer(stream):
    # Only this file of tensorpack, as the package as a whole imports TensorFlow.
    folder = importlib.util.find_spec('tensorpack').submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location('tensorpack_serialize', os.path.join(folder, 'utils', 'serialize.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def write(number, buffer):
        arrays = [np.empty(shape, dtype) for dtype, shape in stream.specs]
        stream.fill(number, *arrays)
        message = module.dumps(arrays)
        buffer[:len(message)] = message
        return len(message)
    # Its messages, pickles, are as long for any pixels.
    return len(module.dumps([np.zeros(shape, dtype) for dtype, shape in stream.specs])), write
