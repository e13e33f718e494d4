"""Runs a job's program so that it ends with the study, however that ends: ``python -m studies.child PID WORDS``.

A program that outlived its study would hold its folder when the study goes on.
"""
import os
import sys

from data.processes import die_with

if __name__ == '__main__':
    parent, *words = sys.argv[1:]
    die_with(int(parent))
    os.execvp(words[0], words)
