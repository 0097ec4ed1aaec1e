"""What the chapters share and the tests cover."""
