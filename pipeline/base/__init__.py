"""What every room asks: settings, records, messages, paths."""
