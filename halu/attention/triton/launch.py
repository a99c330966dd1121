"""Which kernels a call runs: one query a row of the batch decodes, several are rows of a prompt.

Triton launches on the thread's current device, which is made that of the tensors.
"""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from halu.attention.inputs import Inputs
from halu.attention.redistribution import Epilogue, Redistribution
from halu.attention.triton.arguments import check, close, constants, rows_of, source
from halu.attention.triton.configs import FUSED, Config, pick
from halu.attention.triton.decode import Found, Parts, join_kernel, split_kernel
from halu.attention.triton.prompt import mass_kernel, output_kernel
from halu.attention.triton.tile import Rows, Source
from halu.errors import BadInput


def grouped(inputs: Inputs, config: Config | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Masses [B, H, Q, G], partial outputs [B, H, Q, G, D] and log-sum-exp [B, H, Q], float32.

    Raises:
        Unsupported: if the kernels do not do this.
    """
    check(inputs)
    with torch.cuda.device_of(inputs.q):
        if inputs.q.shape[2] == 1:
            return _decoded_parts(_last(inputs), config)
        prompt = _Prompt(inputs, config)
        mass, lse = prompt.masses()
        single = torch.eye(inputs.groups, device=mass.device)
        one = [prompt.outputs(lse, w.expand(mass.shape), torch.float32) for w in single]
        return mass, torch.stack(one, 3), lse


def weighted(
    inputs: Inputs,
    epilogue: Epilogue | None,
    *,
    out: Tensor | None = None,
    scratch: Parts | None = None,
    config: Config | None = None,
) -> Tensor:
    """Outputs [B, H, Q, D] under the epilogue's weights.

    Args:
        inputs: the call.
        epilogue: weights from masses; none: 1. For one query a row of the batch a `Redistribution`
            is part of the kernel.
        out: where the outputs of one query a row go; none: new memory.
        scratch: what `scratch_for` gave for a call of these sizes; none: new memory.
        config: tile sizes; none: the stored ones.

    Raises:
        Unsupported: if the kernels do not do this.
        BadInput: if the redistribution is of other groups.
    """
    check(inputs)
    with torch.cuda.device_of(inputs.q):
        if inputs.q.shape[2] == 1:
            return _decoded(_last(inputs), epilogue, out, scratch, config)
        prompt = _Prompt(inputs, config)
        if epilogue is None:
            return prompt.outputs(None, None, inputs.q.dtype)
        mass, lse = prompt.masses()
        return prompt.outputs(lse, epilogue(mass), inputs.q.dtype)


def scratch_for(inputs: Inputs, config: Config | None = None) -> Parts:
    """Memory for what the splits of one query a row of the batch leave."""
    config = config or _picked(inputs)
    b, h, _, d = inputs.q.shape
    shape, where = (b, h, inputs.groups, triton.cdiv(inputs.keys, config.chunk)), inputs.q.device
    top, total = torch.empty(shape, device=where), torch.empty(shape, device=where)
    return Parts(top, total, torch.empty((*shape, d), device=where))


def _decoded(
    inputs: Inputs,
    epilogue: Epilogue | None,
    out: Tensor | None,
    scratch: Parts | None,
    config: Config | None,
) -> Tensor:
    out = torch.empty_like(inputs.q) if out is None else out
    if epilogue is None or isinstance(epilogue, Redistribution):
        table = None if epilogue is None else _table(epilogue, inputs)
        _decode(inputs, Found(rows_of(out), None, None, None), table, scratch, config)
        return out
    mass, pieces, _ = _decoded_parts(inputs, config, scratch)
    weights = epilogue(mass)
    weighed = pieces if weights is None else pieces * weights.unsqueeze(-1)
    return out.copy_(weighed.sum(3))


def _decoded_parts(
    inputs: Inputs, config: Config | None, scratch: Parts | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    b, h, _, d = inputs.q.shape
    where, groups = inputs.q.device, inputs.groups
    mass = torch.empty(b, h, 1, groups, device=where)
    pieces = torch.empty(b, h, 1, groups, d, device=where)
    lse = torch.empty(b, h, 1, device=where)
    _decode(inputs, Found(None, mass, pieces, lse), None, scratch, config)
    return mass, pieces, lse


def _decode(
    inputs: Inputs, found: Found, table: Rows | None, scratch: Parts | None, config: Config | None
) -> None:
    config = config or _picked(inputs)
    scratch = scratch or scratch_for(inputs, config)
    sizes = constants(inputs, config)
    given = source(inputs)
    lanes, heads = inputs.q.shape[:2]
    splits, groups = scratch.top.shape[-1], inputs.groups
    pairs = sizes["SHARE"] * groups
    rows = min(config.rows, max(16, triton.next_power_of_2(pairs)))
    shared = {name: sizes[name] for name in ("G", "WIDTH", "D")} | {"CHUNK": config.chunk}
    grid = (lanes, inputs.k.shape[1] * triton.cdiv(pairs, rows), splits)
    both = {name: sizes[name] for name in ("SHARE", "PAGE", "SPANS", "N")}
    split_kernel[grid](given, scratch, R=rows, **shared, **both, **config.launch)
    join_kernel[(lanes, heads)](
        given,
        scratch,
        table,
        found,
        splits,
        GROUPS=triton.next_power_of_2(groups),
        S=triton.next_power_of_2(splits),
        **shared,
        **FUSED,
    )


class _Prompt:
    """The passes over one prompt's chosen rows."""

    def __init__(self, inputs: Inputs, config: Config | None) -> None:
        inputs = replace(inputs, q=close(inputs.q), k=close(inputs.k), v=close(inputs.v))
        q = inputs.q
        self.inputs = inputs
        self.config = config or pick("prompt", q.device, q.shape[-1], q.dtype, inputs.keys)
        self.given: Source = source(inputs)
        self.position: Tensor | None = None
        if inputs.first is not None:
            stop = inputs.first + q.shape[2]
            self.position = torch.arange(inputs.first, stop, dtype=torch.int32, device=q.device)
        b, h, n, _ = q.shape
        self.grid = (triton.cdiv(n, self.config.rows), h, b)

    def masses(self) -> tuple[Tensor, Tensor]:
        """Masses [B, H, Q, G] and log-sum-exp [B, H, Q]."""
        q, groups = self.inputs.q, self.inputs.groups
        mass = torch.empty(*q.shape[:3], groups, device=q.device)
        lse = torch.empty(q.shape[:3], device=q.device)
        mass_kernel[self.grid](
            self.given,
            self.position,
            rows_of(mass),
            rows_of(lse.unsqueeze(-1)),
            q.shape[2],
            GROUPS=triton.next_power_of_2(groups),
            **constants(self.inputs, self.config),
        )
        return mass, lse

    def outputs(self, lse: Tensor | None, weights: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Outputs [B, H, Q, D] under weights [B, H, Q, G], which need the log-sum-exp."""
        q = self.inputs.q
        out = torch.empty(q.shape, dtype=dtype, device=q.device)
        known = weights is not None and lse is not None
        output_kernel[self.grid](
            self.given,
            self.position,
            rows_of(lse.unsqueeze(-1)) if known and lse is not None else None,
            rows_of(close(weights.float())) if known and weights is not None else None,
            rows_of(out),
            q.shape[2],
            **constants(self.inputs, self.config),
        )
        return out


def _picked(inputs: Inputs) -> Config:
    q = inputs.q
    return pick("decode", q.device, q.shape[-1], q.dtype, inputs.keys)


def _last(inputs: Inputs) -> Inputs:
    """One query a row: what it may see of a causal prompt is a stretch of keys."""
    inputs = replace(inputs, q=close(inputs.q), k=close(inputs.k), v=close(inputs.v))
    if inputs.first is None:
        return inputs
    lanes, where = inputs.q.shape[0], inputs.q.device
    stop = torch.full((lanes,), inputs.first + 1, dtype=torch.int32, device=where)
    if inputs.within is None:
        return replace(inputs, first=None, within=(torch.zeros_like(stop), stop))
    start, own = inputs.within
    return replace(inputs, first=None, within=(start, torch.minimum(own, stop)))


def _table(epilogue: Redistribution, inputs: Inputs) -> Rows:
    lanes, heads = inputs.q.shape[:2]
    shape = (lanes, heads, 4, inputs.groups)
    table = epilogue.table
    if table.shape[-2:] != shape[-2:]:
        raise BadInput(
            f"A redistribution {tuple(table.shape)} does not fit {inputs.groups} groups."
        )
    on_device = table.to(device=inputs.q.device, dtype=torch.float32)
    return rows_of(close(on_device.expand(shape)))
