"""The README's commands: every option exists, and what it links to is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from jointrt.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("jointrt ")]
NAMED = re.findall(r"`(jointrt [^`]+)`", README + (ROOT / "engines" / "lite" / "MODEL_CARD.md").read_text())


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", sorted({*COMMANDS, *NAMED}))
def test_a_command_is_understood(line):
    _, *arguments = shlex.split(line)
    command = typer.main.get_command(app)
    context = command.make_context("jointrt", arguments[:1], resilient_parsing=True)
    chosen = command.get_command(context, arguments[0])
    assert chosen is not None
    chosen.make_context(arguments[0], arguments[1:], parent=context, resilient_parsing=True)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)h][^)]*)\)", README))
def test_a_link_leads_somewhere(target):
    assert (ROOT / target).exists()


def test_ci_finds_the_tests_command():
    assert "<!-- tests -->" in README
    assert "pytest" in README.split("<!-- tests -->")[1].split("```")[1]
