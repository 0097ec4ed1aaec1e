"""What convolutions respond to: hooks, activation maximisation, saliency, their checks."""
