"""How do we talk to Kaggle? Its client, archives, uploads and the ledger."""
