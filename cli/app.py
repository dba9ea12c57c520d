"""The `autoformer` program: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from typing import Annotated

import typer

from autoformer import __version__
from autoformer.cli import recipe_commands
from autoformer.cli.commands import (
    audit,
    bundle,
    check,
    compare,
    data,
    describe,
    doctor,
    engines,
    evaluate,
    export,
    extract,
    finetune,
    import_official,
    predict,
    race,
    report,
    run,
    search,
    train,
)
from autoformer.cli.console import warnings_as_lines
from autoformer.cli.flags import advice_on
from autoformer.cli.help import Panels
from autoformer.cli.meant import meant_by
from autoformer.cli.profile_commands import latency

INTERRUPTED = 130  # the exit code of Ctrl-C
TERMINATED = 143  # of SIGTERM
LONGEST = 600  # characters of an error's line
SYSTEMS = ("linux", "darwin")  # with forks and locks on files

app = typer.Typer(
    name="autoformer",
    cls=Panels,
    help="From images and a device budget to a vision transformer that fits, deployed and verified.\n\n"
    "The whole chain: autoformer run quickstart; with your images: autoformer run --data photos --max-latency 5ms",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run, train.train, audit.audit, search.search, race.race, extract.extract, finetune.finetune, export.export, engines.refit,
    engines.inspect, check.check, bundle.bundle, import_official.import_official, evaluate.evaluate, compare.compare,
    predict.predict, describe.describe, doctor.doctor,
):  # fmt: skip
    app.command()(command)
app.add_typer(latency.app, name="profile")
app.add_typer(report.app, name="report")
app.add_typer(data.app, name="data")
app.add_typer(recipe_commands.app, name="recipe")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ["AUTOFORMER_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Runs the program. An error that a user can cause is one line on stderr and an exit code; `--debug` shows the traceback."""
    if not sys.platform.startswith(SYSTEMS):
        fail(f"{sys.platform} is not supported: autoformer runs on Linux and macOS; on Windows, inside WSL 2 (wsl --install)", 2)
    from autoformer.cli.chain.helped import end_with_helped
    from autoformer.errors import (
        AutoformerError,
        InterruptedRunError,
        MissingPackageError,
        memory_shortage,
        said,
        to_install,
    )
    from autoformer.escaping import take_any_letter
    from autoformer.files import refuse_pipes

    take_any_letter()
    with contextlib.suppress(ValueError):  # in a thread of somebody else's program
        signal.signal(signal.SIGTERM, terminated)
    end_with_helped()
    try:
        refuse_pipes(sys.argv[1:])
        with warnings_as_lines("--quiet" in sys.argv):
            code = app(standalone_mode=False)
    except AutoformerError as error:
        debug()
        if isinstance(error, InterruptedRunError) and os.environ.get("RANK", "0") != "0":
            sys.exit(error.exit_code)  # the first of the processes says it
        fail(said(error), error.exit_code, "" if isinstance(error, InterruptedRunError) else "error: ")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as stop:
        if stop.code == TERMINATED:
            fail(f"stopped by SIGTERM; {kept()}", TERMINATED, "")
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("autoformer"):
            raise
        debug()
        missing = MissingPackageError(to_install(error.name))
        fail(str(missing), missing.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if (shortage := memory_shortage(error)) is not None:
            debug()
            fail(f"{shortage}; make the network, the images or the batch smaller, or end other programs", 2)
        if "torchvision" in str(error):
            from autoformer.profiling.profiles.doctor import unfit_pair

            if pair := unfit_pair(error):
                debug()
                fail(pair, 2)
        if isinstance(error, OSError):
            debug()
            fail(f"{error.filename or 'a file'}: {error.strerror or error}; {advice(error)}, then run the same command again", 2)
        if not hasattr(error, "format_message"):  # typer's own errors about the words on the command line have it
            raise
        message = error.format_message().replace("Value error, ", "")  # of a choice; how it was found is nobody's business
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command
            print(message)
            sys.exit(0)
        fail(advice_on(message) or meant_by(message, sys.argv[1:]) or f"{message} (try --help)", 2)
    if code == INTERRUPTED:  # typer answers Ctrl-C with this code
        fail(f"stopped; {kept()}", INTERRUPTED, "")
    sys.exit(code if isinstance(code, int) else 0)


def kept() -> str:
    """What becomes of the work that was done when a command is stopped."""
    return "nothing was written" if "--dry-run" in sys.argv else "run the same command again to go on, finished steps are kept"


def advice(error: OSError) -> str:
    """What to do about an error of the system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    if error.errno == errno.EROFS:
        return "its disk can only be read: choose another place"
    return "check the path, its permissions and the disk"


def terminated(*_: object) -> None:
    """A scheduler asks to stop: the work ends as by an exception, so that half-written files are removed."""
    raise SystemExit(TERMINATED)


def debug() -> None:
    """Raises the present error again where `--debug` was given."""
    if os.environ.get("AUTOFORMER_DEBUG"):
        raise


def fail(message: str, exit_code: int, what: str = "error: ") -> None:
    """One line on stderr, then the end. `what` begins the line: to be stopped is no error."""
    from autoformer.escaping import one_line

    line = one_line(message)
    print(f"{what}{line if len(line) <= LONGEST else line[:LONGEST] + ' ...'}", file=sys.stderr)
    sys.exit(exit_code)
