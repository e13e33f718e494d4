"""The programs' imports of TensorFlow and tensorpack leave Keras out, and whoever uses it has it."""
import subprocess
import sys

from small_runs import ROOT

LOADED = '''
from machine.quiet_tensorflow import quieten_tensorflow
quieten_tensorflow()
import sys
import training.run
left_out = [name for name in ('keras', 'sklearn', 'matplotlib') if name not in sys.modules]
import tensorflow, tensorpack
print(left_out, hasattr(tensorflow, 'layers'), type(tensorpack.models.l1_regularizer(0.5)).__name__,
      tensorflow.keras.layers.Dense(3).units, sys.modules['keras'].__version__[0])
'''


def test_a_program_loads_keras_when_it_is_used():
    said = subprocess.run([sys.executable, '-c', LOADED], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    *first, version = said.stdout.split()
    assert ' '.join(first) == "['keras', 'sklearn', 'matplotlib'] False L1 3" and version in '23'
