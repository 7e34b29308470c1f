"""A plan as text, as plain values and as a picture."""
