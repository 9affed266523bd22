"""The tasks of a PyTorch library, plain and compiled, given its functions."""

from collections.abc import Callable, Iterable

import torch

from libraries import BATCHES, Size


def network(inputs: int, outputs: int, hidden: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, outputs),
    )


def torch_tasks(
    size: Size,
    log_prob: Callable[[torch.Tensor], torch.Tensor],
    sample: Callable[[int], torch.Tensor],
    parameters: Iterable[torch.nn.Parameter],
) -> dict[str, Callable[[int], None]]:
    """`log_prob(x)` returns `[N]`; `sample(N)` returns `[N, D]`."""
    optimizer = torch.optim.Adam(list(parameters), 1e-3, fused=True)
    batches = torch.tensor(size.data(BATCHES)).split(size.batch)

    def tasks(loss, log_prob, sample):
        def train(repeats):
            for index in range(repeats):
                optimizer.zero_grad()
                loss(batches[index % BATCHES]).backward()
                optimizer.step()

        @torch.no_grad()
        def score(repeats):
            for index in range(repeats):
                log_prob(batches[index % BATCHES])

        @torch.no_grad()
        def draw(repeats):
            for _ in range(repeats):
                sample(size.batch)

        return {"train": train, "log_prob": score, "sample": draw}

    def loss(x):
        return -log_prob(x).mean()

    compiled = tasks(torch.compile(loss), torch.compile(log_prob), torch.compile(sample))
    return tasks(loss, log_prob, sample) | {f"{name}, compiled": run for name, run in compiled.items()}
