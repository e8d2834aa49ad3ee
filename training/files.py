"""What a run leaves: its settings, checkpoints and weights. Each is written aside and renamed: always whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import OutputError, SettingsError, WeightsError
from ..files import replace_file, write_whole
from ..model.clicks import ClickNet
from ..model.network import JointNet

WEIGHTS_FORMAT = "jointrt-weights/1"
SETTINGS = "settings.json"
CHECKPOINT = "checkpoint.pt"
_BEFORE = "; begun from "
LAST = "last.safetensors"
BEST = "best.safetensors"


def save_weights(path: Path, net: JointNet | ClickNet, source: str) -> None:
    """A weights file that `jointrt export` reads."""
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {"format": WEIGHTS_FORMAT, "config": json.dumps(net.config.to_dict()), "source_name": source}
    write_whole(path, lambda aside: save_file(tensors, aside, metadata))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        WeightsError: it is missing or damaged.
    """
    with _whole(path):
        return load_file(path)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What cannot be read in the block is a `WeightsError`."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}): expected weights to start from"
        ) from None


def source_after(source: str, init: Path | None) -> str:
    """What trained weights say that they come from: this run, and before it whatever those that it began from say.

    Raises:
        WeightsError: the file to begin from is missing or damaged.
    """
    if init is None:
        return source
    with _whole(init), safe_open(init, "pt") as file:
        before = (file.metadata() or {}).get("source_name")
    if before is None:
        return source
    # A run that goes on, or another with the same data, is not told twice.
    return before if before.partition(_BEFORE)[0] == source else f"{source}{_BEFORE}{before}"


def init_weights(net: JointNet, path: Path) -> None:
    """Fill the network from a weights file of all its tensors, or of the trunk's alone (`backbone.*`).

    Raises:
        WeightsError: the file is missing or holds anything else.
    """
    tensors = read_weights(path)
    wanted = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    trunk = {name for name in wanted if name.startswith("backbone.")}
    if set(tensors) not in (wanted, trunk):
        odd = sorted(set(tensors) ^ wanted)
        raise WeightsError(
            f"{path} holds other tensors than this network or its trunk, {len(odd)} differ: {', '.join(odd[:5])}"
        )
    try:
        net.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the preset's network: {' '.join(str(error).split())}") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `RunFolder.save` wrote; nothing in the file is run.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist: there is nothing to resume; leave --resume out") from None
    except Exception as error:
        raise WeightsError(f"{path} is no whole checkpoint of `jointrt train`: {error}") from None
    return state


class RunFolder:
    """The folder of one run.

    Attributes:
        path: where it lies.
        best_J: the best validation score whose weights are kept; NaN before there is one.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool) -> None:
        """Nothing is written yet.

        Args:
            path: of the folder.
            settings: of the run, as JSON can hold them.
            resume: whether the run that lies there goes on.

        Raises:
            OutputError: there is no run to resume, or one that is not to be resumed.
            SettingsError: the run there had other settings.
        """
        self.path = path
        self.best_J = math.nan
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        file = path / SETTINGS
        if not resume:
            if file.exists():
                raise OutputError(f"{path} holds a run: give --resume to go on, or another --out")
            return
        if not file.is_file():
            raise OutputError(f"{path} holds no run: nothing to resume; leave --resume out")
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(name for name, value in self._settings.items() if value != before.get(name))
        if changed:
            raise SettingsError(
                f"the run in {path} had other settings: {', '.join(changed)}; give the same, or another --out"
            )

    def begin(self) -> None:
        """Make the folder and write the settings.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}; choose another --out") from None
        replace_file(self.path / SETTINGS, (json.dumps(self._settings, indent=2) + "\n").encode())

    def restore(self) -> dict[str, Any]:
        """The trainer's state in the checkpoint; `best_J` is taken up. Errors as of `load_checkpoint`."""
        state = load_checkpoint(self.path / CHECKPOINT)
        self.best_J = float(state["best_J"])
        trainer: dict[str, Any] = state["trainer"]
        return trainer

    def save(self, trainer: dict[str, Any]) -> None:
        """The checkpoint to go on from."""
        write_whole(
            self.path / CHECKPOINT, lambda aside: torch.save({"trainer": trainer, "best_J": self.best_J}, aside)
        )

    def is_best(self, score: float) -> bool:
        """Whether a validation score is the best so far, and no NaN; it is remembered then."""
        if math.isnan(score) or score <= self.best_J:
            return False
        self.best_J = score
        return True

    @property
    def weights(self) -> Path:
        """The best weights where there was a validation, else the last."""
        best = self.path / BEST
        return best if best.exists() else self.path / LAST
