"""The engine's side, against a real plane where one is needed."""
