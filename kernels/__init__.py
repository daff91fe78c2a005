"""Fast bodies of readable functions: cpu.py in C for processors, gpu.py in Triton for GPUs."""
