from dataclasses import dataclass

import pytest
import torch

from zsr.attacks.batch import Places, chosen, put
from zsr.models.passes import filled

CPU = torch.device("cpu")


@dataclass
class Count:
    rows: torch.Tensor
    passes: torch.Tensor


def run(needed: list[int], size: int | None):
    """Images that need so many passes each: passes that each had while under way, and the sizes of the batches."""
    had, sizes, wanted = torch.zeros(len(needed), dtype=torch.long), [], torch.tensor(needed)

    def begin(rows):
        return Count(rows, torch.zeros_like(rows))

    places = Places(len(needed), size, CPU, begin)
    while places.occupied:
        state = places.state
        sizes.append(len(state.rows))
        state.passes = state.passes + 1
        had[state.rows] = torch.maximum(had[state.rows], state.passes.minimum(wanted[state.rows]))
        places.release(state.passes >= wanted[state.rows])
    return had.tolist(), sizes


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, None])
def test_every_image_has_the_passes_it_needs(size):
    needed = [3, 1, 4, 1, 5, 9, 2, 6]
    assert run(needed, size)[0] == needed


def test_the_shape_stays_while_images_wait_and_then_shrinks():
    had, sizes = run([1, 1, 1, 1, 1, 1, 7, 1, 1, 1, 1, 1], 4)
    # 0-3, 4-7, then 6 stays beside 8-10, then beside 11 alone, and is last alone
    assert sizes == [4, 4, 4, 2, 1, 1, 1, 1] and had[6] == 7


def test_the_cost_is_that_of_the_passes_where_places_are_full():
    assert len(run([2] * 40, 8)[1]) == 10
    assert run([2] * 40, 8)[1] == [8] * 10


def test_no_image_is_no_pass():
    assert run([], 4) == ([], [])


def test_batches_are_of_one_size_and_the_last_is_filled_up():
    assert [rows.tolist() for rows in filled(7, 3, CPU)] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [rows.tolist() for rows in filled(2, 4, CPU)] == [[0, 1, 0, 0]]
    assert [rows.tolist() for rows in filled(2, None, CPU)] == [[0, 1]]


def test_a_state_is_chosen_row_by_row():
    one, two = (Count(torch.arange(3), torch.full((3, 2), value)) for value in (1, 2))
    picked = chosen(torch.tensor([True, False, True]), one, two)
    assert picked.passes.tolist() == [[1, 1], [2, 2], [1, 1]]


def test_fields_that_share_a_tensor_are_put_apart():
    shared = torch.zeros(3, dtype=torch.long)
    state = Count(shared, shared)
    put(state, torch.tensor([1]), Count(torch.tensor([7]), torch.tensor([9])))
    assert state.rows.tolist() == [0, 7, 0] and state.passes.tolist() == [0, 9, 0] and not shared.any()
