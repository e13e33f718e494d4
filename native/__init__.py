"""C and C++ that `make setup` compiles, each part with the Python that loads it."""
