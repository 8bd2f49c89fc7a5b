"""`tastemaker encode RECIPE`."""

from tastemaker.cli import COMMANDS
from tastemaker.commands._recipe import command_until

command = command_until("encode", COMMANDS["encode"], catalogue=True)
