"""A bidirectional LSTM over right-padded sequences.

Legend: N sequences, K steps, D width of the input, H width of the state.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class BidirectionalLSTM(keras.layers.Layer):
    """(N, K, D) -> states (N, K, 2 H), forward first, and the last states of both directions (N, 2 H).

        i, f, o = sigmoid(x W + h U + b),  g = tanh(x W + h U + b),  c' = f c + i g,  h' = o tanh(c')

    A padded step leaves the state as it is: the backward direction begins at the last real step, and what is padded is
    ignored. Both directions step together. As in `recurrent.GRU`, the gradient is written by hand, so that the way back
    has one product a step and every backend can compile it; the recurrence is in float32.

    Args:
        units: H.

    Call arguments:
        x: (N, K, D).
        real: (N, K) bool, False on padding.

    References:
        Hochreiter & Schmidhuber 1997, Long short-term memory. Schuster & Paliwal 1997, Bidirectional recurrent neural
        networks.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, x_shape: Any, real_shape: Any = None) -> None:
        """Creates the weights of both directions, gates in the order i, f, o, g, uniform within +-1 / sqrt(H)."""
        bound = self.units**-0.5
        uniform = keras.initializers.RandomUniform(-bound, bound)
        for name, rows in {"kernel": x_shape[-1], "recurrent_kernel": self.units}.items():
            setattr(self, name, self.add_weight(shape=(2, rows, 4 * self.units), initializer=uniform, name=name))
        self.bias = self.add_weight(shape=(2, 4 * self.units), initializer="zeros", name="bias")

    def call(self, x: Any, real: Any) -> tuple[Any, Any]:
        both = ops.transpose(ops.stack([x, ops.flip(x, axis=1)]), (2, 0, 1, 3))  # (K, 2, N, D)
        moves = ops.transpose(ops.stack([real, ops.flip(real, axis=1)]), (2, 0, 1))[..., None]  # (K, 2, N, 1)
        kernel, bias = (ops.cast(weight, self.compute_dtype) for weight in (self.kernel, self.bias))
        gates = ops.matmul(both, kernel) + bias[:, None]
        states = ops.custom_gradient(_lstm)(
            ops.cast(gates, "float32"), ops.cast(moves, "float32"), ops.cast(self.recurrent_kernel, "float32")
        )
        states = ops.cast(states, self.compute_dtype)  # (K, 2, N, H)
        forward, backward = states[:, 0], ops.flip(states[:, 1], axis=0)
        outputs = ops.transpose(ops.concatenate([forward, backward], axis=-1), (1, 0, 2))
        return outputs, ops.concatenate([states[-1, 0], states[-1, 1]], axis=-1)


def _lstm(gates: Any, moves: Any, kernel: Any) -> tuple[Any, Any]:
    """States (K, 2, N, H) of the inputs' part `gates` (K, 2, N, 4 H), and the function of their gradient.

    Args:
        moves: (K, 2, N, 1) 1 where a step is real, else 0.
        kernel: (2, H, 4 H).
    """
    width = kernel.shape[1]

    def cell(memory, gate):
        """The gates i, f, o, g and the new c."""
        opened, fresh = ops.sigmoid(gate[..., : 3 * width]), ops.tanh(gate[..., 3 * width :])
        i, f, o = (opened[..., n * width : (n + 1) * width] for n in range(3))
        return i, f, o, fresh, f * memory + i * fresh

    def forward(both, step):
        gate, move = step
        state, memory = both[..., :width], both[..., width:]
        _, _, o, _, new = cell(memory, gate + ops.matmul(state, kernel))
        both = both + move * (ops.concatenate([o * ops.tanh(new), new], axis=-1) - both)
        return both, both

    start = ops.zeros_like(gates[0, ..., : 2 * width])
    both = ops.scan(forward, start, (gates, moves))[1]  # states and memories (K, 2, N, 2 H)

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        # All that is known before the way back is computed for all steps at once.
        before = ops.concatenate([start[None], both[:-1]], axis=0)
        state, memory = before[..., :width], before[..., width:]
        i, f, o, g, new = cell(memory, gates + ops.matmul(state, kernel))
        squashed = ops.tanh(new)
        by_memory = o * (1 - ops.square(squashed))  # of h' by c'
        parts = [g * i * (1 - i), memory * f * (1 - f), squashed * o * (1 - o), i * (1 - ops.square(g))]
        by_gates = ops.concatenate(parts, axis=-1)  # of c', and for the third of h', by what goes into the gates
        back = ops.transpose(kernel, (0, 2, 1))

        def of_gates(total, move, through, share):
            of_state, of_memory = move * total[..., :width], move * total[..., width:]
            of_memory = of_memory + of_state * through
            return of_memory, ops.concatenate([of_memory, of_memory, of_state, of_memory], axis=-1) * share

        def backward(later, step):
            above, move, through, share, forget = step
            total = later + above
            of_memory, of_gate = of_gates(total, move, through, share)
            earlier = ops.concatenate([ops.matmul(of_gate, back), of_memory * forget], axis=-1)
            return (1 - move) * total + earlier, total

        above = ops.concatenate([upstream, ops.zeros_like(upstream)], axis=-1)
        total = ops.scan(backward, start, (above, moves, by_memory, by_gates, f), reverse=True)[1]
        of_gate = of_gates(total, moves, by_memory, by_gates)[1]  # (K, 2, N, 4 H)
        of_kernel = ops.sum(ops.matmul(ops.transpose(state, (0, 1, 3, 2)), of_gate), axis=0)
        return of_gate, None, of_kernel

    return both[..., :width], gradient
