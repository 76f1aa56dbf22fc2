"""How do we talk to Kaggle? Its client, archives, and uploads with their ledger."""
