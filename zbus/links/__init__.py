"""Links: carry chosen systems between a bus and another machine, by an engine that is made for that."""
