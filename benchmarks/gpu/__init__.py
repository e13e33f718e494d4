"""Parts of gpu_export.py and gpu_speed.py: steps of this project as XLA's programs, beside PyTorch's same work."""
