"""How tests have XLA compile: on simulated devices, and quickly."""

import importlib.metadata
import os


def xla_flags(devices):
  """`XLA_FLAGS` of a process with so many simulated CPU devices."""
  flags = [
    f"--xla_force_host_platform_device_count={devices}",
    # A program in 32 parts, each compiled by itself, is for many cores.
    "--xla_cpu_parallel_codegen_split_count=1",
  ]
  quickly = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0") != "0"
  if quickly and importlib.metadata.version("jaxlib").startswith("0.10."):
    # It builds an MLIR context for every fusion. Later releases lack the flag.
    flags.append("--xla_cpu_use_fusion_emitters=false")
  return " ".join(flags)
