"""``python -m analysis COMMAND``; see ``flags.py`` for the command line and ``runs.py`` for what the commands do."""
import os
import sys

# `main` is the repository's, wherever this was started from.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from third_party.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

from analysis import flags


def main(argv=None):
    sys.argv[0] = flags.PROGRAM  # as errors and usage name the program
    own, networks = flags.parse(sys.argv[1:] if argv is None else argv)
    from analysis import runs
    try:
        runs.run(own, networks)
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
