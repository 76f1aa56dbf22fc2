"""Where does it run? A process on each GPU of this machine, or a task of a Ray cluster."""
