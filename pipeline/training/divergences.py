"""The divergences between student and teacher at each token, with their gradients in closed form.

A divergence takes the log-probabilities of student and teacher, (n, V) in fp32, both at the temperature. It returns its
value (n,) in nats and its gradient (n, V) with respect to the student's logits divided by the temperature. It works in
place and overwrites both arguments, because they are the largest tensors of a training.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipeline.config import DistillConfig, Loss

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last dimension; overwrites the logits."""
    if temperature != 1:
        logits = logits.div_(temperature)
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) = sum p log(p/q), where p is the teacher's distribution. Its gradient is q - p (Hinton et al.
    2015)."""
    p = log_p.exp()
    value = log_p.sub_(log_q).mul_(p).sum(1)
    return value, log_q.exp_().sub_(p)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q || p) = sum q log(q/p). Its gradient is q (log(q/p) - KL)."""
    ratio = log_p.neg_().add_(log_q)
    q = log_q.exp_()
    value = (ratio * q).sum(1)
    return value, ratio.sub_(value[:, None]).mul_(q)


def js(log_q: Tensor, log_p: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The generalised Jensen-Shannon divergence, w KL(p || m) + (1-w) KL(q || m) with m = w p + (1-w) q (Lin 1991).

    w = 1/2 gives the symmetric divergence. Its gradient is (1-w) q (log(q/m) - KL(q || m)).
    """
    log_p.add_(math.log(weight))  # from here on both are weighted, so that m is their sum
    log_q.add_(math.log1p(-weight))
    log_m = torch.logaddexp(log_p, log_q)
    p = log_p.exp()
    from_teacher = p.mul_(log_p.sub_(log_m)).sum(1)
    del p
    ratio = log_m.neg_().add_(log_q)
    q = log_q.exp_()
    from_student = (ratio * q).sum(1)
    entropy = -weight * math.log(weight) - (1 - weight) * math.log1p(-weight)
    value = from_teacher + from_student + entropy
    return value, ratio.sub_(from_student[:, None] / (1 - weight)).mul_(q)


def divergence_of(config: DistillConfig) -> Divergence:
    """The configured divergence; config.distils must be true."""
    named: dict[Loss, Divergence] = {
        Loss.forward_kl: forward_kl,
        Loss.reverse_kl: reverse_kl,
        Loss.js: partial(js, weight=config.js_weight),
    }
    return named[config.loss]
