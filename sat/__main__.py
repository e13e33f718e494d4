"""``python -m sat COMMAND ...`` is ``sat COMMAND ...``."""
import sys

from sat.cli import main

if __name__ == '__main__':
    sys.exit(main())
