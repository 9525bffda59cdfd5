"""What a file's tensors do to a layer's weight, written out plainly from the papers, without the program's own code."""

import math

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def changed(W: Tensor, b: Tensor | None, t: Tensors) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer with the file's update in them."""
    t = {ending: value.double() for ending, value in t.items()}
    W = W.double()
    if "diff" in t or "w_norm" in t:
        weight, bias = (t["diff"], t.get("diff_b")) if "diff" in t else (t["w_norm"], t.get("b_norm"))
        return W + weight.view(W.shape), None if bias is None or b is None else b.double() + bias
    formula = next(formula for ending, formula in FORMULAS.items() if ending in t)
    new = formula(W, t)
    if "dora_scale" in t:
        lengths = torch.stack([row.norm() for row in new])
        new = torch.stack([row * m / n for row, m, n in zip(new, t["dora_scale"].flatten(), lengths, strict=True)])
    return new, None


def lora(W: Tensor, t: Tensors) -> Tensor:
    """W + alpha / r · B A; with a core B ×₁ core ×₂ A."""
    up, down = t["lora_up.weight"].flatten(1), t["lora_down.weight"]
    scale = t["alpha"] / down.shape[0]
    if "lora_mid.weight" in t:
        product = torch.einsum("op,pqhw,qi->oihw", up, t["lora_mid.weight"], down.flatten(1))
        return W + product * scale
    return W + (up @ down.flatten(1)).view(W.shape) * scale


def loha(W: Tensor, t: Tensors) -> Tensor:
    """W + alpha / r · (A₁ B₁) ∘ (A₂ B₂)."""
    halves = []
    for number in "12":
        a, b = t[f"hada_w{number}_a"], t[f"hada_w{number}_b"]
        core = t.get(f"hada_t{number}")
        halves.append((a @ b).view(W.shape) if core is None else torch.einsum("pqhw,po,qi->oihw", core, a, b))
    return W + halves[0] * halves[1] * (t["alpha"] / t["hada_w1_b"].shape[0])


def lokr(W: Tensor, t: Tensors) -> Tensor:
    """W + alpha / r · w₁ ⊗ w₂; two whole matrices count as they are."""
    rank = None
    w1 = t.get("lokr_w1")
    if w1 is None:
        w1, rank = t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w1_b"].shape[0]
    w2 = t.get("lokr_w2")
    if w2 is None:
        a, b, rank = t["lokr_w2_a"], t["lokr_w2_b"], t["lokr_w2_b"].shape[0]
        if "lokr_t2" in t:
            w2 = torch.einsum("pqhw,po,qi->oihw", t["lokr_t2"], a, b)
        else:
            w2 = (a @ b).view(a.shape[0], -1, *W.shape[2:])
    blocks = [torch.cat([value * w2 for value in row], dim=1) for row in w1]
    return W + torch.cat(blocks, dim=0) * (1.0 if rank is None else t["alpha"] / rank)


def glora(W: Tensor, t: Tensors) -> Tensor:
    """W + alpha / r · (W a₁ a₂ + b₁ b₂), the first over the inputs at each place of the kernel."""
    a1, a2, b1, b2 = (t[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    places = W.flatten(2) if W.ndim > 2 else W.unsqueeze(-1)
    inputs = torch.stack([places[..., k] @ a1 @ a2 for k in range(places.shape[-1])], dim=-1).view(W.shape)
    return W + (inputs + (b1 @ b2).view(W.shape)) * (t["alpha"] / a2.shape[0])


def ia3(W: Tensor, t: Tensors) -> Tensor:
    """Each input's, or each output's, weights times 1 + w."""
    w, side = t["weight"].flatten(), 1 if t["on_input"] else 0
    return W * (1 + w).view([-1 if axis == side else 1 for axis in range(W.ndim)])


def oft(W: Tensor, t: Tensors) -> Tensor:
    """Blocks of outputs, or in BOFT pairs of half blocks that are ever farther apart, turned by (I + Q)(I - Q)⁻¹."""
    blocks = t["oft_blocks"]
    Q = blocks - blocks.transpose(-1, -2)
    limit = t["alpha"] * len(W)
    if limit > 0 and Q.norm() > limit:
        Q = Q * limit / Q.norm()
    identity = torch.eye(Q.shape[-1], dtype=Q.dtype)
    R = (identity + Q) @ torch.linalg.inv(identity - Q)
    new = W.clone()
    if blocks.ndim == 3:
        side = blocks.shape[-1]
        for number, turn in enumerate(R):
            rows = slice(number * side, (number + 1) * side)
            new[rows] = (turn.T @ W[rows].flatten(1)).view(W[rows].shape)
    else:
        for stage in range(blocks.shape[0]):
            new = _butterfly(new, R[stage], stage)
    return new * t["rescale"].view(-1, *[1] * (W.ndim - 1)) if "rescale" in t else new


def _butterfly(W: Tensor, R: Tensor, stage: int) -> Tensor:
    """Outputs i and i + 2^stage · side / 2 meet; the list of pairs is cut into blocks in its order."""
    count, side, _ = R.shape
    stride = side // 2 * 2**stage
    order = [group * 2 * stride + place + half * stride for group in range(len(W) // (2 * stride))
             for place in range(stride) for half in (0, 1)]  # fmt: skip
    assert len(order) == count * side == len(W)
    assert math.log2(count).is_integer()
    new = torch.empty_like(W)
    for number, turn in enumerate(R):
        rows = order[number * side : (number + 1) * side]
        new[rows] = (turn @ W[rows].flatten(1)).view(W[rows].shape)
    return new


FORMULAS = {
    "lora_up.weight": lora, "hada_w1_a": loha, "lokr_w1": lokr, "lokr_w1_a": lokr, "a1.weight": glora, "on_input": ia3,
    "oft_blocks": oft,
}  # fmt: skip
