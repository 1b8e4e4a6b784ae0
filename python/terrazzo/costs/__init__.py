"""What instructions cost on a device: files, and fitting them to traces."""

from .device_costs import DeviceCosts, known_devices, load_costs

__all__ = ["DeviceCosts", "known_devices", "load_costs"]
