"""What a bundle says of itself, in `manifest.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

FORMAT_VERSION = 1
"""Version of the bundle format that this code writes, and the newest that it reads."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A plain name inside the bundle's folder: no separators, no leading dot."""


class Record(BaseModel):
    """A part of the manifest; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Port(Record):
    """One input or output of a graph; strings in the shape are dynamic axes."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


class GraphRecord(Record):
    """One graph: its file and its ports."""

    file: FileName
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Geometry(Record):
    """What the orchestrator must know of the model.

    Attributes:
        crop_size: (height, width) of the crops in pixels.
        stride: pixels per feature cell.
        filter_size: side of omega.
        search_factor: side of the crop over side of the target.
    """

    crop_size: tuple[
        Annotated[int, Field(ge=32, le=4096, multiple_of=32)], Annotated[int, Field(ge=32, le=4096, multiple_of=32)]
    ]
    stride: int = Field(ge=1)
    filter_size: int = Field(ge=1)
    search_factor: float = Field(gt=1)


Windows = Literal["released", "steady"]
"""How windows shrunk to the frame are cut; see `tracking.crop.place_window`."""


class Defaults(Record):
    """Settings a bundle is used with unless the user says otherwise.

    Attributes:
        memory: N, frames kept per object.
        interval: T, frames between memory updates.
        max_objects: objects that one engine call may carry.
        windows: how windows shrunk to the frame are cut.
    """

    memory: int = Field(ge=1, le=256)
    interval: int = Field(ge=1)
    max_objects: int = Field(ge=1, le=255)
    windows: Windows = "released"


class Weights(Record):
    """The weights that the graphs were made from."""

    sha256: Sha256
    source: str
    source_sha256: str


class GraphParity(Record):
    """How far a graph is from the PyTorch network, over all its outputs on real crops."""

    graph: str
    max_abs: float
    rel_l2: float
    cosine: float


class ClosedLoop(Record):
    """Masks of a clip against those of the PyTorch network: frames, mean and smallest IoU."""

    frames: int
    mean_iou: float
    min_iou: float


class Parity(Record):
    """What the gate measured when the bundle was built."""

    graphs: tuple[GraphParity, ...]
    closed_loop: ClosedLoop


class TensorRTRecord(Record):
    """What engines were built with; they run nowhere else.

    Attributes:
        version: of TensorRT or TensorRT-RTX.
        compute_capabilities: GPUs they run on, 89 for 8.9.
        driver_cuda: newest CUDA of the driver at the build; None where there was none.
        objects: smallest, best and largest number of objects in one call.
        flags: of the builder.
    """

    version: str
    compute_capabilities: tuple[int, ...]
    driver_cuda: str | None
    objects: tuple[int, int, int]
    flags: tuple[str, ...]


class AotiRecord(Record):
    """What packages of AOTInductor were built with; they run nowhere else.

    Attributes:
        torch: its version.
        device: "cuda" or "cpu".
        processor: "sm90" of a GPU, instructions of a CPU as torch names them.
        objects: largest number of objects in one call.
    """

    torch: str
    device: str
    processor: str
    objects: int


class GraphQuantization(Record):
    """What was found when a graph was quantised.

    Attributes:
        rel_l2: the quantised graph's relative L2 error against fp32 on the calibration's crops, worst output.
        kept: layers that stay in fp32, those with the largest squared sensitivity for their cost first.
        sensitivity: that error when a layer alone is quantised, by layer.
        costs: estimated milliseconds that a layer costs in fp32 beyond 8 bits; empty where none were estimated.
    """

    rel_l2: float
    kept: tuple[str, ...]
    sensitivity: dict[str, float]
    costs: dict[str, float] = {}


class Quantization(Record):
    """How an int8 bundle was made.

    Attributes:
        source: fingerprint of the fp32 bundle.
        clips: names of the clips it was calibrated on.
        graphs: by name, those that were quantised.
    """

    source: Sha256
    clips: tuple[str, ...]
    graphs: dict[str, GraphQuantization]


class Manifest(Record):
    """The whole manifest.

    Attributes:
        format: always "jointrt-bundle".
        version: of the format.
        model: the network's configuration.
        files: sha256 of every file besides the manifest.
        tools: names and versions of what built the bundle.
        backend: what runs the graphs; all but "onnx" have a memory of fixed capacity.
        precision: of the graphs.
        parity: None where the engines could not be run when they were built.
        tensorrt: of TensorRT engines only.
        aoti: of packages of AOTInductor only.
        quantization: of int8 bundles only.
    """

    format: Literal["jointrt-bundle"]
    version: int
    model: dict[str, Any]
    weights: Weights
    geometry: Geometry
    defaults: Defaults
    graphs: dict[str, GraphRecord]
    files: dict[FileName, Sha256]
    backend: Literal["onnx", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "aoti"]
    precision: str
    opset: int
    tools: dict[str, str]
    parity: Parity | None
    tensorrt: TensorRTRecord | None = None
    aoti: AotiRecord | None = None
    quantization: Quantization | None = None
