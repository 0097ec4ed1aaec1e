"""VGG16: backbone, cached features, heads, tracking, the cost of convolutions."""
