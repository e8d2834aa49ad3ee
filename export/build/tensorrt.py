"""`jointrt build`: a bundle -> TensorRT engines, by one path for TensorRT 10.13 to 11 and TensorRT-RTX.

Networks are strongly typed: what is computed in which precision stands in the graph (see `precision`).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import onnx

from ...errors import BundleError, DeviceError, SettingsError
from ...files import replace_file
from ...runtime.bundle import Bundle
from ...runtime.device.cuda_driver import query_cuda_driver
from ...runtime.device.engines.library import MODULES, TensorRTBackend, error_logger, import_tensorrt
from ...runtime.manifest import GraphRecord, Port, TensorRTRecord
from ..checkpoint.network import bundle_network
from ..graphs.few_shot_loop import LOOPS, write_loops
from ..graphs.fixed_memory import gpu_graphs
from ..parity.engines import measure_on_gpu, why_not_here
from .bundle import check_source, derived_manifest, replaced_folder, write_judged, write_manifest
from .int8 import misplaced_pairs, quantize_graphs
from .onnx_graph import export_graph
from .precision import HALF, misplaced_islands, port_type, to_half
from .quantize import QuantizeOptions

Precision = Literal["fp16", "fp32", "int8"]


def parse_targets(text: str | None) -> tuple[int, ...]:
    """Compute capabilities: "sm89,sm120" -> (89, 120); none for the GPU of this machine.

    Raises:
        SettingsError: it is no such text.
    """
    if text is None:
        return ()
    targets = []
    for name in text.split(","):
        match = re.fullmatch(r"sm_?(\d{2,3})", name.strip().lower())
        if match is None:
            raise SettingsError(f"target is {name.strip()!r}: expected compute capabilities, for example sm89,sm120")
        targets.append(int(match[1]))
    return tuple(dict.fromkeys(targets))


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How engines are built.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        precision: "fp16", with fp32 islands; "fp32"; "int8", which is fp16 with convolutions in 8 bits.
        targets: compute capabilities as whole numbers, 89 for 8.9; none for this machine's GPU.
        max_objects: largest number of objects in one call; the profile is tuned for one.
        memory: slots of the memory.
    """

    backend: TensorRTBackend
    precision: Precision
    targets: tuple[int, ...]
    max_objects: int
    memory: int

    @classmethod
    def check(cls, *, backend: str, precision: str, targets: tuple[int, ...], max_objects: int, memory: int) -> Self:
        """Options whose values are in range.

        Raises:
            SettingsError: a value is not.
        """
        if backend not in MODULES:
            raise SettingsError(f"backend is {backend!r}: expected one of {', '.join(MODULES)}")
        if precision not in get_args(Precision):
            raise SettingsError(f"precision is {precision!r}: expected one of {', '.join(get_args(Precision))}")
        for name, value, largest in (("max-objects", max_objects, 255), ("memory", memory, 256)):
            if not 1 <= value <= largest:
                raise SettingsError(f"{name} is {value}: expected 1 to {largest}")
        if targets and backend == "tensorrt":
            raise SettingsError(
                "TensorRT builds for the GPU of the machine it runs on: leave --target out, or give "
                "--backend tensorrt-rtx, which builds for others"
            )
        return cls(backend, precision, targets, max_objects, memory)  # type: ignore[arg-type]


class EngineBuilder:
    """Builds engines with one TensorRT library.

    Raises:
        DependencyError: the library is not installed.
        DeviceError: it needs a GPU that is not there, or does not know a target.
    """

    def __init__(self, options: BuildOptions, timing_cache: Path) -> None:
        self.options = options
        self.timing_cache = timing_cache
        here = None if options.targets else self._this_gpu()
        self.trt = import_tensorrt(options.backend)
        if here is not None and options.backend == "tensorrt-rtx":
            self._capability(here)
        self.capabilities = [self._capability(target) for target in options.targets]
        self.messages: list[str] = []
        self.logger = error_logger(self.trt, self.messages)
        self.builder = self.trt.Builder(self.logger)

    @staticmethod
    def _this_gpu() -> int:
        """Compute capability of the machine's first GPU, 89 for 8.9."""
        driver = query_cuda_driver()
        if driver.problem is not None:
            raise DeviceError(
                f"engines for this machine's GPU cannot be built: {driver.problem}; on another machine "
                "`jointrt build --backend tensorrt-rtx --target sm89` builds for a named GPU"
            )
        major, minor = driver.devices[0].compute_capability
        return 10 * major + minor

    def _capability(self, target: int) -> Any:
        known = self.trt.ComputeCapability
        if not hasattr(known, f"SM{target}"):
            names = sorted(n.lower() for n in dir(known) if re.fullmatch(r"SM\d+", n))
            raise DeviceError(f"TensorRT-RTX {self.trt.__version__} does not build for sm{target}: it knows {names}")
        return getattr(known, f"SM{target}")

    def build(self, graph: Path, destination: Path) -> None:
        """An ONNX file -> an engine file.

        Raises:
            BundleError: the library refuses the graph; its own words are given.
        """
        trt = self.trt
        network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(graph)):
            reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
            raise BundleError(f"{graph.name} is not understood by {self._name}: {reasons[:300]}")
        self.messages.clear()
        config = self.builder.create_builder_config()
        if hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        if self.capabilities:
            config.num_compute_capabilities = len(self.capabilities)
            for index, capability in enumerate(self.capabilities):
                if not config.set_compute_capability(capability, index):
                    raise DeviceError(f"{self._name} refuses the target {capability}")
        self._set_profile(network, config)
        cache = self._load_cache(config)
        serialized = self.builder.build_serialized_network(network, config)
        if serialized is None:
            raise BundleError(f"{self._name} could not build {graph.name}: {'; '.join(self.messages)[:500]}")
        destination.write_bytes(bytes(serialized))
        self._keep_cache(config, cache)

    @property
    def _name(self) -> str:
        return f"{self.options.backend} {self.trt.__version__}"

    def _set_profile(self, network: Any, config: Any) -> None:
        """One object at least and at best, `max_objects` at most."""
        profile = self.builder.create_optimization_profile()
        for index in range(network.num_inputs):
            port = network.get_input(index)
            shape = tuple(port.shape)
            if -1 in shape:
                sizes = [tuple(n if d == -1 else d for d in shape) for n in (1, 1, self.options.max_objects)]
                profile.set_shape(port.name, *sizes)
        if config.add_optimization_profile(profile) < 0:
            raise BundleError(f"{self._name} refuses the profile of 1 to {self.options.max_objects} objects")

    def _load_cache(self, config: Any) -> Any:
        """What earlier builds learned of kernels' durations; TensorRT-RTX measures nothing and keeps none."""
        if self.options.backend != "tensorrt":
            return None
        stored = self.timing_cache.read_bytes() if self.timing_cache.is_file() else b""
        cache = config.create_timing_cache(stored)
        return cache if cache is not None and config.set_timing_cache(cache, False) else None

    def _keep_cache(self, config: Any, cache: Any) -> None:
        if cache is None:
            return
        self.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.timing_cache, bytes(config.get_timing_cache().serialize()))

    def record(self) -> TensorRTRecord:
        """What the manifest keeps of the build."""
        driver = query_cuda_driver()
        return TensorRTRecord(
            version=self.trt.__version__,
            compute_capabilities=self.options.targets or (self._this_gpu(),),
            driver_cuda=None if driver.cuda_version is None else "{}.{}".format(*driver.cuda_version),
            objects=(1, 1, self.options.max_objects),
            flags=("strongly_typed", "no_tf32"),
        )


def write_typed(source: Path, record: GraphRecord, precision: Precision, destination: Path) -> GraphRecord:
    """An fp32 ONNX file -> one in a precision, ready to be built.

    Returns:
        The record with the types of the ports, naming the engine's file.

    Raises:
        BundleError: an fp32 island is not in fp32, or a weight does not fit.
    """
    model = onnx.load(source)
    model.graph.name = source.stem
    if precision != "fp32":
        model = to_half(model)
    wrong = [*misplaced_islands(model), *misplaced_pairs(model)]
    if wrong:
        raise BundleError(f"{source.name}: in the wrong precision: {', '.join(wrong[:5])}")
    onnx.save(model, destination)

    def typed(port: Port) -> Port:
        half = precision != "fp32" and port_type(port.name) == HALF
        return port.model_copy(update={"dtype": "float16" if half else "float32"})

    return GraphRecord(
        file=f"{source.stem}.engine",
        inputs=tuple(typed(port) for port in record.inputs),
        outputs=tuple(typed(port) for port in record.outputs),
    )


def build_bundle(
    bundle: Bundle,
    out: Path,
    options: BuildOptions,
    *,
    weights: Path | None = None,
    clips: Sequence[Path] = (),
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Bundle:
    """Engines of all graphs, put in their place with a manifest; nothing is left behind by a build that fails.

    Where they can run, they are compared with the PyTorch network first; elsewhere the manifest says `parity` None.

    Args:
        bundle: an ONNX bundle.
        out: the new bundle's folder.
        options: how to build.
        weights: the weights it was made from, where the bundle does not hold them.
        clips: to calibrate int8 on, beside the shipped one.
        overwrite: replace an existing bundle.
        progress: told what is being done, and how many graphs of how many are finished.

    Raises:
        BundleError: the bundle is no ONNX bundle, holds no weights, a graph cannot be built, or the gate failed.
        DependencyError: the TensorRT library is not installed.
        DeviceError: a GPU is needed and not there.
        OutputError: `out` cannot be written.
    """
    check_source(bundle, out)
    builder = EngineBuilder(options, out.parent / f".{options.backend}.timing-cache")
    net = bundle_network(bundle, weights)
    graphs = gpu_graphs(net, options.memory)
    total = 2 * len(graphs) + len(LOOPS)
    records = {}
    with replaced_folder(out, overwrite) as folder, tempfile.TemporaryDirectory() as scratch:
        traced = {}
        for done, graph in enumerate(graphs):
            progress(f"tracing {graph.name}", done, total)
            traced[graph.name] = export_graph(graph, Path(scratch))
        traced |= write_loops(Path(scratch), traced)
        quantization = None
        if options.precision == "int8":

            def report(step: str) -> None:
                progress(step, len(graphs), total)

            quantization = quantize_graphs(bundle, clips, QuantizeOptions(), Path(scratch), traced, report)
        for done, (name, record) in enumerate(traced.items(), len(graphs)):
            progress(f"building {name}", done, total)
            path = Path(scratch, record.file)
            records[name] = write_typed(path, record, options.precision, path)
            builder.build(path, folder / records[name].file)
            path.unlink()
        progress("done", total, total)
        defaults = {"memory": options.memory, "max_objects": options.max_objects}
        manifest = derived_manifest(
            bundle.manifest,
            folder,
            defaults=bundle.manifest.defaults.model_copy(update=defaults),
            graphs=records,
            backend=options.backend,
            precision=options.precision,
            tensorrt=builder.record(),
            quantization=quantization,
        )
        if why_not_here(manifest) is not None:
            write_manifest(folder, manifest)
        else:
            progress("comparing with the PyTorch network", total, total)
            write_judged(folder, manifest, lambda: measure_on_gpu(Bundle.open(folder), net), options.precision)
    return Bundle.open(out)
