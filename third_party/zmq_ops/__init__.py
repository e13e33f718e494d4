"""Batches from a ZMQ socket straight into a TensorFlow graph, without Python in between.

The sender calls `dump_arrays`, or writes the message into memory of its own with `write_message` or `payload_views`;
importing this package for that does not import TensorFlow. The receiver builds a `ZMQPullSocket`, whose op library is
compiled by `make setup` and loaded when the first socket is made; `load_arrays` reads a message without it.
"""
from .pull_socket import ZMQPullSocket, load_op_library
from .wire import dump_arrays, load_arrays, message_size, payload_views, write_message

__all__ = ['ZMQPullSocket', 'dump_arrays', 'load_arrays', 'load_op_library', 'message_size', 'payload_views',
           'write_message']
