"""What instructions cost on a device: files, and fitting them to traces."""

from .device_costs import DeviceCosts, costs_on, known_devices, load_costs

__all__ = ["DeviceCosts", "costs_on", "known_devices", "load_costs"]
