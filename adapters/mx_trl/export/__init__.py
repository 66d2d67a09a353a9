"""What a run leaves to others: a plain Hugging Face folder, or a packed one that ``load_model`` brings back."""
