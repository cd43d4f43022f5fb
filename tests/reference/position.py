"""Positions of attention as loops in float64."""

import math

import numpy as np


def rotate(x, positions, frequencies, magnitude=1.0):
    """x [B, T, N, H] with the first 2 * len(frequencies) features of each head turned, halves paired."""
    y = x.astype(np.float64)
    planes = len(frequencies)
    for b, t, n in np.ndindex(*x.shape[:3]):
        position = positions[b, t] if np.ndim(positions) == 2 else positions[t]
        for i, frequency in enumerate(frequencies):
            cos, sin = math.cos(position * frequency), math.sin(position * frequency)
            one, two = float(x[b, t, n, i]), float(x[b, t, n, i + planes])
            y[b, t, n, i] = magnitude * (one * cos - two * sin)
            y[b, t, n, i + planes] = magnitude * (two * cos + one * sin)
    return y


def frequencies(base, width):
    return [base ** (-2 * i / width) for i in range(width // 2)]


def llama3(base, width, factor, low, high, original):
    """By wavelength: short ones kept, long ones stretched, in between a mean weighted by the turns."""
    made = []
    for f in frequencies(base, width):
        wavelength = 2 * math.pi / f
        if wavelength < original / high:
            made.append(f)
        elif wavelength > original / low:
            made.append(f / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            made.append((1 - smooth) * f / factor + smooth * f)
    return made


def yarn(base, width, factor, original, fast, slow):
    """By plane: from the one that turns `fast` times, rounded down, to that of `slow`, rounded up."""

    def plane_of(turns):
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(plane_of(fast)), 0), min(math.ceil(plane_of(slow)), width - 1)
    made = []
    for i, f in enumerate(frequencies(base, width)):
        share = min(max((i - low) / (high - low), 0), 1)
        made.append(f / factor * share + f * (1 - share))
    return made


def sinusoidal(position, features, base=10000.0):
    y = np.zeros(features)
    for i in range(features // 2):
        angle = position / base ** (2 * i / features)
        y[2 * i], y[2 * i + 1] = math.sin(angle), math.cos(angle)
    return y


def alibi(slopes, query_positions, key_positions):
    bias = np.zeros((len(slopes), len(query_positions), len(key_positions)))
    for n, t, s in np.ndindex(*bias.shape):
        bias[n, t, s] = -slopes[n] * abs(query_positions[t] - key_positions[s])
    return bias


def relative_bucket(distance, num_buckets, max_distance, bidirectional):
    """The bucket of one distance; where a range begins is compared in whole numbers, without a logarithm."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    wide = num_buckets - exact
    # distance / exact >= (max_distance / exact)^(j / wide), raised to the power `wide` and multiplied out.
    reached = [j for j in range(wide) if distance**wide >= exact ** (wide - j) * max_distance**j]
    return first + exact + max(reached)
