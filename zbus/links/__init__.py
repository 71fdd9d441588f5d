"""Links: carry chosen systems between a bus and another machine, by an engine that is made for that."""

__all__: list[str] = []  # `zbus.links.nats` needs the extra `nats`
