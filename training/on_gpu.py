"""`python -m jointrt.training.on_gpu`: training on a card that is lent for minutes and reached by folders alone.

Three steps, each a command:

- `pack` writes training data as archives small enough to be carried one by one, its images as JPEG of lower quality;
- `train`, there, unpacks the archives that it was given into a folder that stays, trains as soon as all are there, goes
  on from where it was, and delivers a whole checkpoint every minute, in parts;
- `join` puts a delivered checkpoint together again, so that `jointrt train --resume` or another `train` goes on.

Needs there: torch with CUDA, lightning-fabric, pillow, rich, safetensors, tensorboard, matplotlib. From a bare tree,
call it through a symbolic link named `jointrt` whose parent is on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from ..errors import DatasetError, JointError, WeightsError
from ..files import replace_file
from .command import TrainRequest, train
from .files import CHECKPOINT, LAST, SETTINGS
from .record import LOG

MIB = 1 << 20
PART = 15 * MIB
"""Bytes of a delivered file at most, a little under what comes back."""
WHOLE = "whole.json"
"""Written last: names and digests of a checkpoint's parts."""
HALF = "weights.safetensors"
_RUN = "run"


def pack(folders: Iterable[Path], out: Path, room: int, quality: int) -> list[Path]:
    """Write the files of some data folders as archives NAME-K-of-N.tar.

    Args:
        folders: of training data; each keeps its name.
        out: where the archives go.
        room: bytes of one archive at most.
        quality: of the JPEGs; masks and lists stay as they are.

    Raises:
        DatasetError: there is nothing to pack, or a file does not fit.
    """
    pieces: list[list[tuple[str, bytes]]] = [[]]
    used = 0
    for name, content in _lightened(folders, quality):
        size = 512 * (2 + -(-len(content) // 512))
        if size + 10240 > room:
            raise DatasetError(f"{name} takes {len(content)} bytes: expected less than an archive's {room}")
        if used + size + 10240 > room:
            pieces.append([])
            used = 0
        pieces[-1].append((name, content))
        used += size
    if not pieces[0]:
        raise DatasetError("there are no files to pack: expected folders of training data")
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, files in enumerate(pieces, start=1):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        paths.append(out / f"data-{index}-of-{len(pieces)}.tar")
        replace_file(paths[-1], buffer.getvalue())
    return paths


def _lightened(folders: Iterable[Path], quality: int) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            if path.suffix.lower() in (".jpg", ".jpeg"):
                buffer = io.BytesIO()
                with Image.open(path) as image:
                    image.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
                content = min(content, buffer.getvalue(), key=len)
            yield f"{folder.name}/{path.relative_to(folder).as_posix()}", content


def unpack(carried: Path, kept: Path) -> list[str]:
    """Unpack what was carried, each archive once; the names of archives that are still missing.

    Raises:
        DatasetError: no archive was ever carried, or one is damaged.
    """
    data = kept / "data"
    data.mkdir(parents=True, exist_ok=True)
    for path in sorted(carried.glob("data-*-of-*.tar")):
        mark = kept / f"{path.name}.done"
        if mark.exists():
            continue
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    _unpack(archive, member, data)
        except (tarfile.TarError, OSError) as error:
            raise DatasetError(f"{path} cannot be unpacked ({error}): expected an archive of `pack`") from None
        replace_file(mark, b"")
    done = {mark.name.removesuffix(".done") for mark in kept.glob("data-*-of-*.tar.done")}
    if not done:
        raise DatasetError(f"{carried} holds no archive: expected data-1-of-N.tar of `pack`")
    count = int(next(iter(done)).removesuffix(".tar").rpartition("-")[2])
    return sorted({f"data-{index}-of-{count}.tar" for index in range(1, count + 1)} - done)


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """One file; `extractall` knows which members are safe only from Python 3.11.4 on."""
    target, content = folder / member.name, archive.extractfile(member) if member.isfile() else None
    if content is None or not target.resolve().is_relative_to(folder.resolve()):
        raise tarfile.TarError(f"{member.name} is no file, or leads out of the folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.read())


def deliver(run: Path, out: Path) -> Path | None:
    """Copy a run's newest checkpoint in parts, its weights in half precision and its log; None before there is one.

    The folder of parts counts once it holds `whole.json`; older ones are then removed.
    """
    if not all((run / name).exists() for name in (CHECKPOINT, LAST, LOG)):
        return None
    content = (run / CHECKPOINT).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    folder = out / f"checkpoint-{digest[:12]}"
    if (folder / WHOLE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for start in range(0, len(content), PART):
        names.append(f"part-{len(names):02d}")
        replace_file(folder / names[-1], content[start : start + PART])
    for name in (SETTINGS, LOG):
        replace_file(folder / name, (run / name).read_bytes())
    replace_file(folder / HALF, _halved(run / LAST))
    replace_file(folder / WHOLE, json.dumps({"parts": names, "sha256": digest}).encode())
    for older in out.glob("checkpoint-*"):
        if older != folder:
            shutil.rmtree(older)
    return folder


def _halved(weights: Path) -> bytes:
    with safe_open(weights, "pt") as file:
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118
        return save(tensors, file.metadata())


def join(delivered: Path, run: Path) -> None:
    """Make a run's folder from a delivered checkpoint.

    Raises:
        WeightsError: it is not whole.
    """
    try:
        whole = json.loads((delivered / WHOLE).read_text(encoding="utf-8"))
        content = b"".join((delivered / Path(name).name).read_bytes() for name in whole["parts"])
        if hashlib.sha256(content).hexdigest() != whole["sha256"]:
            raise ValueError("its parts do not fit together")
        rest = {name: (delivered / name).read_bytes() for name in (SETTINGS, LOG)}
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{delivered} holds no whole checkpoint ({error}): expected parts and {WHOLE}") from None
    run.mkdir(parents=True, exist_ok=True)
    replace_file(run / CHECKPOINT, content)
    for name, text in rest.items():
        replace_file(run / name, text)


def train_there(arguments: argparse.Namespace) -> str:
    """Unpack, and train if everything is there; a line that says how far that came.

    Raises:
        JointError: see `unpack`, `join` and `train`.
    """
    missing = unpack(arguments.carried, arguments.kept)
    if missing:
        return f"unpacked; still to be carried: {', '.join(missing)}"
    run = arguments.kept / _RUN
    if arguments.go_on is not None and not (run / CHECKPOINT).exists():
        join(arguments.go_on, run)
    ended = threading.Event()

    def keep_delivering() -> None:
        while not ended.wait(arguments.every):
            deliver(run, arguments.out)

    thread = threading.Thread(target=keep_delivering, daemon=True)
    thread.start()
    try:
        outcome = train(
            TrainRequest(
                preset=arguments.preset,
                data=tuple(sorted(p for p in (arguments.kept / "data").iterdir() if p.is_dir())),
                out=run,
                init=arguments.init,
                resume=(run / CHECKPOINT).exists(),
                minutes=arguments.minutes,
                device=arguments.device,
                precision=arguments.precision,
                steps=arguments.steps,
                batch=arguments.batch,
                rate=arguments.rate,
            )
        )
    finally:
        ended.set()
        thread.join()
        deliver(run, arguments.out)
    return f"{outcome.step} of {outcome.steps} steps; best J of mini-sequences {outcome.best_J:.4f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write training data as archives")
    packing.add_argument("folders", nargs="+", type=Path)
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--room", type=float, default=27, help="MiB of an archive at most (27)")
    packing.add_argument("--quality", type=int, default=60, help="of the JPEGs (60)")
    there = commands.add_parser("train", help="unpack, train, deliver")
    there.add_argument("--carried", type=Path, required=True, help="folder of the archives")
    there.add_argument("--kept", type=Path, required=True, help="folder that stays between calls")
    there.add_argument("--out", type=Path, required=True, help="folder that comes back")
    there.add_argument("--init", type=Path, help="weights to start from")
    there.add_argument("--go-on", type=Path, help="a delivered checkpoint to go on from")
    there.add_argument("--preset", default="lite-finetune")
    there.add_argument("--minutes", type=float, default=8.0)
    there.add_argument("--every", type=float, default=60.0, help="seconds between deliveries (60)")
    there.add_argument("--device", default="cuda")
    there.add_argument("--precision", default="bf16-mixed")
    there.add_argument("--steps", type=int)
    there.add_argument("--batch", type=int)
    there.add_argument("--rate", type=float)
    joining = commands.add_parser("join", help="make a run's folder from a delivered checkpoint")
    joining.add_argument("delivered", type=Path)
    joining.add_argument("run", type=Path)
    return parser.parse_args()


def main() -> int:
    """Run a command; a `JointError` becomes one line and exit code 2."""
    arguments = _parse()
    try:
        if arguments.command == "pack":
            for path in pack(arguments.folders, arguments.out, int(arguments.room * MIB), arguments.quality):
                print(f"{path}: {path.stat().st_size / MIB:.1f} MiB")
        elif arguments.command == "join":
            join(arguments.delivered, arguments.run)
        else:
            print(train_there(arguments), flush=True)
    except JointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
