"""What one step of training does in the graph, whatever the network."""
