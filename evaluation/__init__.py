"""Judging a network: clean and under attack, every image once, whatever the number of ranks."""
