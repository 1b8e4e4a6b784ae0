"""The cost file of a device: JSON beside this module, or anywhere."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._core import CostModel

FORMAT = 1
FOLDER = Path(__file__).parent
STAND_IN = "h100"  # for devices whose costs are not known

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceCosts:
    """Values of a device by their names in the core, such as "hbm_gbps" (GB/s) or
    "lm_head.small.load_slot_ns" (nanoseconds). `source` says where they come from. Raises
    ValueError for values that the core does not know, lacks or cannot use.
    """

    device: str
    source: str
    calibrated: bool
    values: dict[str, float]

    def __post_init__(self) -> None:
        from .._core import CostModel

        missing = [name for name in CostModel.fields() if name not in self.values]
        if missing:
            raise ValueError(f"[costs] {self.device}: expected a value for {', '.join(missing)}")
        self.model()

    def model(self) -> CostModel:
        """The values as the core takes them."""
        from .._core import CostModel

        model = CostModel()
        for name, value in self.values.items():
            model.set(name, value)
        return model

    @property
    def label(self) -> str:
        """The device, and a warning if nothing was fitted to its steps."""
        return self.device if self.calibrated else f"{self.device}, uncalibrated"

    def to_json(self) -> str:
        """The text of a cost file."""
        shared: dict[str, float] = {}
        kinds: dict[str, dict[str, float]] = {}
        for name, value in self.values.items():
            kind, dot, field = name.rpartition(".")
            if dot:
                kinds.setdefault(kind, {})[field] = value
            else:
                shared[name] = value
        document = {
            "format": FORMAT,
            "device": self.device,
            "calibrated": self.calibrated,
            "source": self.source,
            "shared": shared,
            "kinds": kinds,
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> DeviceCosts:
        """Reads a cost file; `name` is for errors. Raises ValueError for anything unexpected."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"[costs] {name}: expected JSON: {error}") from error
        _require_keys(
            name, document, {"format", "device", "calibrated", "source", "shared", "kinds"}
        )
        if document["format"] != FORMAT:
            raise ValueError(f"[costs] {name}: expected format {FORMAT}, got {document['format']}")
        values = dict(document["shared"])
        for kind, fields in document["kinds"].items():
            values |= {f"{kind}.{field}": value for field, value in fields.items()}
        return cls(document["device"], document["source"], document["calibrated"], values)


def _require_keys(name: str, document: Any, keys: set[str]) -> None:
    if not isinstance(document, dict) or set(document) != keys:
        raise ValueError(f"[costs] {name}: expected the keys {', '.join(sorted(keys))}")


def known_devices() -> list[str]:
    """Names of the devices whose files come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_costs(name: str) -> DeviceCosts:
    """The costs of a device that the package knows, or of a cost file. Raises ValueError."""
    path = FOLDER / f"{name}.json" if name in known_devices() else Path(name)
    if not path.is_file():
        raise ValueError(
            f"[costs] {name}: expected a cost file or one of {', '.join(known_devices())}"
        )
    return DeviceCosts.from_json(path.read_text(), name)


def costs_on(machine: str) -> DeviceCosts:
    """The costs of `cuda`'s first GPU, which is known by its name; those of an H100 on a GPU of
    another name, as a line in the log says, and on `host`."""
    if machine == "host":
        return load_costs(STAND_IN)
    from .._core import cuda_device

    name = cuda_device().name
    for known in known_devices():
        costs = load_costs(known)
        if costs.device == name:
            return costs
    _log.info("costs: of %s, as there are none of %s", STAND_IN, name)
    return load_costs(STAND_IN)
