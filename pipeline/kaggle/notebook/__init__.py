"""What runs on Kaggle? Only what a notebook there imports."""
