"""`tastemaker teach RECIPE`."""

from tastemaker.cli import COMMANDS
from tastemaker.commands._recipe import command_until

command = command_until("teach", COMMANDS["teach"])
