"""What the graphs of all networks share: layouts, convolutions with batch norm, networks that stand still, recomputation."""
