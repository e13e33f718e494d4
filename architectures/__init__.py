"""Kinds of networks: what each entry of the table in ``nets`` says, and models made from it."""
