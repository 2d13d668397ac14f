"""One algorithm, one file, read from top to bottom. None of them knows another."""
