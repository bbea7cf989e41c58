"""The mathematics: pure functions on tensors. Imports torch and nothing else.

Tensors are [batch, tokens] unless said; a mask is bool and True on response tokens. Whatever stands behind
the mask, NaN too, changes nothing in value or gradient: it is replaced *before* any arithmetic, because
0 · NaN is NaN, and so is the gradient of a `where` whose other branch was computed from NaN.
"""
