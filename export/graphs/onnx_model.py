"""`OnnxModel`: an ONNX file as a function from images to logits, through ONNX Runtime.

Runs on boards: numpy and onnxruntime are imported when a model is opened, and metadata is read through the session.

Letters: B images, C channels, H × W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.errors import CheckpointError, DataError, MissingPackageError, short
from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.graphs.model_metadata import ModelMetadata
from autoformer.export.graphs.refusals import reason_of, refusal
from autoformer.export.manifest import check_described

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoformer.data.preprocessing import Preprocessing

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}  # of inputs
QUIET = 3  # ONNX Runtime's logging level "error"; what goes wrong arrives as an exception


def import_onnxruntime() -> Any:
    """The module `onnxruntime`. Raises `MissingPackageError` where it cannot be imported."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"onnxruntime cannot be imported ({error}); install it with: pip install onnxruntime (onnxruntime-gpu for CUDA)"
        ) from error
    onnxruntime.set_default_logger_severity(QUIET)
    return onnxruntime


class OnnxModel:
    """Calls one ONNX file: float32 images or uint8 pixels [B, C, H, W] to float32 logits [B, classes].

    `provider` is "cpu", "cuda" or "tensorrt"; `threads` limits the threads inside an operator (None: ONNX Runtime's choice).
    Raises `CheckpointError` for a file that is missing, damaged or no image classifier, and `MissingPackageError` where the
    provider is not available.
    """

    def __init__(self, path: Path, provider: str = "cpu", threads: int | None = None) -> None:
        ort = import_onnxruntime()
        self.path, self.provider = Path(path), provider
        available = [name for name, full in PROVIDERS.items() if full in ort.get_available_providers()]
        if provider not in available:
            raise MissingPackageError(
                f"ONNX Runtime {ort.__version__} has no provider {provider!r} here, only {', '.join(available)}; "
                "choose one of these or install onnxruntime-gpu with its CUDA libraries"
            )
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} does not exist; expected an ONNX file")
        check_described(self.path)
        check_external_data(self.path)
        options = ort.SessionOptions()
        options.log_severity_level = QUIET
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads starve small machines
        if threads is not None:
            options.intra_op_num_threads = threads
        chain = [PROVIDERS[provider]] + ([] if provider == "cpu" else [PROVIDERS["cpu"]])
        try:
            self.session = ort.InferenceSession(str(self.path), options, providers=chain, enable_fallback=0)
            properties = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            runtime = f"ONNX Runtime {ort.__version__}"
            raise refusal(self.path, error, runtime, otherwise=f"is not a file that {runtime} runs here") from error
        if self.session.get_providers()[0] != PROVIDERS[provider]:
            raise MissingPackageError(
                f"ONNX Runtime could not start {provider!r} (its libraries or the device are missing); use provider 'cpu'"
            )
        self._read_interface()
        self.metadata = ModelMetadata.from_properties(properties, self.path)
        self._check_metadata()

    def _check_metadata(self) -> None:
        """Raises `CheckpointError` when the file says one thing and its graph another, as far as the graph fixes it."""
        if self.classes is not None and self.num_classes not in (None, len(self.classes)):
            raise CheckpointError(
                f"{self.path} names {len(self.classes)} classes, its output has {self.num_classes}; export it again"
            )
        if self.preprocessing is not None:
            made = (self.preprocessing.in_chans, self.preprocessing.input_size, self.preprocessing.input_size)
            if not all(taken in (None, given) for taken, given in zip(self.image_shape, made, strict=True)):
                raise CheckpointError(
                    f"{self.path} carries a preprocessing that gives images {list(made)}, its input is "
                    f"{list(self.image_shape)}; export it again"
                )
            if self.preprocessing.input_type != self.input_type:
                raise CheckpointError(
                    f"{self.path} carries a preprocessing that gives {self.preprocessing.input_type} images, its input is "
                    f"{self.input_type}; export it again"
                )

    def _read_interface(self) -> None:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        try:
            found = short(f"inputs {[(i.name, i.type, i.shape) for i in inputs]}, outputs {[(o.name, o.shape) for o in outputs]}")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path} has inputs or outputs whose names are not text; export it again") from error
        classifies = len(inputs) == len(outputs) == 1 and inputs[0].type in TYPES and outputs[0].type == "tensor(float)"
        if not classifies or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
            raise CheckpointError(
                f"{self.path} has {found}; expected one float32 or uint8 input [batch, channels, height, width] and one "
                "float32 output [batch, classes]"
            )
        sizes = [size if isinstance(size, int) else None for size in inputs[0].shape]
        self.input_name: str = inputs[0].name
        self.input_type: str = TYPES[inputs[0].type]  # "float32" or "uint8"
        self.output_name: str = outputs[0].name
        self.batch: int | None = sizes[0]  # None: any
        self.image_shape: tuple[int | None, ...] = tuple(sizes[1:])  # channels, height, width; None: any
        classes = outputs[0].shape[1]
        self.num_classes: int | None = classes if isinstance(classes, int) else None

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What turns an image into the input; None when the file does not say."""
        return self.metadata.preprocessing

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None when the file does not say."""
        return self.metadata.classes

    @property
    def precision(self) -> str:
        """ "fp32", "fp16", "int8"; "unknown" when the file does not say."""
        return self.metadata.precision or "unknown"

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Logits [B, classes].

        Raises `DataError` for another type or shape than the file takes, and `CheckpointError` when the file cannot be run.
        """
        wanted = (self.batch, *self.image_shape)
        fits = len(images.shape) == 4 and all(w is None or w == s for w, s in zip(wanted, images.shape, strict=True))
        if not fits or str(images.dtype) != self.input_type or not images.shape[0]:
            names = ("batch", "channels", "height", "width")
            shown = ", ".join(name if size is None else str(size) for name, size in zip(names, wanted, strict=True))
            raise DataError(
                f"{self.path} takes {self.input_type} images [{shown}], got {images.dtype} {list(images.shape)}; "
                "prepare them with the model's preprocessing"
            )
        try:
            (logits,) = self.session.run([self.output_name], {self.input_name: images})
        except Exception as error:  # sizes inside the graph that do not fit show only when it runs
            raise CheckpointError(f"{self.path} cannot be run on images {list(images.shape)}: {reason_of(error)}") from error
        if len(logits.shape) != 2 or len(logits) != len(images) or self.num_classes not in (None, logits.shape[1]):
            raise CheckpointError(
                f"{self.path} gives {list(logits.shape)} for {len(images)} images, expected [{len(images)}, classes]; "
                "export it again"
            )
        return logits  # type: ignore[no-any-return]
