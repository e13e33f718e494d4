"""What a checkpoint is: told by its variables' names and shapes, by the file beside it, or by its published name."""
