"""Every error a user can cause, as one line that says what was given, what was expected and what to do.

    AutoformerError
    ├── ArchitectureError      an architecture contradicts itself or its space
    ├── BudgetError            no architecture fits the limits, or a limit cannot be read
    ├── CheckpointError        a file is truncated, foreign or of another shape
    ├── DataError              images or folders that cannot be used as they are
    │   └── PreprocessingError an image size, mean or crop that makes no sense (in preprocessing.py)
    ├── ExportError            an artefact was not proved equal to its source
    ├── MeasurementError       a number was asked for that nothing measured
    ├── MissingPackageError    an optional package is absent
    ├── OutputExistsError      a folder already holds something else
    ├── RecipeError            a recipe key or value is not known
    ├── StorageError           a database or a disk cannot be used now; nothing is damaged
    ├── TrainingError          a checkpoint could not be written, or a loader process ended
    │   └── DivergedError      the loss left the finite numbers
    ├── LostProcessError       a process of a training on several GPUs ended or went silent
    └── InterruptedRunError    a signal (Ctrl-C, a scheduler's SIGTERM) stopped the work; says how to go on

The command line prints the message and exits with `exit_code`; everything else is a bug and shows its traceback.
"""

import errno

PACKAGES = {"PIL": "pillow"}  # by their modules, where they are called otherwise
NO_MEMORY = ("t allocate memory", "not enough memory", "out of memory", "failed to allocate memory", "bad_alloc", "alloc_failed")
NO_MEMORY_TO_LOAD = ("failed to map segment", "unable to instantiate pytypeobject")  # a library, while it is imported
OF_GPU = ("cuda", "cublas", "cudnn", "hip ")
NO_THREAD = ("can't start new thread", "resource temporarily unavailable")


class AutoformerError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 2


class ArchitectureError(AutoformerError, ValueError):
    """An architecture contradicts itself, or is not a member of the space it is used with."""


class BudgetError(AutoformerError, ValueError):
    """No architecture of the space meets the limits, or a limit cannot be read."""


class CheckpointError(AutoformerError):
    """A file of weights is truncated, of a foreign format, or does not fit the network."""


class DataError(AutoformerError):
    """The images cannot be used as they are: missing, unreadable, one class only, wrong layout."""


class ExportError(AutoformerError):
    """An exported file differs from the network it came from, or cannot be written as asked."""

    exit_code = 3


class MeasurementError(AutoformerError):
    """A measurement is impossible here, or a prediction lies outside what was measured."""


class MissingPackageError(AutoformerError):
    """An optional package is missing; the message names what to install."""


class OutputExistsError(AutoformerError):
    """The output folder holds another run or other files; nothing was written."""


class RecipeError(AutoformerError, ValueError):
    """A recipe names an unknown key or holds an impossible value."""


class StorageError(AutoformerError):
    """A database or a disk cannot be used now: locked, full, not reached. Nothing is damaged; the same command goes on."""


class TrainingError(AutoformerError):
    """A training cannot go on: its gradients are not finite, or its checkpoints cannot be written."""

    exit_code = 4


class DivergedError(TrainingError):
    """Its gradients are not finite any more: this network cannot be trained like this, another may be."""


class LostProcessError(AutoformerError):
    """Another process of the same training ended or went silent."""

    exit_code = 5


class InterruptedRunError(AutoformerError):
    """Work was stopped by a signal; the message says how to go on, the exit code is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class AutoformerWarning(UserWarning):
    """What goes on otherwise than asked, and is worth a line even where nothing else is shown."""


def memory_shortage(error: BaseException | None) -> str | None:
    """What this machine ran out of, where `error` is one of the many ways to say so, as the beginning of a line; else None.

    Python, numpy, the system, torch and ONNX Runtime each have their own: a MemoryError, an OSError, RuntimeErrors with a text.
    """
    text = f"{type(error).__name__} {error}".lower()
    by_text = isinstance(error, RuntimeError | ImportError) or type(error).__module__.startswith("onnxruntime")
    if isinstance(error, BlockingIOError) or (by_text and any(words in text for words in NO_THREAD)):
        return "no further thread or process can be started: memory, or the number of processes that is allowed, is used up"
    if type(error).__name__ == "OutOfMemoryError" or (by_text and any(words in text for words in NO_MEMORY + NO_MEMORY_TO_LOAD)):
        return f"{'the GPU has' if any(words in text for words in OF_GPU) else 'there is'} not enough memory"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "there is not enough memory"
    return None


def to_install(*modules: str | None) -> str:
    """How the packages of modules that are missing are installed."""
    names = [module or "" for module in dict.fromkeys(modules)]
    packages = " ".join(PACKAGES.get(name, name) for name in names)
    of, are, them = ("package", "is", "it") if len(names) == 1 else ("packages", "are", "them")
    return f"{of} {', '.join(map(repr, names))} {are} missing; install {them} with: pip install {packages}"


def said(error: AutoformerError) -> str:
    """The message of an error, after the memory that was short where that made a file or a network seem at fault."""
    shortage = memory_shortage(error.__cause__) if isinstance(error, CheckpointError | ExportError | TrainingError) else None
    return str(error) if shortage is None else f"{shortage}, or {error}"


def short(given: object, letters: int = 200) -> str:
    """What was given, as an error shows it: a file may hold thousands of letters where a word was expected."""
    text = str(given)
    return text if len(text) <= letters else f"{text[:letters]} … ({len(text)} letters)"
