"""Tables, pictures and verdicts of serving."""
