"""The errors a user can meet. Every message says what was found, what was expected and what to do."""


class JointError(Exception):
    """Anything wrong with what the user gave; the command line prints it as one line and exits with code 2."""


class BundleError(JointError):
    """A bundle is missing, incomplete, changed, newer than this version, or does not fit the settings."""


class DatasetError(JointError):
    """A dataset folder lacks frames, masks or sequences, or its parts do not fit one another."""


class DependencyError(JointError):
    """An optional library is not installed; the message names the extra that brings it."""


class DeviceError(JointError):
    """The device, driver or backend asked for cannot be used on this machine."""


class MaskError(JointError):
    """A mask has another size than the frame, no object, too many ids, or comes too late."""


class OutputError(JointError):
    """The output folder or file cannot be written, or holds results that would be lost."""


class SettingsError(JointError):
    """A setting is out of its range or contradicts another one."""


class VideoError(JointError):
    """A video or image folder cannot be read, or holds no frame."""


class WeightsError(JointError):
    """A checkpoint or weights file is truncated, foreign, or its tensors do not fit the model."""


def for_want_of_graphics(error: ImportError) -> DependencyError | None:
    """What to say where OpenCV cannot be loaded because the system has no libGL or libglib; None for other errors."""
    if isinstance(error, ModuleNotFoundError) or not any(name in str(error) for name in ("libGL", "libgthread")):
        return None
    return DependencyError(
        f"OpenCV cannot be loaded ({error}): install the system's library, or put the OpenCV that needs none in its "
        "place with `pip uninstall opencv-python` and `pip install opencv-python-headless`"
    )
