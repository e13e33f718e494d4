"""The pickle inside a file of PyTorch's, read as a list of instructions of which only harmless ones are followed.

Nothing is imported and nothing is called that the file names: a tensor becomes a ``Tensor``, which says where its
numbers lie; dictionaries, lists, tuples, numbers and texts are themselves. Any other global is refused by its name.
"""
import pickletools
from typing import Any, BinaryIO, Callable, Dict, List, NamedTuple, Tuple

# Of PyTorch's typed storages: NumPy's names of what they hold.
STORAGES = {'DoubleStorage': 'float64', 'FloatStorage': 'float32', 'HalfStorage': 'float16',
            'BFloat16Storage': 'bfloat16', 'LongStorage': 'int64', 'IntStorage': 'int32', 'ShortStorage': 'int16',
            'CharStorage': 'int8', 'ByteStorage': 'uint8', 'BoolStorage': 'bool'}
_MOST = 1 << 48  # elements; far beyond any file, and its square is no trouble


class Storage(NamedTuple):
    """A row of numbers in the file. key: its name there. first, length: the part that is meant, in elements.
    of (int): elements that the file has under that name, as the pickle says."""
    key: str
    dtype: str
    first: int
    length: int
    of: int


class Tensor(NamedTuple):
    """A view of a storage. offset and strides in elements, from the storage's first."""
    storage: Storage
    offset: int
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]


class _Global(NamedTuple):
    """A global that may stand in a file: its name, and what its call does."""
    name: str
    call: Callable[..., Any]


class _Mark:
    """The beginning of a list of arguments on the stack."""


_MARK = _Mark()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """``torch._utils._rebuild_tensor_v2``; refuses what reaches past the storage before anything is read."""
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple \
            or len(shape) != len(strides) or not all(map(_is_count, (offset, *shape, *strides))):
        raise ValueError('a tensor whose shape or strides there cannot be')
    count = 1
    for size in shape:
        count *= size
        if count > _MOST:
            break
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if count and (count > storage.length or last >= storage.length):
        raise ValueError('a tensor of shape {} and strides {} from {} on, which reaches past the {} numbers of its '
                         'storage'.format(shape, strides, offset, storage.length))
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> Any:
    if type(tensor) is not Tensor:
        raise ValueError('a parameter that is no tensor')
    return tensor


def _ordered(pairs: Any = ()) -> Dict[Any, Any]:
    return dict(pairs)


def _sizes(sizes: Any = ()) -> Tuple[Any, ...]:
    return tuple(sizes)


def _no_call(*_: Any) -> Any:
    raise ValueError('a type that is called')


_GLOBALS = {'collections.OrderedDict': _ordered, 'torch.Size': _sizes,
            'torch._utils._rebuild_tensor_v2': _tensor, 'torch._utils._rebuild_parameter': _parameter,
            **{'torch.' + name: _no_call for name in STORAGES}}


def load(file: BinaryIO) -> Tuple[Any, Dict[str, Storage]]:
    """The object that the next pickle in a file describes, and all storages that it names, by key.

    Raises:
        ValueError: it holds another global, by its name, or is no pickle; names the instruction. Others, of Python's
            own, for a pickle that is damaged.
    """
    machine = _Machine()
    return machine.run(file), machine.storages


class _Machine:
    """The stack, and the memory, of a pickle's instructions."""

    def __init__(self) -> None:
        self._stack: List[Any] = []
        self._memory: Dict[int, Any] = {}
        self.storages: Dict[str, Storage] = {}

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == 'STOP':
                found, = self._stack
                return found
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name == 'INST':
                self.find(argument)
            else:
                raise ValueError('the instruction {}, which tensors do not need'.format(name))
        raise ValueError('a pickle without an end')

    def find(self, name: Any) -> None:
        if type(name) is not str:
            raise ValueError('a global without a name')
        module_and_name = name.replace(' ', '.')
        if module_and_name not in _GLOBALS:
            raise ValueError("it holds {}, which is no tensor and could run code: refused, and nothing of it was "
                             "run".format(module_and_name[:200]))
        self._stack.append(_Global(module_and_name, _GLOBALS[module_and_name]))

    def find_named(self, _: Any) -> None:
        module, name = self.take(2)
        self.find(module + ' ' + name if type(module) is type(name) is str else None)

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def marked(self) -> List[Any]:
        """What stands above the last mark, which is taken away with it."""
        begin = max(place for place, value in enumerate(self._stack) if value is _MARK)
        found = self._stack[begin + 1:]
        del self._stack[begin:]
        return found

    def take(self, count: int) -> Tuple[Any, ...]:
        if count > len(self._stack):
            raise ValueError('an instruction without its arguments')
        found = tuple(self._stack[len(self._stack) - count:])
        del self._stack[len(self._stack) - count:]
        return found

    def put(self, place: Any) -> None:
        self._memory[place] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self._memory))

    def get(self, place: Any) -> None:
        self.push(self._memory[place])

    def set_items(self, pairs: Any) -> None:
        target = self._stack[-1]
        # Tuples within tuples may take for ever to be looked up.
        if type(target) is not dict or not all(type(key) in (str, int, float, bool) for key in pairs[::2]):
            raise ValueError('entries of what is no dictionary, or without a name')
        target.update(zip(pairs[::2], pairs[1::2]))

    def append(self, values: Any) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError('elements of what is no list')
        target.extend(values)

    def call(self, _: Any) -> None:
        called, arguments = self.take(2)
        if type(called) is not _Global or type(arguments) is not tuple:
            raise ValueError('a call of what is no function')
        self.push(called.call(*arguments))

    def build(self, _: Any) -> None:
        """Attributes of an object: of a dictionary ``_metadata``, which is not looked at."""
        self.take(1)
        if type(self._stack[-1]) is not dict:
            raise ValueError('attributes of what is no dictionary')

    def find_storage(self, _: Any) -> None:
        """A storage, by what PyTorch writes of it: ('storage', type, key, device, elements), in the older files with
        None or (key of a part, first, elements) as the last one."""
        kind, typed, key, _, of, *part = self._stack.pop()
        name = typed.name[len('torch.'):] if type(typed) is _Global else None
        if kind != 'storage' or name not in STORAGES or type(key) is not str:
            raise ValueError('a reference to what is no storage of numbers')
        first, length = part[0][1:] if part and part[0] is not None else (0, of)
        if not all(map(_is_count, (of, first, length))) or first + length > of:
            raise ValueError('a storage whose length there cannot be')
        found = Storage(key, STORAGES[name], first, length, of)
        before = self.storages.setdefault(key, found)
        if (found.dtype, found.of) != (before.dtype, before.of):
            raise ValueError('storage {} is there in two forms'.format(key[:60]))
        self.push(found)


# Instructions that put their own argument on the stack.
_VALUES = ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING',
           'SHORT_BINSTRING', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES',
           'BINBYTES8')
_STEPS: Dict[str, Callable[[_Machine, Any], Any]] = {
    'PROTO': lambda machine, _: None, 'FRAME': lambda machine, _: None,
    'NONE': lambda machine, _: machine.push(None), 'NEWTRUE': lambda machine, _: machine.push(True),
    'NEWFALSE': lambda machine, _: machine.push(False), 'MARK': lambda machine, _: machine.push(_MARK),
    'EMPTY_DICT': lambda machine, _: machine.push({}), 'EMPTY_LIST': lambda machine, _: machine.push([]),
    'EMPTY_TUPLE': lambda machine, _: machine.push(()), 'EMPTY_SET': lambda machine, _: machine.push([]),
    'TUPLE': lambda machine, _: machine.push(tuple(machine.marked())),
    'TUPLE1': lambda machine, _: machine.push(machine.take(1)),
    'TUPLE2': lambda machine, _: machine.push(machine.take(2)),
    'TUPLE3': lambda machine, _: machine.push(machine.take(3)),
    'LIST': lambda machine, _: machine.push(machine.marked()),
    'APPEND': lambda machine, _: machine.append(machine.take(1)),
    'APPENDS': lambda machine, _: machine.append(machine.marked()),
    'ADDITEMS': lambda machine, _: machine.append(machine.marked()),
    'SETITEM': lambda machine, _: machine.set_items(machine.take(2)),
    'SETITEMS': lambda machine, _: machine.set_items(machine.marked()),
    'PUT': _Machine.put, 'BINPUT': _Machine.put, 'LONG_BINPUT': _Machine.put, 'MEMOIZE': _Machine.memoize,
    'GET': _Machine.get, 'BINGET': _Machine.get, 'LONG_BINGET': _Machine.get,
    'GLOBAL': _Machine.find, 'STACK_GLOBAL': _Machine.find_named, 'REDUCE': _Machine.call, 'BUILD': _Machine.build,
    'BINPERSID': _Machine.find_storage}
