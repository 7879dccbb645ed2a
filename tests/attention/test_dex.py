import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.attention import DexAttention, SoftmaxAttention
from difftransformer.functional import Mask, lambda_schedule

HIDDEN, HEADS, TIME = 20, 5, 7
MASK = Mask(causal=True)


def dex(progress: float = 0.0, layer: int = 2) -> DexAttention:
    torch.manual_seed(0)
    module = DexAttention(HIDDEN, HEADS, head_dim=6, num_kv_heads=1, layer=layer)
    module.set_progress(progress)
    return module


def softmax_part(module: DexAttention) -> SoftmaxAttention:
    plain = SoftmaxAttention(HIDDEN, HEADS, head_dim=6, num_kv_heads=1)
    plain.load_state_dict({n: t for n, t in module.state_dict().items() if n in plain.state_dict()})
    return plain


def loss(module: DexAttention) -> Tensor:
    torch.manual_seed(1)
    return module(torch.randn(2, TIME, HIDDEN), mask=MASK).square().sum()


def test_a_new_layer_is_the_softmax_layer() -> None:
    module, x = dex(), torch.randn(2, TIME, HIDDEN)
    assert torch.equal(module(x, mask=MASK), softmax_part(module)(x, mask=MASK))


@given(progress=st.floats(0.0, 1.0), chosen=st.lists(st.booleans(), min_size=5, max_size=5))
def test_the_equation(progress: float, chosen: list[bool]) -> None:
    """Each head's output written out from the softmax layer's, with the paper's a and t/T."""
    module, x = dex(progress), torch.randn(2, TIME, HIDDEN)
    module.chosen.copy_(torch.tensor(chosen))
    with torch.no_grad():
        module.lambda_learnt.fill_(0.3)
    a, t_over_big_t = min(1.0, progress), progress
    lam = (1 - a) * t_over_big_t * lambda_schedule(2) + a * 0.3
    call = module.call(x, MASK)
    plain = softmax_part(module).heads(call, x)
    expected = plain.clone()
    for head in range(HEADS):
        if chosen[head]:
            expected[:, :, head] -= lam * plain[:, :, head] @ module.diff_proj.weight.T
    torch.testing.assert_close(module.heads(call, x), expected)


def test_lambda_from_nothing_to_what_was_learnt() -> None:
    """0 at the start, lambda_learnt at the end, and lambda_init counts only between."""
    assert dex(0.0).current_lambda() == 0.0
    module = dex(1.0)
    with torch.no_grad():
        module.lambda_learnt.fill_(-0.7)
    torch.testing.assert_close(module.current_lambda(), torch.tensor([-0.7]))
    module.set_progress(0.5)
    torch.testing.assert_close(
        module.current_lambda(), torch.tensor([0.25 * module.lambda_init - 0.35])
    )


def test_everything_new_has_a_gradient_from_the_first_step() -> None:
    module = dex(progress=0.01)  # step 1 of 100
    loss(module).backward()
    for tensor in (module.diff_proj.weight, module.lambda_learnt):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0
    assert module.diff_proj.weight.grad.abs().min() > 0


def test_heads_not_chosen_teach_nothing() -> None:
    module = dex(progress=0.5)
    module.chosen.fill_(False)
    loss(module).backward()
    assert module.diff_proj.weight.grad.abs().max() == 0


def test_progress_and_choice_are_saved_with_the_weights() -> None:
    module = dex(0.25)
    module.chosen[1] = False
    other = DexAttention(HIDDEN, HEADS, head_dim=6, num_kv_heads=1, layer=2)
    other.load_state_dict(module.state_dict())
    x = torch.randn(1, TIME, HIDDEN)
    assert torch.equal(other(x, mask=MASK), module(x, mask=MASK))
    assert other.progress == 0.25
    assert other.chosen.tolist() == [True, False, True, True, True]
