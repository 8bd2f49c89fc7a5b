"""The `tastemaker` command: a lazy group, so that `--help` imports nothing heavy."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from tastemaker.errors import TastemakerError, nearest

__all__ = ["COMMANDS", "cli", "main"]

# A command is a file in commands/ that defines `command`, plus its line here.
COMMANDS = {
    "quickstart": "The whole road on embedded data and models, in minutes.",
    "run": "Run a recipe: every stage that is not up to date.",
    "init": "Look at your tables and write a first recipe for them.",
    "doctor": "What is installed, where models and data are, what is missing.",
    "data": "Validate, describe, split, audit and fetch data.",
    "templates": "List, show, render and lint prompt templates.",
    "teach": "Run a recipe up to the tastes and wishes a chat model writes.",
    "build": "Run a recipe up to its instructions.",
    "tune": "Run a recipe up to its tuned adapter.",
    "generate": "Run a recipe up to the answers of its tuned model.",
    "merge": "Write the tuned model of a run as one plain folder.",
    "reason": "Run a recipe up to its generated knowledge.",
    "knowledge": "List, show, move and prune generated knowledge.",
    "encode": "Run a recipe up to its knowledge vectors.",
    "train": "Run a recipe up to its trained recommenders.",
    "evaluate": "Run a recipe up to its comparison.",
    "report": "Show the comparison of a finished run.",
    "recommend": "Recommend items to a user of a finished run.",
    "chat": "Talk about what to choose next, grounded in the catalogue.",
    "serve": "Serve the chat: a page, an OpenAI-compatible API, metrics.",
    "methods": "List the published methods.",
}


class LazyGroup(click.Group):
    """Imports a command's file only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command behind a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"tastemaker.commands.{cmd_name}")
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a wrong name is answered with the nearest right one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], COMMANDS)
            hint = f" Did you mean '{close}'?" if close else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tastemaker", message="tastemaker %(version)s")
def cli() -> None:
    """Turn tables of users, items and interactions into recommendations.

    Start with:  tastemaker quickstart
    """


def main() -> None:
    """Entry point: runs a command and turns errors into exit codes.

    0 done, 1 failed, 2 the user's input was wrong, 130 interrupted (run again to continue).
    """
    _prepare_third_parties()
    try:
        code: Any = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _stop("interrupted; the same command continues where it stopped", code=130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TastemakerError as error:
        _stop(f"error: {error}", code=error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; the same command continues where it stopped", code=130)


def _stop(message: str, *, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)


def _prepare_third_parties() -> None:
    """Nothing is fetched and nothing is traced unless the user's environment asks for it.

    Threads that wait for each other sleep rather than spin: on cores shared with other work that
    halves the time of training, and costs next to nothing on idle ones.
    """
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "LANGSMITH_TRACING": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
