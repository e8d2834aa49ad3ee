"""The `jointrt` command. Libraries are imported inside the commands, so that help needs none of them."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import JointError, for_want_of_graphics

app = typer.Typer(
    name="jointrt",
    help="Segment objects through videos with JOINT: from a first mask to a mask for every frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "lightning_fabric": "train",
    "tensorboard": "train",
    "matplotlib": "bench",
    "ray": "fleet",
    "fsspec": "fleet",
    "s3fs": "fleet",
    "pyarrow": "fleet",
    "prometheus_client": "serve",
    "pycocotools": "annotations",
    "supervision": "annotations",
    "scipy": "bench",
}
"""Libraries that the base installation lacks, and the extra that brings each."""


USAGE_ERROR: Any = typer.BadParameter.__base__
"""Of every option or argument that cannot be; typer exports only this one kind of it."""


def main() -> None:
    """Run the command line; a `JointError` becomes one line on the error output and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Pillow's word on large images; what is too large is refused.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit of", append=True)
    try:
        sys.exit(app(standalone_mode=False))
    except JointError as error:
        print_error(str(error))
        sys.exit(2)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            command = error.ctx.command_path if error.ctx is not None else "jointrt"
            print_error(f"{error.format_message().rstrip('.')}: see `{command} --help`")
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        if graphics := for_want_of_graphics(error):
            print_error(str(graphics))
        elif isinstance(error, ModuleNotFoundError) and library in EXTRAS:
            print_error(f"{library} is not installed: install it with `pip install 'jointrt[{EXTRAS[library]}]'`")
        else:
            raise
        sys.exit(2)


def print_error(message: str) -> None:
    """One red line on the error output, never wrapped."""
    from rich.console import Console

    line = "error: " + " ".join(message.split())
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jointrt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
