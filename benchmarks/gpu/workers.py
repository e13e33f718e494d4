"""The processes that measure, and what they are asked."""
import json
import os
import queue
import subprocess
import threading

import measure

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Worker:
    """A process that answers, see ``answers.answer``; it is started when it is first asked, and again after its end.

    Args:
        python (str): that has what it needs. module (str): of ``gpu``.
    """

    def __init__(self, python, module):
        self._command, self._process = [python, '-m', 'gpu.' + module], None

    def ask(self, seconds, *request):
        """The answer, a dict; {'error': one line} where there is none within ``seconds``, or the process ends."""
        try:
            if self._process is None:
                self._start()
            self._process.stdin.write(json.dumps(request) + '\n')
            self._process.stdin.flush()
            line = self._lines.get(timeout=max(seconds, 0))
        except queue.Empty:
            self.end()
            return {'error': 'took too long'}
        except BrokenPipeError:
            line = None
        except OSError as error:
            return {'error': "'{}': {}".format(self._command[0], error.strerror)}
        if line is None:
            code, words = self._process.wait(), self.last_words()
            self.end()
            return {'error': 'exit code {}: {}'.format(code, words)}
        return line

    def _start(self):
        # JAX would else take most of the memory of a GPU that PyTorch is to use as well.
        environment = dict(os.environ, PYTHONPATH=HERE, XLA_PYTHON_CLIENT_PREALLOCATE='false')
        self._said = []
        self._process = subprocess.Popen(self._command, env=environment, text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._lines = queue.Queue()
        threading.Thread(target=self._listen, args=[self._process, self._lines], daemon=True).start()
        self._errors = threading.Thread(target=self._remember, args=[self._process, self._said], daemon=True)
        self._errors.start()

    @staticmethod
    def _listen(process, lines):
        for result in measure.said(process.stdout):
            lines.put(result)
        lines.put(None)

    @staticmethod
    def _remember(process, said):
        said.extend(line.strip() for line in process.stderr if line.strip())

    def last_words(self):
        """The last line that the process has written on stderr."""
        self._errors.join(timeout=5)
        return self._said[-1] if self._said else 'nothing said'

    def end(self):
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
