"""The paper's studies as commands: ``python -m studies NAME --scale small|full --data D``.

A study is a table of cells; a cell is one network, trained and judged by the programs that everybody uses, with one
seed. Cells of the same seed are paired: the same order of images, the same augmentation, the same initial weights.
"""
