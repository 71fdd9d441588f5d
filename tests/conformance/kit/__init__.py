"""The kit that proves a peer in any language: by vectors, by random cases, and by live processes.

`tools/conform` is its command; docs/howto/conform.md specifies how it talks to a peer.
"""
