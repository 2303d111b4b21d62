"""What a driver's name tells."""

from __future__ import annotations


def is_vfio_driver(driver: str | None) -> bool:
    """vfio-pci, or a vendor's variant of it (`mlx5_vfio_pci`, `nvidia-vgpu-vfio`); not without a driver."""
    return driver is not None and "vfio" in driver.replace("_", "-").split("-")
