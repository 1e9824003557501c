"""Peak rates of known devices, for MFU."""

_BF16_TFLOPS = {
    # dense (no sparsity), NVIDIA's data sheets: "NVIDIA A100 Tensor Core GPU", "NVIDIA H100 Tensor
    # Core GPU", "NVIDIA H200 Tensor Core GPU", "NVIDIA L40S"; H800 and A800 compute as H100, A100
    "A100": 312.0,
    "A800": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "H200 NVL": 835.0,
    "H200": 989.4,
    "L40S": 362.0,
}


def peak_tflops(device_name: str | None) -> float | None:
    """Dense bf16 TFLOP/s of a GPU by its name, None if it is not in the table.

    It is the measure for FP8 too, so that figures compare.
    """
    for name, peak in _BF16_TFLOPS.items():
        if device_name is not None and name in device_name:
            return peak
    return None
