"""How do files and tables become batches? Reading, splits, augmentation, loading."""
