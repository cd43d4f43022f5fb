"""Recurrent networks as loops over rows and steps in float64, and their gradients by complex steps.

f(x + ih) = f(x) + ih f'(x) + O(h^2) for an analytic f: the derivative is the imaginary part over h, exact for a tiny h
since nothing is subtracted.
"""

import numpy as np

STEP = 1e-100


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(params, x, state):
    h, c = state
    i, f, g, o = np.split(x @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(params, x, state):
    (h,) = state
    u_r, u_z, u_n = np.split(x @ params["kernel"] + params["bias"], 3)
    v_r, v_z, v_n = np.split(h @ params["recurrent_kernel"], 3)
    r, z = sigmoid(u_r + v_r), sigmoid(u_z + v_z)
    n = np.tanh(u_n + r * (v_n + params["recurrent_bias"]))
    return ((1 - z) * n + z * h,)


def rnn_step(params, x, state):
    return (np.tanh(x @ params["kernel"] + state[0] @ params["recurrent_kernel"] + params["bias"]),)


def relu_step(params, x, state):
    a = x @ params["kernel"] + state[0] @ params["recurrent_kernel"] + params["bias"]
    return (np.where(a.real > 0, a, 0),)


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step, "relu": relu_step}


def run(name, params, x, *, lengths=None, starts=None, carry=None, initial=None, reverse=False):
    """y [B, T, H] and the last state, a tuple of [B, H]; `initial` is a tuple of [H]."""
    batch, time = x.shape[:2]
    hidden = params["recurrent_kernel"].shape[0]
    parts = 2 if name == "lstm" else 1
    kind = np.result_type(x, *params.values(), *(carry or ()), *(initial or ()))
    initial = tuple(np.zeros(hidden) for _ in range(parts)) if initial is None else initial
    y = np.zeros((batch, time, hidden), kind)
    last = tuple(np.zeros((batch, hidden), kind) for _ in range(parts))
    for b in range(batch):
        state = initial if carry is None else tuple(part[b] for part in carry)
        count = time if lengths is None else min(max(int(lengths[b]), 0), time)
        for t in reversed(range(count)) if reverse else range(count):
            entered = t + 1 if reverse else t
            if starts is not None and entered < count and starts[b, entered]:
                state = initial
            state = STEPS[name](params, x[b, t], state)
            y[b, t] = state[0]
        for part, end in zip(last, state, strict=True):
            part[b] = end
    return y, last


def gradients(f, arrays):
    """The gradient of the number f(arrays) by each entry of each array of a dict."""
    made = {}
    for name, array in arrays.items():
        made[name] = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[index] += 1j * STEP
            made[name][index] = f({**arrays, name: moved}).imag / STEP
    return made
