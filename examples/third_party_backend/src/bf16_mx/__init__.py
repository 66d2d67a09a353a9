"""A third party's backend for mx-plugin: bfloat16 products with weights that are decoded once."""
