"""Small worlds that tests share."""

from fedspill.testing.worlds import CLASSES, SPEC, batch, conv_bn, draw_weights, linear, mlp, relu_mlp

__all__ = ["CIFAR", "CLASSES", "SPEC", "batch", "conv_bn", "draw_weights", "linear", "mlp", "relu_mlp"]

CIFAR = (3, 32, 32)
