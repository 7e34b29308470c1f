"""Data sheets of cards: one row of data a card."""
