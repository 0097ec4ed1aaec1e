"""Convolution and max pooling in NumPy, and a small network made of them."""
