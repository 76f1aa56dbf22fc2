"""What Kaggle needs: its client, archives and ledger, and the notebook that runs there."""
