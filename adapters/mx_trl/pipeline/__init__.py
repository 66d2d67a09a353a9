"""``mx-plugin pipeline``: stages one after the other, each reading the last one's model, taken up where it failed."""
