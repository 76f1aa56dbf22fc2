"""What does a model say of pictures? Probabilities, views, metrics, prediction files."""
