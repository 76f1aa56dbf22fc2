"""How fast is this machine, and what should it be told? Behind `bench`."""
