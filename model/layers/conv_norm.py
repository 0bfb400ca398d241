"""A convolution and its batch norm, which are one convolution wherever the norm does not learn."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """A convolution and its batch norm; in eval one convolution, with the norm folded in.

    A convolution that is not computed as PyTorch does has a method `convolve(x, weight, bias)`.

    folds: False computes one after the other in eval too, where what follows depends on the last bit
    """

    def __init__(self, conv: nn.Module, norm: nn.Module, folds: bool = True):
        super().__init__()
        self.conv, self.norm, self.folds = conv, norm, folds

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.folds:
            return self.norm(self.conv(x))
        return convolve(self.conv, x, *self.folded())

    def folded(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the one convolution."""
        conv, norm = self.conv, self.norm
        if norm is None:  # folded for good, by folded_copy
            return conv.weight, conv.bias
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = conv.weight * scale.view(-1, *[1] * (conv.weight.ndim - 1))
        mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        return weight, norm.bias - mean * scale


def convolve(conv: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv(x), but with another weight and bias."""
    if hasattr(conv, "convolve"):
        return conv.convolve(x, weight, bias)
    function = F.conv3d if isinstance(conv, nn.Conv3d) else F.conv2d
    return function(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


@torch.no_grad()
def folded_copy(network: nn.Module) -> nn.Module:
    """A copy for eval alone, whose batch norms are folded once; it does not follow the network's weights."""
    with torch.inference_mode(False):  # inference tensors lack the version counter that some layers read
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            if isinstance(module, ConvNorm) and module.folds:
                module.conv.weight, module.conv.bias = map(nn.Parameter, module.folded())
                module.norm = None
    return network.requires_grad_(False)
