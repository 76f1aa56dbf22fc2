"""How do numbers or pictures look? Charts and pages of pictures, drawn by matplotlib."""
