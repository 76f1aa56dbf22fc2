"""What the stages look things up in: one noun per file."""
