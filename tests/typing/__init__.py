"""What type checkers make of the API, and of every example in the docs."""
