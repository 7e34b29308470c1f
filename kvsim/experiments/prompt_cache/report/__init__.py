"""How results of a prompt cache are shown and compared."""
