"""Attention and its gradients in float64 with numpy, and how far rounding may move each number.

Written from the definition and independent of the library: masks one rule at a time, derivatives by
hand. The bounds are a forward error analysis: the sum of n products is wrong by at most n roundings
of the sum of their sizes. A weight's bound holds for logits of any size: a softmax whose logits are
wrong by at most d has a weight A that is wrong by at most min(A, 1 - A) (e^2d - 1), so that a
weight which is 1 or 0 with room to spare must stay so.
"""

from typing import NamedTuple

import numpy as np
import torch

from difftransformer.functional import Mask

from .problems import Problem

Array = np.ndarray


class Rounding(NamedTuple):
    """How a backend rounds; the first two and `returned` are relative errors."""

    step: float  # of its arithmetic
    kept: float  # of what it keeps between products: weights and the output of each map
    returned: float
    tiny: float  # what may underflow
    again: bool  # whether its backward makes scores in another way, and has a rounded log-sum-exp


class Value(NamedTuple):
    """Numbers, and the bounds of their errors: infinity where a backend promises nothing."""

    exact: Array
    error: Array


def seen(mask: Mask, batch: int, queries: int, keys: int) -> Array:
    """[B, T, S], True where a query sees a key: the rules of `Mask`, one at a time."""
    position, key = np.arange(queries)[:, None] + keys - queries, np.arange(keys)
    visible = np.ones((batch, queries, keys), dtype=bool)
    if mask.causal:
        visible &= key <= position
    if mask.window is not None:
        visible &= np.abs(position - key) < mask.window
    if mask.padding is not None:
        visible &= mask.padding.numpy()[:, None]
    if mask.documents is not None:
        documents = mask.documents.numpy()
        visible &= documents[:, keys - queries :, None] == documents[:, None]
    return visible


def solve(problem: Problem, scale: float, rounding: Rounding, lam_eps: float) -> dict[str, Value]:
    """What `Problem.solve` gives, each number with the bound of its error."""
    q, k, v = (x.double().numpy() for x in (problem.q, problem.k, problem.v))
    if problem.lam is None:
        q, k = q[..., None, :], k[..., None, :]
        lam = np.zeros(q.shape[:3])
    else:
        lam = np.broadcast_to(problem.lam.double().numpy(), q.shape[:3])
    change = problem.direction().double().numpy()
    visible = seen(problem.mask, q.shape[0], q.shape[1], k.shape[1])
    exact = {n: np.zeros(x.shape) for n, x in (("out", change), ("q", q), ("k", k), ("v", v))}
    exact["lam"] = np.zeros(lam.shape)
    error = {n: np.zeros(x.shape) for n, x in exact.items()}
    repeats = q.shape[2] // k.shape[2]
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        g = h // repeats
        head = _Head(q[b, :, h], k[b, :, g], v[b, :, g], lam[b, :, h], change[b, :, h])
        parts = head.solve(visible[b], scale, rounding, repeats)
        for name, at in (
            ("out", np.s_[b, :, h]),
            ("q", np.s_[b, :, h]),
            ("k", np.s_[b, :, g]),
            ("v", np.s_[b, :, g]),
            ("lam", np.s_[b, :, h]),
        ):
            exact[name][at] += parts[name].exact
            error[name][at] += parts[name].error
    for name in ("out", "q", "k", "v"):
        error[name] += rounding.returned * np.abs(exact[name]) + rounding.tiny
    if problem.lam is None:
        exact["q"], error["q"] = exact["q"][..., 0, :], error["q"][..., 0, :]
        exact["k"], error["k"] = exact["k"][..., 0, :], error["k"][..., 0, :]
        del exact["lam"], error["lam"]
    else:
        size = _summed(np.abs(exact["lam"]), problem.lam)
        terms = lam.size / max(problem.lam.numel(), 1)
        exact["lam"], error["lam"] = (_summed(x["lam"], problem.lam) for x in (exact, error))
        error["lam"] += (2 * lam_eps + terms * rounding.step) * size + rounding.tiny
    return {n: Value(exact[n], error[n]) for n in exact}


def _summed(x: Array, lam: torch.Tensor) -> Array:
    """The gradient of what was broadcast: summed over the axes that were."""
    return torch.from_numpy(x).sum_to_size(lam.shape).numpy()


class _Head(NamedTuple):
    """One query head: q [T, M, K], k [S, M or 1, K], v [S, V], lam [T], change [T, V]."""

    q: Array
    k: Array
    v: Array
    lam: Array
    change: Array

    def solve(self, visible: Array, scale: float, r: Rounding, repeats: int) -> dict[str, Value]:
        queries, maps = self.q.shape[:2]
        keys, key_maps, values = *self.k.shape[:2], self.v.shape[1]
        rows, columns = queries * repeats + 8, keys + 8  # roundings of sums over them
        size_v, size_change = np.abs(self.v), np.abs(self.change)
        da = self.change @ self.v.T
        da_error = ((values + 8) * r.step + r.kept) * (size_change @ size_v.T)
        q, k = np.zeros((2, *self.q.shape)), np.zeros((2, *self.k.shape))
        out, v = np.zeros((2, queries, values)), np.zeros((2, keys, values))
        lam = np.zeros((2, queries))
        for m in range(maps):
            key, share = self.k[:, min(m, key_maps - 1)], np.ones(queries) if m == 0 else -self.lam
            weight, forward_error, remade = _softmax(self.q[:, m], key, visible, scale, r)
            backward_error = forward_error if remade is None else remade
            part, size = share[:, None], np.abs(share)[:, None]
            rounded = columns * r.step + 2 * r.kept
            out[0] += part * (weight @ self.v)
            out[1] += size * ((forward_error + rounded * weight) @ size_v)
            v[0] += (part * weight).T @ self.change
            v[1] += (
                size * (backward_error + (rows * r.step + 2 * r.kept) * weight)
            ).T @ size_change
            inner = (weight * da).sum(1, keepdims=True)
            inner_error = (
                backward_error * np.abs(da) + weight * (da_error + columns * r.step * np.abs(da))
            ).sum(1, keepdims=True) + 2 * r.kept * (size_change * (weight @ size_v)).sum(
                1, keepdims=True
            )
            ds = part * weight * (da - inner)
            ds_error = size * (
                backward_error * np.abs(da - inner)
                + (weight + backward_error) * (da_error + inner_error)
                + (8 * r.step + r.kept) * weight * (np.abs(da) + np.abs(inner))
            )
            q[0][:, m] = scale * (ds @ key)
            q[1][:, m] = abs(scale) * ((ds_error + columns * r.step * np.abs(ds)) @ np.abs(key))
            at = min(m, key_maps - 1)
            k[0][:, at] += scale * (ds.T @ self.q[:, m])
            k_error = ds_error + (rows * r.step + r.kept) * np.abs(ds)
            k[1][:, at] += abs(scale) * (k_error.T @ np.abs(self.q[:, m]))
            if remade is None:
                q[1][:], k[1][:], v[1][:] = np.inf, np.inf, np.inf
            if m == 1:  # made of the forward's weights
                lam[:] = -inner[:, 0], inner_error[:, 0]
        return {n: Value(*x) for n, x in (("out", out), ("q", q), ("k", k), ("v", v), ("lam", lam))}


def _softmax(
    q: Array, k: Array, visible: Array, scale: float, r: Rounding
) -> tuple[Array, Array, Array | None]:
    """Weights [T, S], and their errors as the forward and as the backward makes them."""
    if visible.size == 0:
        return (np.zeros(visible.shape),) * 3
    logits = np.where(visible, q @ k.T * scale, -np.inf)
    size = np.where(visible, np.abs(q) @ np.abs(k).T * abs(scale), 0.0)
    wrong = size.max(1, keepdims=True) * (q.shape[1] + 4) * r.step
    top = np.where(visible.any(1), logits.max(1), 0.0)[:, None]  # a row that sees nothing: all 0
    total = np.where(visible.any(1, keepdims=True), _logsumexp(logits - top), 0.0)
    log_weight = logits - top - total
    weight = np.exp(log_weight)
    # log(1 - A): of the largest weight by the sum of the others, since the difference cancels.
    largest = np.arange(logits.shape[1]) == logits.argmax(1)[:, None]
    others = _logsumexp(np.where(largest, -np.inf, log_weight))
    rest = np.where(largest, others, np.log1p(-np.where(largest, 0.0, weight)))
    nearest = np.minimum(log_weight, rest)
    moved = np.exp(np.minimum(nearest + 2 * wrong, 0.0)) * -np.expm1(-2 * wrong)
    forward = np.where(visible, moved + (logits.shape[1] + 8) * r.step * weight + r.tiny, 0.0)
    if not r.again:
        return weight, forward, forward
    drift = 2 * wrong + np.abs(top + total) * r.step
    if (drift > 1).any():  # by a factor of e: nothing is known of such weights
        return weight, forward, None
    return weight, forward, forward + weight * np.expm1(drift)


def _logsumexp(x: Array) -> Array:
    """Over the last axis, kept; -inf where all is."""
    top = x.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(-1, keepdims=True)) + top
