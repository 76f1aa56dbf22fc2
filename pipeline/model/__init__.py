"""What is trained? A backbone, its head, and which of its layers are frozen."""
