"""Telling a compiler's pass from a real one."""

import torch

# torch < 2.3 has it under its older name only
is_compiling = getattr(torch.compiler, "is_compiling", torch._dynamo.is_compiling)
