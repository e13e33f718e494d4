"""The graph side: a PULL socket as a resource of the session, and the op that pulls one batch from it."""
import functools
import os
import secrets

from native import op_library

from .wire import DTYPE_CODES

FOLDER = os.path.dirname(os.path.abspath(__file__))
DEFAULT_HWM = 10


@functools.lru_cache(maxsize=None)
def load_op_library():
    """Loads the compiled ops, once.

    Returns:
        module: has the op wrappers `zmq_connection` and `zmq_pull`.
    Raises:
        ImportError: the library has not been built, or was built for another TensorFlow.
    """
    return op_library.load(FOLDER)


@functools.lru_cache(maxsize=None)
def _variable_with(password):
    """Name of the environment variable that has this password; each has its own, which the op reads."""
    name = 'ZMQ_OPS_PASSWORD_' + secrets.token_hex(8)
    os.environ[name] = password
    return name


class ZMQPullSocket:
    """A ZMQ PULL socket that lives as long as the session (or its container) that first runs it.

    Args:
        end_point (str): a ZMQ address, such as ``ipc://@name`` or ``tcp://host:port``.
        types (list): a dtype for each tensor of a message, in the message's order.
        hwm (int): high-water mark, the number of messages ZMQ keeps until they are pulled; None means 10.
        bind (bool): bind to `end_point`, or connect to it.
        name (str): name of the socket in the session (`shared_name`); two objects of one name, address, hwm and bind
            share a socket. The default is unique in the graph.
        login (tuple of str or None): user name and password for a sender that asks for them (ZMQ's PLAIN mechanism).
            The password is kept in this process's environment, and not in the graph, which is written to files.
        timeout (float): seconds that a pull waits without any message arriving, then its step raises
            DeadlineExceededError; 0 for no limit.
    Raises:
        TypeError: a dtype that the wire format does not know.
        ValueError: no types, `hwm` below 1, `timeout` negative, or a part of `login` empty or beyond 255 bytes.
        ImportError: see `load_op_library`.

    The first step that pulls opens the socket, so it is that step which raises InvalidArgumentError for an address that
    ZMQ does not accept, and FailedPreconditionError for one that is taken or that this machine does not have.
    """

    def __init__(self, end_point, types, hwm=None, bind=True, name=None, timeout=0.0, login=None):
        import tensorflow.compat.v1 as tf
        self._ops = load_op_library()
        self._types = [tf.as_dtype(dtype) for dtype in types]
        unknown = [dtype.name for dtype in self._types if dtype.name not in DTYPE_CODES]
        if unknown:
            raise TypeError('zmq_ops: dtypes {} cannot be received, choose from {}'.format(
                unknown, sorted(DTYPE_CODES)))
        if not self._types:
            raise ValueError('zmq_ops: types is empty, a message holds at least one tensor')
        hwm = DEFAULT_HWM if hwm is None else int(hwm)
        if hwm < 1:
            raise ValueError('zmq_ops: hwm must be at least 1 message, got {}'.format(hwm))
        if not timeout >= 0:
            raise ValueError('zmq_ops: timeout must be at least 0 seconds, got {}'.format(timeout))
        self._timeout = float(timeout)
        self._name = name or tf.get_default_graph().unique_name('ZMQPullSocket')
        user_name = variable = ''
        if login:
            user_name, password = login
            if not all(1 <= len(part.encode()) <= 255 for part in login):
                raise ValueError('zmq_ops: user name and password must each have 1 to 255 bytes')
            variable = _variable_with(password)
        with tf.device('/cpu:0'):  # there is no GPU kernel, and not every session places softly
            self._handle = self._ops.zmq_connection(end_point=end_point, hwm=hwm, bind=bind, shared_name=self._name,
                                                    user_name=user_name, password_variable=variable)

    @property
    def name(self):
        """str: the socket's name in the session."""
        return self._name

    def pull(self):
        """Adds an op that takes the next message, waiting for it if need be.

        Several pulls share the socket: each message goes to one of them, in the order in which they began to wait.

        Returns:
            list[tf.Tensor]: one for each of `types`, of unknown static shape. A message that does not fit them or the
            wire format raises InvalidArgumentError in the step that pulled it; the next step gets the next message.
        """
        import tensorflow.compat.v1 as tf
        with tf.device('/cpu:0'):
            return list(self._ops.zmq_pull(self._handle, self._types, timeout=self._timeout))
