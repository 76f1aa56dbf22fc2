"""What does the demo competition show? Species of leaves, drawn and scanned."""
