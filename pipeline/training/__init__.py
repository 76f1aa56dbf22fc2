"""How do weights get better? The loop, loss, optimizer, the head's first weights, keys."""
