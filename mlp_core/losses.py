"""The cross-entropy loss and its gradient."""

import numpy as np

from mlp_core.activations import softmax


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each sample, in nats, from logits.

    -log softmax(z)_y = log sum_k exp(z_k) - z_y, with the row's maximum taken
    out of the logarithm, so that no probability is ever rounded to zero: the
    loss is finite as long as the differences between the logits are.

    Parameters
    ----------
    logits : ndarray of shape (n, K)
    labels : ndarray of shape (n,)
        Class indices, 0 to K - 1.

    Returns
    -------
    ndarray of shape (n,)
    """
    # A difference beyond the largest number is an infinite loss.
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    log_normalizer = np.log(np.exp(shifted).sum(axis=1))
    return log_normalizer - shifted[np.arange(len(labels)), labels]


def cross_entropy_gradient(
    logits: np.ndarray,
    labels: np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient of the mean cross-entropy with respect to the logits.

    It is (softmax(z) - onehot(y)) / n.

    Parameters
    ----------
    logits : ndarray of shape (n, K)
    labels : ndarray of shape (n,)
        Class indices, 0 to K - 1.
    out : ndarray of shape (n, K), optional
        The array for the result.

    Returns
    -------
    ndarray of shape (n, K)
    """
    delta = softmax(logits, out)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    return delta
