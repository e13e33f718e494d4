"""``python -m analysis COMMAND``; see ``flags.py`` for the command line and ``runs.py`` for what the commands do."""
import sys

from machine.names_only import names_only_for_help
from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()
if __name__ == '__main__':
    names_only_for_help(sys.argv[1:])

from analysis import flags
from machine import programs


def main(argv=None):
    sys.argv[0] = programs.name(flags.PROGRAM)  # as errors and usage name the program
    own, networks = flags.parse(sys.argv[1:] if argv is None else argv)
    from analysis import runs
    try:
        runs.run(own, networks)
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
