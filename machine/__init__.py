"""What this machine and its software are: GPUs, TensorFlow's log, versions."""
