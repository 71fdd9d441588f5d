"""`zbus completion`: what a shell needs to complete command lines of `zbus`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .standard_streams import check_stdout

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "zbus"
_VARIABLE = "_ZBUS_COMPLETE"  # the one that click looks for when the program is called zbus


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print a script with which a shell completes commands.

    At Tab, the shell then completes commands and options, names of files, of the buses that somebody is on,
    and of the members to choose from. Each time it runs `zbus`, which joins nothing.

    Write the script to the file from which your shell loads completions, as in the examples; for zsh, into a
    directory of $fpath. To try it in the shell that runs, eval "$(zbus completion bash)" does.

    Exit codes: 0 printed, 2 for a shell that it does not know.

    \b
    Examples:
      zbus completion bash > ~/.local/share/bash-completion/completions/zbus
      zbus completion zsh > ~/.zfunc/_zbus
      zbus completion fish > ~/.config/fish/completions/zbus.fish
    """
    check_stdout()
    kind = get_completion_class(shell)
    assert kind is not None  # click brings these three
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, _PROGRAM, _VARIABLE).source(), nl=False)
