"""Networks as the models of others' tools, which are imported where one of them is asked for."""
