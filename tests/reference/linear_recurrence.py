"""Linear recurrences one row and one step at a time, in float64.

The cells' loops are analytic, so that they also run on complex numbers: a step of 1e-30 i in any of their inputs gives
the derivative to the last digit. The state of the LRU is kept as its real and its imaginary part for that.
"""

import numpy as np


def steps_of(row, time, lengths, starts, reverse):
    """(t, whether a sequence begins there) in the order in which the row is run."""
    n = time if lengths is None else min(max(lengths[row], 0), time)
    begins = np.zeros(n + 1, bool)
    if starts is not None:
        begins[:n] = starts[row, :n]
    # Backwards a sequence is entered at its last step, the one before another begins.
    return [(t, begins[t + 1]) for t in reversed(range(n))] if reverse else [(t, begins[t]) for t in range(n)]


def linear_recurrence(a, b, carry, lengths=None, starts=None, reverse=False):
    """(h, the last state)."""
    h, last = np.zeros_like(b), carry.copy()
    for row in range(len(b)):
        for t, begins in steps_of(row, b.shape[1], lengths, starts, reverse):
            h[row, t] = last[row] = a[row, t] * (0 if begins else last[row]) + b[row, t]
    return h, last


def linear_recurrence_gradients(a, b, carry, dh, dlast, lengths=None, starts=None, reverse=False):
    """(da, db, dcarry) of sum(h * dh) + sum(last * dlast)."""
    h, _ = linear_recurrence(a, b, carry, lengths, starts, reverse)
    da, db, dcarry = np.zeros_like(a), np.zeros_like(b), dlast.copy()
    for row in range(len(b)):
        steps = steps_of(row, b.shape[1], lengths, starts, reverse)
        before = [carry[row], *(h[row, t] for t, _ in steps)]
        for (t, begins), state in reversed(list(zip(steps, before, strict=False))):
            db[row, t] = dcarry[row] + dh[row, t]
            da[row, t] = 0 if begins else db[row, t] * state
            dcarry[row] = 0 if begins else db[row, t] * a[row, t]
    return da, db, dcarry


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def proposed(candidate, v):
    return v if candidate == "linear" else np.where(v.real >= 0, v + 0.5, sigmoid(v))


def min_gru(params, x, h, candidate="linear"):
    """One step of one row: (y, the state after it)."""
    u, v = np.split(x @ params["kernel"] + params["bias"], 2)
    h = (1 - sigmoid(u)) * h + sigmoid(u) * proposed(candidate, v)
    return h, h


def min_lstm(params, x, h, candidate="linear"):
    i, f, n = np.split(x @ params["kernel"] + params["bias"], 3)
    i, f = sigmoid(i), sigmoid(f)
    h = f / (f + i) * h + i / (f + i) * proposed(candidate, n)
    return h, h


def lru(params, x, h):
    (real, imaginary), decay = np.split(h, 2), np.exp(-np.exp(params["nu_log"]))
    cos, sin = decay * np.cos(np.exp(params["theta_log"])), decay * np.sin(np.exp(params["theta_log"]))
    b_real, b_imaginary = np.exp(params["gamma_log"]) * np.split(x @ params["input_kernel"], 2)
    real, imaginary = cos * real - sin * imaginary + b_real, sin * real + cos * imaginary + b_imaginary
    c_real, c_imaginary = np.split(params["output_kernel"], 2)
    return real @ c_real - imaginary @ c_imaginary + x @ params["skip_kernel"], np.concatenate([real, imaginary])


def rg_lru(params, x, h, c=8.0):
    r, i = np.split(sigmoid(x @ params["kernel"] + params["bias"]), 2)
    a = sigmoid(params["decay"]) ** (c * r)
    h = a * h + np.sqrt(1 - a**2) * i * x
    return h, h


def over_time(step, params, x, carry, features, lengths=None, starts=None, reverse=False):
    """(y, the last state) of a cell over x [B, T, D]."""
    dtype = np.result_type(x, carry, *params.values())
    y, last = np.zeros((*x.shape[:2], features), dtype), carry.astype(dtype)
    for row in range(len(x)):
        for t, begins in steps_of(row, x.shape[1], lengths, starts, reverse):
            y[row, t], last[row] = step(params, x[row, t], 0 * last[row] if begins else last[row])
    return y, last


def gradients(function, arrays, dy, dlast):
    """Of sum(y * dy) + sum(last * dlast), to each of a dictionary of arrays, by complex steps."""
    found = {name: np.zeros(array.shape) for name, array in arrays.items()}
    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[index] += 1e-30j
            y, last = function({**arrays, name: moved})
            found[name][index] = (np.sum(y * dy) + np.sum(last * dlast)).imag / 1e-30
    return found
