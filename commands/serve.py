"""`tastemaker serve`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from tastemaker.commands._chat import chat_options


@click.command("serve")
@chat_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes any free one.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token that clients must send; or set TASTEMAKER_TOKEN.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=N",
    help="Other bounds, such as chat_per_minute=10; may be repeated.",
)
def command(
    run_folder: Path,
    host: str,
    port: int,
    token_file: Path | None,
    model: str | None,
    base_url: str | None,
    limits: tuple[str, ...],
) -> None:
    """Serve the chat of a finished run: a page, an OpenAI-compatible API, and metrics.

    Other machines can ask only with a token. Ctrl-C ends it.
    """
    from tastemaker.errors import MissingError

    try:
        from tastemaker.agents.server.app import create_app
        from tastemaker.agents.server.exposure import check_exposure, read_token
        from tastemaker.agents.server.limits import Limits
        from tastemaker.agents.server.serving import listening, serve
    except ModuleNotFoundError as error:
        raise MissingError(
            f"serving needs the package '{error.name}', which is not installed.",
            remedy='pip install "tastemaker[serve]"',
        ) from error

    token = read_token(token_file)
    check_exposure(host, token)
    bounds = Limits().changed(limits)
    with contextlib.suppress(KeyboardInterrupt), listening(host, port) as listener:
        from tastemaker.methods.chatting import open_chat

        with open_chat(run_folder, model=model, base_url=base_url) as chat:
            app = create_app(chat, limits=bounds, token=token, host=host)
            serve(app, listener, ready=lambda url: click.echo(f"{url} - Ctrl-C ends it"))
