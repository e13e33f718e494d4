"""The library: networks from Python, with NumPy arrays in and out.

``import sat`` is quick: TensorFlow is imported where a network is loaded.
"""
