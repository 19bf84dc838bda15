import torch

from zsr.training.muon import Muon, orthogonal

SHAPES = ((64, 192), (192, 64), (64, 64), (64, 192))


def parameters(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_steps_are_those_of_torch_up_to_its_bf16():
    ours, theirs = parameters(0), parameters(0)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(3):
        for p, q, gradient in zip(ours, theirs, parameters(step + 1)):
            p.grad, q.grad = gradient.detach().clone(), gradient.detach().clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q, start in zip(ours, theirs, parameters(0)):
        assert (p - q).norm() < 0.02 * (p - start).norm()


def test_singular_values_come_near_one_and_directions_stay():
    first, second = torch.randn(2, 20, 50, generator=torch.Generator().manual_seed(0))
    given = [first, second.mT, first[:, :30]]
    for matrix, result in zip(given, orthogonal(given), strict=True):
        u, s, v = torch.linalg.svd(result, full_matrices=False)
        assert result.shape == matrix.shape and 0.6 < s.min() and s.max() < 1.3
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.allclose(u @ v @ (left @ right).mT, u @ v @ (u @ v).mT, atol=0.3)


def test_a_continued_run_is_the_same_run():
    whole, part = parameters(0), parameters(0)
    first, second = Muon(whole, lr=0.01), Muon(part, lr=0.01)
    for step in range(4):
        if step == 2:
            state, second = second.state_dict(), Muon(part, lr=0.01)
            second.load_state_dict(state)
        for p, q, gradient in zip(whole, part, parameters(step + 1)):
            p.grad, q.grad = gradient.detach().clone(), gradient.detach().clone()
        first.step()
        second.step()
    assert all(torch.equal(p, q) for p, q in zip(whole, part))
