"""The `omni123` command: registers the sub-commands and turns every error that a user can mend into one line."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from omni123_hf import __version__
from omni123_hf.cli.app import app as web_app
from omni123_hf.cli.assemble import assemble, extend
from omni123_hf.cli.convert import convert_app
from omni123_hf.cli.data import data_app
from omni123_hf.cli.evaluate import evaluate_app
from omni123_hf.cli.generate import generate
from omni123_hf.cli.info import info
from omni123_hf.cli.tasks import register as register_task_commands
from omni123_hf.cli.train_lora import train_app
from omni123_hf.cli.verify_conversion import verify_conversion
from omni123_hf.errors import Omni123Error


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"omni123-hf {__version__}")
        raise typer.Exit()


def build_app() -> typer.Typer:
    """The typer application with every sub-command of this installation."""
    # Tracebacks and boxes are off: `main` prints one line, and `--debug` the plain traceback.
    app = typer.Typer(
        name="omni123",
        help="Omni123: text, images and 3D shapes in one autoregressive transformer.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    ) -> None:
        pass

    app.command()(generate)
    register_task_commands(app)
    app.command("app")(web_app)
    app.command()(info)
    app.add_typer(data_app, name="data")
    app.add_typer(evaluate_app, name="evaluate")
    app.add_typer(train_app, name="train", help="Train a stage, or a LoRA adapter (train lora).")
    app.command()(assemble)
    app.command()(extend)
    app.add_typer(convert_app, name="convert")
    app.command("verify-conversion")(verify_conversion)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 the model gave no surface or a comparison failed, 2 bad input or an unusable file or folder."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        build_app()(args=arguments, prog_name="omni123")
    except (Omni123Error, OSError, MemoryError) as error:
        if debug:
            raise
        print(f"error: {describe(error)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if debug or not is_out_of_memory(error):
            raise
        print(f"error: {describe(MemoryError())}", file=sys.stderr)
        sys.exit(2)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory, on an accelerator or the CPU. By name and text: torch may not even be loaded here."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def describe(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"cannot use {str(error.filename)!r}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory; use a lower --resolution, or in training a smaller batch"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    # `accelerate launch -m omni123_hf.cli.main train …`
    main()
