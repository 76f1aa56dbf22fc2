"""What Kaggle needs: its client, what is made here for it, and the notebook that runs there."""
