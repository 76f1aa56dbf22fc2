"""What is made here for Kaggle? Datasets, notebooks, rehearsals, pushes."""
