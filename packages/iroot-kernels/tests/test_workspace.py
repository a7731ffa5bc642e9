"""Named buffers."""

import torch
from iroot_kernels import Workspace


def test_a_buffer_is_made_once_per_shape_dtype_and_name():
    ws = Workspace()
    first = ws.buffer("Y", (2, 3, 3), torch.float32, "cpu")
    assert ws.buffer("Y", [2, 3, 3], torch.float32, torch.device("cpu")) is first
    assert ws.buffer("X", (2, 3, 3), torch.float32, "cpu") is not first
    assert ws.nbytes == 2 * 2 * 9 * 4
    wider = ws.buffer("Y", (2, 3, 3), torch.float64, "cpu")
    assert wider.dtype is torch.float64
    assert ws.nbytes == 2 * 9 * (4 + 8)
    assert ws.buffer("Y", (1, 3, 3), torch.float64, "cpu").shape == (1, 3, 3)
    assert ws.like("Z", wider).shape == wider.shape


def test_other_is_never_the_one_held():
    ws, held = Workspace(), torch.zeros(1, 2, 2)
    for _ in range(4):
        following = ws.other("X", held)
        assert following is not held
        held = following
    assert ws.nbytes == 2 * 4 * 4


def test_a_buffer_made_in_inference_mode_serves_outside_it():
    ws = Workspace()
    with torch.inference_mode():
        ws.buffer("Y", (2, 2), torch.float32, "cpu")
    ws.buffer("Y", (2, 2), torch.float32, "cpu").zero_()


def test_the_recorder_of_allocations_sees_one(allocations):
    with allocations(9) as seen:
        torch.ones(3, 3).view(9).add_(1)
    assert len(seen.made) == 1


def test_constants_are_held_while_a_graph_is_recorded_and_only_then(monkeypatch):
    ws, first, second, third = Workspace(), object(), object(), object()
    assert ws.hold(first) is first and ws._held == [] and not ws.recording
    ws.recording = True
    assert ws.hold(second) is second and ws._held == [second]
    ws.recording = False
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert ws.recording and ws.hold(third) is third and ws._held == [second, third]


def test_all_buffers_can_be_had():
    ws = Workspace()
    found = {ws.buffer(name, (2, 2), torch.float32, "cpu") for name in "XYZ"}
    assert set(ws.buffers) == found
