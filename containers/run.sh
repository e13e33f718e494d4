#!/bin/sh
# What an image runs: the command that it is given, as `mpirun -np 2 python main.py --eval ...`, or just a program and its
# flags, as `serve-data.py --data /data`; nothing is the help of main.py.
# A user whom the image does not know has no home folder; caches and settings then go where all may write.
[ -w "${HOME:-/}" ] || export HOME="${TMPDIR:-/tmp}"
case ${1:-} in
  '') exec python main.py --help ;;
  *.py) exec python "$@" ;;
  *) exec "$@" ;;
esac
