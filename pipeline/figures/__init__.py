"""How does a picture of numbers or of pictures look? Charts and sheets."""
