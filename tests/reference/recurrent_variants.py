"""The variants of recurrent networks as loops over rows and steps in float64, their noise given as numbers.

`noise` holds arrays [B, T, ...] by name: `fed` and `update` are factors (0, or 1 over what is kept), `zoneout_h` and
`zoneout_c` the part of the state that stays.
"""

import numpy as np

from tests.reference.recurrent import sigmoid


def normalise(v):
    centred = v - v.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5)


def lstm_step(params, x, state, noise):
    h, c = state
    u, v = x @ params["kernel"], (h * noise["fed"]) @ params["recurrent_kernel"]
    if "input_scale" in params:
        u, v = normalise(u) * params["input_scale"], normalise(v) * params["recurrent_scale"]
    a = u + v + params["bias"]
    coupled = len(a) == 3 * len(c)
    i, *f, g, o = np.split(a, 3 if coupled else 4)
    if "peephole" in params:
        p_i, *p_f, p_o = np.split(params["peephole"], 2 if coupled else 3)
        i, f, seen = i + p_i * c, [f + p * c for f, p in zip(f, p_f, strict=True)], p_o
    i, g = sigmoid(i), np.tanh(g) * noise["update"]
    f = 1 - i if coupled else sigmoid(f[0])
    after = f * c + i * g
    o = sigmoid(o + seen * after if "peephole" in params else o)
    out = normalise(after) * params["cell_scale"] + params["cell_bias"] if "cell_scale" in params else after
    out = o * np.tanh(out)
    out = out @ params["projection"] if "projection" in params else out
    return zoned(noise["zoneout_h"], h, out), zoned(noise["zoneout_c"], c, after)


def gru_step(params, x, state, noise):
    (h,) = state
    u_r, u_z, u_n = np.split(x @ params["kernel"] + params["bias"], 3)
    v_r, v_z, v_n = np.split((h * noise["fed"]) @ params["recurrent_kernel"], 3)
    r, z = sigmoid(u_r + v_r), sigmoid(u_z + v_z)
    n = np.tanh(u_n + r * (v_n + params["recurrent_bias"])) * noise["update"]
    return (zoned(noise["zoneout_h"], h, (1 - z) * n + z * h),)


def rnn_step(params, x, state, noise):
    (h,) = state
    after = np.tanh(x @ params["kernel"] + (h * noise["fed"]) @ params["recurrent_kernel"] + params["bias"])
    return (zoned(noise["zoneout_h"], h, after),)


def conv_lstm_step(params, x, state, noise):
    """x [H, W, C], state [H, W, F]."""
    h, c = state
    a = conv(x, params["kernel"]) + conv(h * noise["fed"], params["recurrent_kernel"]) + params["bias"]
    i, f, g, o = np.split(a, 4, axis=-1)
    p_i, p_f, p_o = np.split(params["peephole"], 3, axis=-1) if "peephole" in params else (0, 0, 0)
    after = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g) * noise["update"]
    out = sigmoid(o + p_o * after) * np.tanh(after)
    return zoned(noise["zoneout_h"], h, out), zoned(noise["zoneout_c"], c, after)


def conv(x, kernel):
    """A convolution of steps of 1 with as many zeros around x as keep its size."""
    height, width = x.shape[:2]
    rows, columns = kernel.shape[:2]
    top, left = (rows - 1) // 2, (columns - 1) // 2
    y = np.zeros((height, width, kernel.shape[-1]), np.result_type(x, kernel))
    for i in range(height):
        for j in range(width):
            for m in range(rows):
                for n in range(columns):
                    if 0 <= i + m - top < height and 0 <= j + n - left < width:
                        y[i, j] += x[i + m - top, j + n - left] @ kernel[m, n]
    return y


def zoned(part, before, after):
    return part * before + (1 - part) * after


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step, "conv_lstm": conv_lstm_step}


def run(name, params, x, carry, *, noise=None, lengths=None, starts=None, initial=None, reverse=False):
    """y and the last state, as the carry: a tuple of [B, ...]; `initial` is the state at a start."""
    batch, time = x.shape[:2]
    kind = np.result_type(x, *params.values(), *carry, *(initial or ()))
    noise = {"fed": 1, "update": 1, "zoneout_h": 0, "zoneout_c": 0, **(noise or {})}
    noise = {
        key: np.broadcast_to(value, (batch, time)) if np.ndim(value) == 0 else value for key, value in noise.items()
    }
    y = np.zeros((batch, time, *carry[0].shape[1:]), kind)
    last = tuple(np.zeros(part.shape, kind) for part in carry)
    for b in range(batch):
        state = tuple(part[b] for part in carry)
        count = time if lengths is None else int(lengths[b])
        for t in reversed(range(count)) if reverse else range(count):
            entered = t + 1 if reverse else t
            if starts is not None and entered < count and starts[b, entered]:
                state = initial
            state = STEPS[name](params, x[b, t], state, {key: value[b, t] for key, value in noise.items()})
            y[b, t] = state[0]
        for part, end in zip(last, state, strict=True):
            part[b] = end
    return y, last
