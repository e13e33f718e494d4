#!/usr/bin/env python
"""Smooth Adversarial Training: train, judge and apply the networks of ``nets.py``.

Modes: training (the default), ``--eval`` and ``--eval-directory``. ``get_parser`` and ``parse_args`` are what other
programs use.
"""
import sys

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

try:
    if __name__ == '__main__':
        from commands.first_look import first_look
        first_look(sys.argv[1:])
    from commands.command_line import get_parser, parse_args
except ModuleNotFoundError as missing:
    sys.exit("main.py: error: {} has no module '{}'; run `make setup`, then .venv/bin/python main.py".format(
        sys.executable, missing.name))

__all__ = ['get_parser', 'main', 'parse_args']


def main(argv=None):
    args = parse_args(argv)
    from commands.run import run  # a mistake in the flags is said sooner
    return run(args)


if __name__ == '__main__':
    sys.exit(main())
