from hypothesis import given
from hypothesis import strategies as st

from kvsim.caches.blocks import FreeQueue


@given(st.integers(0, 8), st.lists(st.tuples(st.sampled_from(["pop", "remove", "back", "front"]), st.integers(0, 7))))
def test_a_free_queue_behaves_like_a_list(num_blocks, operations):
    queue, model, outside = FreeQueue(range(num_blocks)), list(range(num_blocks)), []
    for operation, number in operations:
        if operation == "pop" and model:
            block = model.pop(0)
            assert queue.pop_first() == block
            outside.append(block)
        elif operation == "remove" and model:
            block = model.pop(number % len(model))
            queue.remove(block)
            outside.append(block)
        elif operation in ("back", "front"):
            group, outside = outside[:number], outside[number:]
            (queue.extend if operation == "back" else queue.extend_front)(group)
            model = model + group if operation == "back" else group + model
        assert list(queue) == model
        assert len(queue) == len(model)
        assert all(block in queue for block in model) and not any(block in queue for block in outside)
