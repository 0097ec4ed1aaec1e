"""Training runs of the dense networks: ours, scikit-learn's, PyTorch's."""
