"""Runs exported steps by JAX's client of XLA, without TensorFlow, and times them: one answer for each line it reads."""
import gzip
import json
import time

import jax
import numpy as np
from jax._src.lib import xla_client  # what compiles a program that is not JAX's own is in here, in 0.10.2 and 0.11.2

from gpu import clock
from gpu.answers import answer

jax.config.update('jax_enable_x64', True)  # a step's number is int64
NAMES = ('jax', 'jaxlib')


def versions():
    """What is said of this side, JSON-ready."""
    device = jax.devices()[0]
    return {'versions': {'JAX': jax.__version__}, 'device': device.device_kind, 'platform': device.platform}


def limits(size):
    """FLOP/s of a product of square matrices, and bytes/s of a copy, read and written, of the first device."""
    @jax.jit
    def copied(x):
        return x + 1  # a copy itself would be left out

    def rate(dtype, precision):
        left, right = (jax.random.normal(jax.random.key(number), (size, size), dtype) for number in (0, 1))
        product = jax.jit(lambda a, b: jax.lax.dot(a, b, precision=precision))
        return 2 * size ** 3 / clock.seconds(lambda: product(left, right), jax.block_until_ready)
    data = jax.numpy.zeros([4 * size * size], np.float32)
    return {'bfloat16': rate(jax.numpy.bfloat16, 'default'), 'tf32': rate(np.float32, 'default'),
            'float32': rate(np.float32, 'highest'),
            'copy': 2 * data.nbytes / clock.seconds(lambda: copied(data), jax.block_until_ready)}


class Loaded:
    """An exported step on the first device.

    Args:
        path (str): of its files, without '.hlo.gz' and '.json'.
    """

    def __init__(self, path):
        with open(path + '.json') as f:
            self.said = json.load(f)
        with gzip.open(path + '.hlo.gz') as f:
            hlo = f.read()
        device = jax.devices()[0]
        module = xla_client._xla.mlir.hlo_to_stablehlo(hlo)
        self.program = device.client.compile_and_load(
            module, xla_client.DeviceList((device,)), xla_client.CompileOptions())
        names = [parameter['name'] for parameter in self.said['parameters']]
        # (number of a result, number of the parameter that it is in the next run)
        self.fed = [(number, names.index(result['feeds'])) for number, result in enumerate(self.said['results'])
                    if result['feeds'] is not None]

    def run(self, arguments):
        """The results, of arguments in the order of the file's parameters, all of them arrays of JAX."""
        return [shards[0] for shards in self.program.execute_sharded(arguments).disassemble_into_single_device_arrays()]

    def drawn(self):
        """Arguments: random images and labels, and variables as they begin with."""
        random = np.random.default_rng(0)
        device = jax.devices()[0]
        return [jax.device_put(self._draw(random, parameter), device) for parameter in self.said['parameters']]

    def _draw(self, random, parameter):
        name, shape, kind = parameter['name'], parameter['shape'], parameter['type']
        if parameter['begins']:
            mean, deviation = parameter['begins']
            return (mean + deviation * random.standard_normal(shape)).astype(kind)
        if name == 'label':
            return random.integers(0, self.said['classes'], shape).astype(kind)
        if kind == 'uint8':
            return random.integers(0, 256, shape).astype(kind)
        if name == 'start' and len(shape) == 2:  # of an attack that works in [0, 1]
            return random.uniform(0, 1, shape).astype(kind)
        return np.zeros(shape, kind) if name == 'step' else random.uniform(-1, 1, shape).astype(kind)

    def memory(self):
        """Bytes on the device that the program needs: what it takes, returns and has in between."""
        found = self.program.get_compiled_memory_stats()
        return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def measured(path):
    """What is said of one exported step: seconds of a run, of compiling, and bytes."""
    begin = time.perf_counter()
    loaded = Loaded(path)
    compiled = time.perf_counter() - begin
    arguments = loaded.drawn()

    def run():
        results = loaded.run(arguments)
        for result, parameter in loaded.fed:
            arguments[parameter] = results[result]
        return results
    return {'seconds': clock.seconds(run, jax.block_until_ready), 'compiling': compiled, 'bytes': loaded.memory()}


if __name__ == '__main__':
    answer({'versions': versions, 'limits': limits, 'step': measured})
